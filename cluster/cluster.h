// One node's part of the cluster: the Raft instance with the state machine, proposals from
// this node to whoever leads, linearizable reads, the links to the other nodes.
//
// Loop thread only. Owns the data directory. server/ builds on this header alone; raft.h is
// included in cluster/raft/ only.
#ifndef NODELINK_CLUSTER_CLUSTER_H
#define NODELINK_CLUSTER_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include <nodelink/v1/command.pb-c.h>
#include <nodelink/v1/peer.pb-c.h>

#include "cluster/state/state.h"
#include "common/rpc/rpc.h"

struct nl_cluster;

struct nl_cluster_member {
    uint64_t id;
    const char *name;
    const char *raft_address;
    const char *grpc_address;
};

struct nl_cluster_options {
    uv_loop_t *loop;
    struct nl_rpc *rpc;
    const char *cluster_name;
    uint64_t id;
    const char *name;
    const char *version;
    const char *data_dir;                     // made 0700 if missing
    const char *raft_address;                 // to listen on
    const struct nl_cluster_member *members;  // the first configuration, this node included
    size_t n_members;
    bool bootstrap;         // an empty data_dir may be made a node of a new cluster
    const uint8_t *secret;  // shared by the nodes: authenticates peers; never logged
    size_t secret_len;
    // Of the connections to and from the other nodes, gRPC's and Raft's: all three files; NULL:
    // plain.
    const struct nl_rpc_tls *tls;
    uint32_t heartbeat_ms;         // 0: 50
    uint32_t election_timeout_ms;  // 0: 300
    uint32_t snapshot_threshold;   // entries; 0: 8192
    uint32_t snapshot_trailing;    // entries kept behind a snapshot; 0: 4096
    uint64_t snapshot_bytes;       // of log since the last one bring it forward; 0: 256 MiB
    uint64_t disk_free_min;        // bytes; below it writes are refused; 0: 64 MiB
    struct nl_state_limits limits;
};

enum nl_cluster_role {
    NL_ROLE_UNAVAILABLE,
    NL_ROLE_FOLLOWER,
    NL_ROLE_CANDIDATE,
    NL_ROLE_LEADER,
    NL_ROLE_LEARNER,
};
const char *nl_cluster_role_name(enum nl_cluster_role role);

struct nl_cluster_events {
    // Each effect of each applied command, in order, on every node. Effects of the log's entries
    // that apply inside nl_cluster_open are not announced: after it, as after on_restored,
    // everything derived is built from the state. Must not call back into
    // nl_cluster_* functions that change something (post it to the loop instead); proposing is
    // allowed.
    void (*on_effect)(void *user, const struct nl_effect *effect);
    // The state was replaced by a snapshot: everything derived from effects must be rebuilt.
    void (*on_restored)(void *user);
    // Role, term or known leader changed. leader 0: none known.
    void (*on_role)(void *user, enum nl_cluster_role role, uint64_t term, uint64_t leader);
    // The node must stop at once (disk error, corrupt log, bug): says why; the callee exits the
    // process without touching the data directory. Does not return.
    void (*on_fatal)(void *user, const char *why);
};

// Loads or makes the data directory (identity checked: cluster name, node id), starts Raft and
// the links. NL_EBUSY (address or directory in use), NL_EINVAL (another node's directory, empty
// directory without bootstrap), NL_ECORRUPT, NL_EIO: with a sentence in error_text that says what
// to do; nothing on disk was changed then.
int nl_cluster_open(const struct nl_cluster_options *options,
                    const struct nl_cluster_events *events, void *user, struct nl_cluster **ret,
                    char *error_text, size_t error_size);
// Pending proposals end with NL_EUNKNOWN or NL_ECANCELED. Then frees and calls done.
void nl_cluster_close(struct nl_cluster *cluster, void (*done)(void *user), void *user);

// Reads the TLS files again for new connections; those that are up stay (gRPC's look at the files
// by themselves). Blocking. NL_OK too without TLS; NL_EIO, NL_EINVAL, NL_ENOMEM with a sentence:
// the last good ones stay.
int nl_cluster_reload_tls(struct nl_cluster *cluster, char *error_text, size_t error_size);

const struct nl_state *nl_cluster_state(const struct nl_cluster *cluster);
uint64_t nl_cluster_id(const struct nl_cluster *cluster);
// The number of this start. Rises with every start that took part: it is on the disk before
// anything that carries it is sent.
uint64_t nl_cluster_boot(const struct nl_cluster *cluster);

// ---- writes ----------------------------------------------------------------

// `command` has its body set; proposer, boot, sequence, ack_below and time are stamped here. It is
// packed at once; the caller keeps it. Goes to the leader, wherever it is, in batches, and again
// after an ambiguous failure (the state machine drops duplicates) until it applied on this node
// or the deadline passed.
// result: NL_OK with the outcome, at `index` and `term` (already applied on this node);
// NL_ENOQUORUM, NL_EFULL, NL_ETIMEOUT: nothing was done and nothing will be;
// NL_EUNKNOWN: it was sent and no word came: it may apply. The sequence is then filled with a Noop
// in the background, so that afterwards it can't apply late.
typedef void (*nl_propose_cb)(void *user, int result, struct nl_outcome outcome, uint64_t index,
                              uint64_t term);
// NL_OK: done will be called (never from inside this call). NL_EFULL: too many in flight, or the
// disk is nearly full; NL_ETOOBIG: over 1 MiB; NL_ECANCELED: closing.
// timeout_ms 0: 10 s.
int nl_cluster_propose(struct nl_cluster *cluster, Nodelink__V1__Command *command,
                       uint64_t timeout_ms, nl_propose_cb done, void *user);

// ---- reads -----------------------------------------------------------------

// Linearizable: done(NL_OK) when this node has applied everything that was committed at the call.
// Reads asked for while a round is under way share the next one. NL_ENOQUORUM/NL_ETIMEOUT else.
typedef void (*nl_read_cb)(void *user, int result, uint64_t index, uint64_t term);
int nl_cluster_read(struct nl_cluster *cluster, uint64_t timeout_ms, nl_read_cb done, void *user);
// done when this node has applied min_index; NL_ETIMEOUT.
int nl_cluster_wait_applied(struct nl_cluster *cluster, uint64_t min_index, uint64_t timeout_ms,
                            nl_read_cb done, void *user);

// ---- peers -----------------------------------------------------------------

// For the composition: PeerService's Link is served by nl_cluster_serve_link (a stream method's
// start); its `authorize` is nl_cluster_authorize_peer, which ends a call without the right
// credential with UNAUTHENTICATED and returns false.
void nl_cluster_serve_link(struct nl_cluster *cluster, struct nl_rpc_call *call);
bool nl_cluster_authorize_peer(struct nl_cluster *cluster, struct nl_rpc_call *call);
// Channel to another node and the metadata that authenticates this one (both borrowed, valid until
// close); NULL for an unknown id. For calls of other PeerService methods.
struct nl_rpc_channel *nl_cluster_peer_channel(struct nl_cluster *cluster, uint64_t node_id);
const struct nl_rpc_metadata *nl_cluster_peer_metadata(struct nl_cluster *cluster);

// ---- status ----------------------------------------------------------------

struct nl_cluster_peer_status {
    uint64_t id;
    const char *name, *raft_address, *grpc_address;
    const char *role;       // "voter", "learner", "spare"
    uint64_t last_seen_ms;  // since the last word from it on any link; UINT64_MAX: never
    uint64_t boot;          // as it last said; 0: not known
    // While this node leads: the highest index known to be on that member's disk; else 0.
    uint64_t match_index;
};

struct nl_cluster_status {
    enum nl_cluster_role role;
    uint64_t term, commit, applied, leader;
    uint64_t leader_known_ms;  // for how long this leader is known; 0 when none
    uint64_t leaderless_ms;    // for how long none is known; 0 when one is
    bool quorum;               // leader: heard from a majority lately; follower: hears its leader
    uint64_t fsync_p99_us;
    uint32_t proposals_in_flight;
    uint64_t snapshots_taken;
    // The longest turn of the loop thread, waiting for events not counted: what an event may have
    // had to wait. In the last one to two seconds, in the last half to whole minute, since start.
    uint64_t loop_lag_us, loop_lag_minute_us, loop_lag_max_us;
};
void nl_cluster_status(struct nl_cluster *cluster, struct nl_cluster_status *ret);
// Members by id, this node included; NULL ends. Borrowed until the next loop turn.
const struct nl_cluster_peer_status *nl_cluster_peer_next(struct nl_cluster *cluster,
                                                          uint64_t after_id);
// Graceful: hands leadership to the most caught-up voter, if this node leads. done when it no
// longer leads or timeout_ms passed.
void nl_cluster_step_down(struct nl_cluster *cluster, uint64_t timeout_ms, void (*done)(void *user),
                          void *user);

#endif
