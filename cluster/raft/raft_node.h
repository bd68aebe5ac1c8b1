// The Raft instance of this node with the state machine behind it. What cluster/ builds on; it
// hides libraft. Loop thread only.
#ifndef NODELINK_CLUSTER_RAFT_RAFT_NODE_H
#define NODELINK_CLUSTER_RAFT_RAFT_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "cluster/raft/frame.h"
#include "cluster/state/state.h"

struct nl_raft_node;

struct nl_raft_member {
    uint64_t id;
    const char *name;
    const char *address;
};

// Files in PEM. The certificate must be for the host of this node's address in the member list,
// and serve both ends of a connection.
struct nl_raft_tls {
    const char *ca_file, *cert_file, *key_file;
};

struct nl_raft_options {
    uv_loop_t *loop;
    const char *cluster_name;
    uint64_t id;
    const char *dir;  // libraft's files; exists
    const char *listen_address;
    const struct nl_raft_member *members;
    size_t n_members;
    bool bootstrap;  // dir is empty: write the first configuration
    const uint8_t *secret;
    size_t secret_len;
    const struct nl_raft_tls *tls;                   // NULL: connections are plain; not kept
    uint32_t heartbeat_ms, election_timeout_ms;      // not 0
    uint32_t snapshot_threshold, snapshot_trailing;  // not 0
    uint64_t snapshot_bytes;                         // not 0
    struct nl_state *state;                          // borrowed, outlives the node
};

struct nl_raft_events {
    // From inside the library: no nl_raft_* function may be called.
    nl_effect_cb on_effect;
    void (*on_restored)(void *user);
    // Outside the library, after anything that may have changed role, term, leader, commit or
    // applied index.
    void (*on_step)(void *user);
    // Does not return.
    void (*on_fatal)(void *user, const char *why);
};

enum nl_raft_role {
    NL_RAFT_UNAVAILABLE,
    NL_RAFT_FOLLOWER,
    NL_RAFT_CANDIDATE,
    NL_RAFT_LEADER,
    NL_RAFT_LEARNER,
};

struct nl_raft_info {
    enum nl_raft_role role;
    uint64_t term, commit, applied, last, leader;
    uint64_t snapshots_taken;
};

// Strings, members and secret are borrowed until nl_raft_close is done. Reads the directory
// (blocking). NL_EBUSY (address), NL_EINVAL, NL_ECORRUPT, NL_EIO, NL_ENOMEM with a sentence in
// error_text; handles may then need further turns of the loop to close.
int nl_raft_open(const struct nl_raft_options *options, const struct nl_raft_events *events,
                 void *user, struct nl_raft_node **ret, char *error_text, size_t error_size);
// Not from inside on_effect or on_restored. Pending requests end with NL_EUNKNOWN, then frees and
// calls done.
void nl_raft_close(struct nl_raft_node *node, void (*done)(void *user), void *user);

void nl_raft_info(struct nl_raft_node *node, struct nl_raft_info *ret);
// Of the appends of the last half to whole minute; 0: none. Costs a scan: not for every event.
uint64_t nl_raft_append_p99_us(const struct nl_raft_node *node);
// Monotonic ms of the last message of this member; 0: none yet.
uint64_t nl_raft_seen_ms(const struct nl_raft_node *node, uint64_t id);
// "voter", "learner", "spare"; NULL: not in the configuration.
const char *nl_raft_member_role(const struct nl_raft_node *node, uint64_t id);
// Somebody waits at this member for what is committed from now on (push.h).
void nl_raft_hurry(struct nl_raft_node *node, uint64_t id);
// Leader only: highest index known to be on that member's disk; else 0.
uint64_t nl_raft_match(const struct nl_raft_node *node, uint64_t id);

// result: NL_OK (committed and applied here) or NL_EUNKNOWN (leadership lost, closing: it may
// still be committed). Outside the library.
typedef void (*nl_raft_done)(void *user, int result);

// Appends one entry. Takes the frame's content when NL_OK is returned. NL_ENOTLEADER, NL_ENOMEM:
// nothing was done.
int nl_raft_append(struct nl_raft_node *node, struct nl_frame *frame, nl_raft_done done,
                   void *user);
// done(NL_OK): this node led when the barrier was asked for, and has applied everything that was
// committed then. NL_ENOTLEADER, NL_ENOMEM.
int nl_raft_barrier(struct nl_raft_node *node, nl_raft_done done, void *user);
// Asks a voter to take over; done when it did or the election timeout passed. NL_ENOTLEADER,
// NL_EAGAIN (one is under way), NL_EINVAL.
int nl_raft_transfer(struct nl_raft_node *node, uint64_t id, nl_raft_done done, void *user);
// Reads the TLS files again for new connections (blocking); NL_OK too without TLS. NL_EIO,
// NL_EINVAL, NL_ENOMEM with a sentence: the last good ones stay.
int nl_raft_reload_tls(struct nl_raft_node *node, char *error_text, size_t error_size);
uint16_t nl_raft_port(const struct nl_raft_node *node);

#endif
