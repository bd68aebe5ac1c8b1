// What the files of this folder share. Each part owns its struct in nl_cluster and has its
// functions below. Loop thread only.
#ifndef NODELINK_CLUSTER_INTERNAL_H
#define NODELINK_CLUSTER_INTERNAL_H

#include "cluster/cluster.h"
#include "cluster/data_dir.h"
#include "cluster/propose_core.h"
#include "cluster/raft/raft_node.h"
#include "common/base/log.h"

#define NL_CLUSTER_MEMBERS_MAX 16

// ---- append.c: what the leader puts into the log ---------------------------------

// Several commands that arrived together: of this node, or of a peer's Propose. Goes into one
// entry as a whole.
struct nl_append_batch {
    Nodelink__V1__Propose *propose;      // a peer's; borrowed from `request`, or NULL
    Nodelink__V1__PeerRequest *request;  // owned, or NULL
    struct nl_serve *peer;               // referenced; NULL: this node's own
    struct nl_core_batch own;
    struct nl_frame frame;  // this node's own commands
    size_t bytes;
    struct nl_append_batch *prev, *next;
};

struct nl_append {
    struct nl_append_batch *queue;
    size_t queued_bytes;
    uint32_t entries_in_flight;
};

// Takes the request. Replies to the peer when the commands are in the leader's log, or why not.
void nl_append_remote(struct nl_cluster *cluster, struct nl_serve *peer,
                      Nodelink__V1__PeerRequest *request);
// Moves waiting batches and this node's ready proposals into the log, as far as entries in flight
// allow. At the end of a loop turn.
void nl_append_flush(struct nl_cluster *cluster);
void nl_append_cancel(struct nl_cluster *cluster);

// ---- propose.c: this node's proposals ------------------------------------------------

struct nl_proposer {
    struct nl_propose_core *core;
    uint64_t hold_until_ms;  // nothing is sent before
    uint32_t hold_ms;        // the latest pause; grows while refusals go on
    uint64_t hint;           // who leads, as a refusing node said; 0: nothing better known
    uint64_t hint_until_ms;
};

// outcomes_max: how many the state machine remembers of this node; 0: its default.
int nl_propose_open(struct nl_cluster *cluster, uint32_t outcomes_max);
void nl_propose_close(struct nl_cluster *cluster);
void nl_propose_flush(struct nl_cluster *cluster);  // sends what is ready to the leader
void nl_propose_verdict(struct nl_cluster *cluster, const struct nl_core_batch *batch,
                        enum nl_core_verdict verdict, uint64_t hint);
void nl_propose_effect(struct nl_cluster *cluster, const struct nl_effect *effect);
void nl_propose_answer(struct nl_cluster *cluster);  // calls the callers back
void nl_propose_tick(struct nl_cluster *cluster, uint64_t now_ms);
void nl_propose_leader_changed(struct nl_cluster *cluster);
// Who to send to: this node, another one, or 0.
uint64_t nl_propose_target(struct nl_cluster *cluster, uint64_t now_ms);

// ---- read.c --------------------------------------------------------------------

struct nl_waiter {
    uint64_t index;
    uint64_t deadline_ms;
    nl_read_cb done;
    void *user;
};

// Read requests wait in `next` until the round under way is over, then make up the next round;
// after it they wait for this node to apply its index.
struct nl_reader {
    struct nl_waiter *next;
    size_t n_next, cap_next;
    struct nl_waiter *round;
    size_t n_round, cap_round;
    bool under_way;
    uint64_t round_id;  // tells an abandoned round's late word
    uint64_t retry_at_ms;
    uint64_t round_until_ms;  // no word until then: asked again
    struct nl_waiter *heap;   // waiting for an index to be applied; least index first
    size_t n_heap, cap_heap;
};

void nl_read_flush(struct nl_cluster *cluster);    // starts a round if one is due
void nl_read_applied(struct nl_cluster *cluster);  // the applied index moved
void nl_read_tick(struct nl_cluster *cluster, uint64_t now_ms);
// A round ended: result NL_OK with the read index, or anything else: again.
void nl_read_round_done(struct nl_cluster *cluster, uint64_t round_id, int result, uint64_t index);
void nl_read_leader_changed(struct nl_cluster *cluster);
void nl_read_close(struct nl_cluster *cluster);

// ---- link.c: to the other nodes --------------------------------------------------------

enum nl_link_kind { NL_LINK_PING, NL_LINK_PROPOSE, NL_LINK_READ };

struct nl_link_request {
    uint64_t id;
    enum nl_link_kind kind;
    struct nl_core_batch batch;  // NL_LINK_PROPOSE
    uint64_t round_id;           // NL_LINK_READ
    struct nl_link_request *prev, *next;
};

struct nl_link {
    struct nl_cluster *cluster;
    const struct nl_cluster_member *member;
    struct nl_rpc_channel *channel;
    struct nl_rpc_call *call;  // NULL: none
    bool ready;                // an answer came on this call
    uint64_t started_ms;
    uint64_t heard_ms;  // last answer on this call
    uint64_t ping_at_ms, retry_at_ms;
    uint64_t next_id;
    struct nl_link_request *requests;  // unanswered, oldest first
    uint32_t n_requests;
    uint32_t proposes;  // of them
    uint64_t seen_ms;   // last word from the node, on any link
    uint64_t boot;      // as it last said
};

int nl_links_open(struct nl_cluster *cluster);
void nl_links_close(struct nl_cluster *cluster);  // calls end later; see open_calls
void nl_links_tick(struct nl_cluster *cluster, uint64_t now_ms);
struct nl_link *nl_link_of(struct nl_cluster *cluster, uint64_t node_id);
bool nl_link_usable(const struct nl_link *link, uint64_t now_ms);
bool nl_link_has_room(const struct nl_link *link);
// Sends the commands of a batch. false: not sent.
bool nl_link_propose(struct nl_link *link, ProtobufCBinaryData *commands,
                     const struct nl_core_batch *batch);
bool nl_link_read_index(struct nl_link *link, uint64_t round_id);

// ---- serve.c: from the other nodes -------------------------------------------------------

// One incoming Link call.
struct nl_serve {
    struct nl_cluster *cluster;
    struct nl_rpc_call *call;
    uint64_t node_id;
    uint32_t refs;
    uint32_t unanswered;
    uint64_t taken_over[16];  // requests whose OK waits for company
    uint32_t n_taken_over;
    bool closed;
    struct nl_serve *prev, *next;
};

void nl_serve_ref(struct nl_serve *serve);
void nl_serve_unref(struct nl_serve *serve);
void nl_serve_reply(struct nl_serve *serve, uint64_t id, Nodelink__V1__PeerReply__Code code,
                    uint64_t index);
// A proposal is in the log. Its sender needs no word of that for the outcome, only to keep count of
// what it may send, so a few of these answers go together.
void nl_serve_taken_over(struct nl_serve *serve, uint64_t id);
void nl_serves_tick(struct nl_cluster *cluster);
void nl_serve_close_all(struct nl_cluster *cluster);

// ---- peer.c: credentials and status ---------------------------------------------------------

struct nl_peer_credential {
    char id[24];
    char auth[65];
    struct nl_rpc_metadata metadata[3];
    struct nl_log_limit log_limit;
};

void nl_peer_credential_init(struct nl_cluster *cluster);
// Of a call that was authorized.
uint64_t nl_peer_id_of(const struct nl_rpc_call *call);

// ---- loop_lag.c ----------------------------------------------------------------

struct nl_loop_lag_window {
    uint64_t length_us, start_us;
    uint64_t max_us[2];  // of the current window and the one before
};

struct nl_loop_lag {
    uint64_t turn_us;  // when the current turn began
    uint64_t idle_ns;  // libuv's count of waiting, at that time
    struct nl_loop_lag_window second, minute;
    uint64_t max_us;
};

void nl_loop_lag_open(struct nl_loop_lag *lag, uv_loop_t *loop);
// Once in each turn, at the same place of it.
void nl_loop_lag_turn(struct nl_loop_lag *lag, uv_loop_t *loop);
void nl_loop_lag_add(struct nl_loop_lag *lag, uint64_t now_us, uint64_t turn_us);  // pure
uint64_t nl_loop_lag_recent(const struct nl_loop_lag_window *window);

// ---- cluster.c -----------------------------------------------------------------

struct nl_step_down {
    bool under_way;
    bool asked;  // libraft has a transfer
    uint64_t deadline_ms;
    void (*done)(void *user);
    void *user;
};

struct nl_cluster {
    uv_loop_t *loop;
    struct nl_rpc *rpc;
    struct nl_cluster_events events;
    void *user;
    // Own copies of what the options pointed to.
    char *cluster_name;
    char *raft_address;
    uint8_t *secret;
    size_t secret_len;
    struct nl_cluster_member members[NL_CLUSTER_MEMBERS_MAX];
    struct nl_raft_member raft_members[NL_CLUSTER_MEMBERS_MAX];
    size_t n_members;
    uint64_t id;
    uint64_t boot;        // of this start
    bool boot_counted;    // it is on the disk; until then nothing that carries it is sent
    bool boot_under_way;  // a read or a write for it
    uint64_t boot_at_ms;  // not before
    uv_work_t boot_work;
    int boot_result;
    uint32_t election_timeout_ms;
    uint64_t disk_free_min;
    struct nl_rpc_tls tls;
    bool has_tls;

    struct nl_data_dir dir;
    struct nl_state *state;
    struct nl_raft_node *raft;
    struct nl_proposer proposer;
    struct nl_append append;
    struct nl_reader reader;
    struct nl_link links[NL_CLUSTER_MEMBERS_MAX];
    size_t n_links;
    struct nl_serve *serves;
    uint32_t open_calls;  // of links and serves, whose end is still to come
    struct nl_peer_credential credential;
    struct nl_step_down step_down;

    uv_prepare_t prepare;
    uv_timer_t timer;
    uv_fs_t statfs;
    bool statfs_under_way;
    bool disk_full;
    uint64_t statfs_at_ms;
    uint64_t give_up_lead_at_ms;  // not before
    unsigned handles;             // not yet closed

    struct nl_raft_info info;  // as of the last step
    uint64_t leader_since_ms;  // of info.leader, known or not
    struct nl_loop_lag lag;
    uint64_t append_p99_us, append_p99_at_ms;  // found out once in a while

    struct nl_cluster_peer_status peer_status;  // what nl_cluster_peer_next points to

    bool opened;     // nl_cluster_open has returned it: effects are news
    bool role_told;  // on_role was called once
    bool closing, close_begun, raft_closed;
    void (*closed)(void *user);
    void *closed_user;
};

const struct nl_cluster_member *nl_cluster_member_of(const struct nl_cluster *cluster, uint64_t id);
void nl_cluster_maybe_closed(struct nl_cluster *cluster);
void nl_cluster_fatal(struct nl_cluster *cluster, const char *why) __attribute__((noreturn));

// The number of this start (boot.c). Open: NL_EIO, NL_ECORRUPT with a sentence.
int nl_boot_open(struct nl_cluster *cluster, char *error_text, size_t error_size);
void nl_boot_tick(struct nl_cluster *cluster, uint64_t now_ms);
// The cluster knows this start of this node, by the log or by a peer's word. A later one than the
// data directory knows is fatal: it isn't the last that the node had.
void nl_cluster_check_boot(struct nl_cluster *cluster, uint64_t boot);

#endif
