// The state machine (cluster/state) as libraft wants it. Loop thread only, but for
// nl_fsm_snapshot_write.
#ifndef NODELINK_CLUSTER_RAFT_FSM_H
#define NODELINK_CLUSTER_RAFT_FSM_H

#include <raft.h>

#include "cluster/state/state.h"

struct nl_fsm {
    struct raft_fsm raft;
    struct raft *instance;   // whose index counts
    struct nl_state *state;  // borrowed
    nl_effect_cb on_effect;
    void (*on_restored)(void *user);
    void (*on_fatal)(void *user, const char *why);
    void *user;
    struct nl_state_snapshot *snapshot;  // being taken, or NULL
    bool started;  // false during the first load: its restore is no news to anybody
};

// The fields but `raft` and `snapshot` are set by the caller before.
void nl_fsm_init(struct nl_fsm *fsm);
// In a worker thread: encodes the view frozen by libraft's call of `snapshot`.
int nl_fsm_snapshot_write(struct nl_fsm *fsm, uint8_t **ret, size_t *ret_len);

#endif
