// Stands between libraft and its own disk and network backend (raft_uv).
//
// Disk: stops the node before libraft goes on when a write of term, vote or log fails or when an
// append takes longer than two seconds: a leader whose disk failed or hangs keeps leading
// otherwise. Network: bounds what waits for a peer that doesn't read; messages beyond it are
// dropped, which Raft allows. Snapshots: encodes the state in a worker before the backend gets it,
// makes a leader's snapshot a state in a worker, and has large memory freed there.
// Loop thread only.
#ifndef NODELINK_CLUSTER_RAFT_GUARD_H
#define NODELINK_CLUSTER_RAFT_GUARD_H

#include <raft.h>
#include <raft/uv.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "cluster/raft/mark.h"
#include "cluster/raft/reap.h"
#include "common/base/histogram.h"
#include "common/base/log.h"

#define NL_GUARD_PEERS_MAX 32

// What was told to one member, and what still waits to be written to it.
struct nl_guard_peer {
    uint64_t id;
    uint64_t seen_ms;         // monotonic; last message from it; 0: none
    uint64_t told_commit;     // the highest commit index a message to it lets it apply
    uint64_t hurry_until_ms;  // it waits for commits: see push.h
    // The last "accepted" that was sent to it: term, end of the log, when (monotonic ms; 0: none).
    uint64_t answered_term, answered_index, answered_ms;
    size_t queued_messages;
    size_t queued_bytes;
    bool snapshot_queued;
};

struct nl_guard_hooks {
    void *user;
    // The library returned from an event: state may have changed.
    void (*stepped)(void *user);
    void (*fatal)(void *user, const char *why);  // does not return
    // In a worker thread: encodes the frozen state into *ret (malloc). NL_OK or an error, which
    // is fatal.
    int (*snapshot_write)(void *user, uint8_t **ret, size_t *ret_len);
    // In a worker thread: makes ready what libraft will ask to be restored once the bytes are
    // stored.
    void (*snapshot_load)(void *user, const uint8_t *data, size_t len);
};

struct nl_guard_append;
struct nl_guard_snapshot;

struct nl_guard {
    struct raft_io io;     // what libraft is given
    struct raft_io inner;  // raft_uv's
    uv_loop_t *loop;
    struct nl_guard_hooks hooks;
    raft_io_tick_cb tick_cb;
    raft_io_recv_cb recv_cb;
    raft_io_close_cb close_cb;
    bool closing;
    bool inner_closed;
    struct nl_guard_append *appends;  // under way, oldest first
    bool hold_appends;
    struct nl_guard_snapshot *snapshot;  // under way, or NULL
    uint64_t read_index, read_term;      // of the snapshot that was last read to be sent
    struct nl_reaper reaper;             // closing waits for it
    struct nl_guard_peer peers[NL_GUARD_PEERS_MAX];
    unsigned n_peers;
    uint64_t watch_ms;  // when the watchdog last looked
    uint64_t snapshots_taken;
    uint64_t log_bytes, log_entries;  // appended since the last snapshot was begun
    struct nl_mark mark;              // opened by the owner
    struct nl_log_limit log_limit;
    struct nl_histogram_recent append_us;
};

// `guard->inner` is initialised by raft_uv_init before.
void nl_guard_init(struct nl_guard *guard, uv_loop_t *loop, const struct nl_guard_hooks *hooks);
// To be called about every 100 ms.
void nl_guard_watch(struct nl_guard *guard);
struct nl_guard_peer *nl_guard_peer(struct nl_guard *guard, uint64_t id);  // NULL: too many
// Appends that libraft asks for between these two begin at the release, behind the messages of the
// same step: a leader may write while its followers do (Ongaro's thesis, 10.2.1), and beginning a
// write costs as long as a message takes. libraft keeps an append's entries until its callback.
void nl_guard_hold_appends(struct nl_guard *guard);
void nl_guard_release_appends(struct nl_guard *guard);

#endif
