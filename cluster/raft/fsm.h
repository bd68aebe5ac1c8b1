// The state machine (cluster/state) as libraft wants it. Loop thread only, but for
// nl_fsm_snapshot_write and nl_fsm_snapshot_load.
#ifndef NODELINK_CLUSTER_RAFT_FSM_H
#define NODELINK_CLUSTER_RAFT_FSM_H

#include <raft.h>

#include "cluster/raft/reap.h"
#include "cluster/state/state.h"

struct nl_fsm {
    struct raft_fsm raft;
    struct raft *instance;   // whose index counts
    struct nl_state *state;  // borrowed
    nl_effect_cb on_effect;
    void (*on_restored)(void *user);
    void (*on_fatal)(void *user, const char *why);
    void *user;
    struct nl_reaper *reaper;            // for what is large; NULL: freed at once
    struct nl_state_snapshot *snapshot;  // being taken, or NULL
    // A leader's snapshot, read by a worker before libraft asks for it, and the bytes it is of;
    // or NULL.
    struct nl_state *loaded;
    const void *loaded_of;
    bool started;  // false during the first load: its restore is no news to anybody
};

// The fields up to `reaper` but `raft` are set by the caller before.
void nl_fsm_init(struct nl_fsm *fsm);
void nl_fsm_close(struct nl_fsm *fsm);  // frees what is left; also of a zeroed one
// In a worker thread: encodes the view frozen by libraft's call of `snapshot`.
int nl_fsm_snapshot_write(struct nl_fsm *fsm, uint8_t **ret, size_t *ret_len);
// In a worker thread: makes a state of the bytes that libraft will ask to be restored, so that the
// restore itself is an exchange of pointers. What is wrong with them shows at the restore.
void nl_fsm_snapshot_load(struct nl_fsm *fsm, const uint8_t *data, size_t len);

#endif
