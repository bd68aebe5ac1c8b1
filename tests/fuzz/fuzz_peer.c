// PeerService.Link as another node may use it: any requests, to a leader and to a follower. Each is
// answered once, and what gets into the log is what every node can decode.
//
// Input: one byte (bit 0: leads, bit 1: disk full), then requests behind their lengths (u16).

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "cluster/internal.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "tests/fuzz/fake_call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct nl_link link_state;

// ---- the rest of the cluster ----

int nl_cluster_read(struct nl_cluster *cluster, uint64_t timeout_ms, nl_read_cb done, void *user) {
    (void)timeout_ms;
    done(user, NL_OK, 7, cluster->info.term);
    return NL_OK;
}

void nl_cluster_maybe_closed(struct nl_cluster *cluster) {
    (void)cluster;
}

struct nl_link *nl_link_of(struct nl_cluster *cluster, uint64_t id) {
    (void)cluster;
    return id == 2 ? &link_state : NULL;
}

uint64_t nl_peer_id_of(const struct nl_rpc_call *call) {
    (void)call;
    return 2;
}

bool nl_core_has_ready(const struct nl_propose_core *core) {
    (void)core;
    return false;
}

bool nl_core_take(struct nl_propose_core *core, uint64_t now_ms, nl_core_give give, void *user,
                  struct nl_core_batch *ret) {
    (void)core;
    (void)now_ms;
    (void)give;
    (void)user;
    (void)ret;
    return false;
}

void nl_propose_verdict(struct nl_cluster *cluster, const struct nl_core_batch *batch,
                        enum nl_core_verdict verdict, uint64_t hint) {
    (void)cluster;
    (void)batch;
    (void)verdict;
    (void)hint;
}

// The log: every entry can be read back, and each of its commands decoded.
void nl_raft_hurry(struct nl_raft_node *node, uint64_t id) {
    (void)node;
    (void)id;
}

int nl_raft_append(struct nl_raft_node *node, struct nl_frame *frame, nl_raft_done done,
                   void *user) {
    struct nl_frame_reader reader;
    const uint8_t *command;
    uint8_t *entry;
    size_t len, command_len;
    (void)node;
    nl_frame_finish(frame, &entry, &len);
    fuzz_require(nl_frame_open(&reader, entry, len) == NL_OK, "an entry can be read");
    while (nl_frame_next(&reader, &command, &command_len)) {
        fuzz_require(nl_state_command_check(command, command_len) == NL_OK,
                     "a command in the log can be decoded");
    }
    free(entry);
    done(user, NL_OK);
    return NL_OK;
}

// ---- input ----

static void receive(struct nl_rpc_call *call, const uint8_t *data, size_t len) {
    ProtobufCMessage *message = NULL;
    if (nl_rpc_unpack(&nodelink__v1__peer_request__descriptor, data, len, 4 << 20, &message) ==
        NL_OK) {
        call->handler->on_message(call, call->user, message);
    }
}

static void run(struct nl_cluster *cluster, struct nl_rpc_call *call, const uint8_t *data,
                size_t size) {
    unsigned asked = 0;
    for (; size >= 2 && asked < 64; asked++) {
        size_t len = (size_t)data[0] | (size_t)data[1] << 8;
        len = len < size - 2 ? len : size - 2;
        receive(call, data + 2, len);
        if (len % 3 == 0) {
            nl_append_flush(cluster);
        }
        data += 2 + len;
        size -= 2 + len;
    }
    nl_append_flush(cluster);
    nl_append_cancel(cluster);
    nl_serves_tick(cluster);
    fuzz_require(call->messages <= asked, "one answer at most for each request");
    fuzz_require(cluster->append.entries_in_flight == 0, "each entry comes to its end");
    fuzz_require(cluster->serves->unanswered == 0, "each request is answered");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct nl_cluster cluster;
    static uv_loop_t loop;
    static const struct nl_state_limits limits;
    static struct nl_state *state;  // empty; no request changes it
    struct nl_rpc_call call = {.peer = "ipv4:127.0.0.1:1"};
    struct nl_rpc_status status = {.code = NL_RPC_OK};
    if (size == 0) {
        return 0;
    }
    if (state == NULL) {
        fuzz_require(nl_state_new(&limits, &state) == NL_OK, "there is memory for a state");
    }
    // Invalid commands are an error worth a line each; not here.
    nl_log_init(NL_LOG_OFF, NL_LOG_TEXT, "fuzz");
    memset(&cluster, 0, sizeof cluster);
    cluster.loop = &loop;
    cluster.state = state;
    cluster.id = 1;
    cluster.info.role = (data[0] & 1) != 0 ? NL_RAFT_LEADER : NL_RAFT_FOLLOWER;
    cluster.disk_full = (data[0] & 2) != 0;
    nl_cluster_serve_link(&cluster, &call);
    run(&cluster, &call, data + 1, size - 1);
    call.handler->on_closed(&call, call.user, &status);
    fuzz_require(call.refs == 0 && cluster.serves == NULL, "the link is let go");
    return 0;
}
