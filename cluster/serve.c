// The links from the other nodes to this one.

#include <stdlib.h>
#include <utlist.h>

#include "cluster/internal.h"
#include "common/base/clock.h"
#include "common/base/err.h"

enum {
    UNANSWERED_MAX = 1024,
    READ_TIMEOUT_MS = 5000,
};

void nl_serve_ref(struct nl_serve *serve) {
    serve->refs++;
}

void nl_serve_unref(struct nl_serve *serve) {
    if (--serve->refs == 0) {
        nl_rpc_call_unref(serve->call);
        free(serve);
    }
}

static void reply_with(struct nl_serve *serve, uint64_t id, Nodelink__V1__PeerReply *reply) {
    struct nl_cluster *cluster = serve->cluster;
    serve->unanswered--;
    if (serve->closed) {
        return;
    }
    reply->id = id;
    reply->term = cluster->info.term;
    reply->leader = cluster->info.leader;
    reply->boot = cluster->boot;
    // A node that doesn't read its answers loses the link; it asks again on a new one.
    if (nl_rpc_call_send(serve->call, &reply->base) == NL_EFULL) {
        nl_rpc_call_cancel(serve->call);
    }
}

void nl_serve_reply(struct nl_serve *serve, uint64_t id, Nodelink__V1__PeerReply__Code code,
                    uint64_t index) {
    Nodelink__V1__PeerReply reply = NODELINK__V1__PEER_REPLY__INIT;
    reply.code = code;
    reply.index = index;
    reply_with(serve, id, &reply);
}

static void answer_taken_over(struct nl_serve *serve) {
    for (uint32_t i = 0; i < serve->n_taken_over; i++) {
        nl_serve_reply(serve, serve->taken_over[i], NODELINK__V1__PEER_REPLY__CODE__OK, 0);
    }
    serve->n_taken_over = 0;
}

void nl_serve_taken_over(struct nl_serve *serve, uint64_t id) {
    serve->taken_over[serve->n_taken_over++] = id;
    if (serve->n_taken_over == sizeof serve->taken_over / sizeof serve->taken_over[0]) {
        answer_taken_over(serve);
    }
}

void nl_serves_tick(struct nl_cluster *cluster) {
    struct nl_serve *serve;
    DL_FOREACH (cluster->serves, serve) {
        answer_taken_over(serve);
    }
}

// ---- requests ----------------------------------------------------------------

struct read_request {
    struct nl_serve *serve;
    uint64_t id;
};

static void on_read(void *user, int result, uint64_t index, uint64_t term) {
    struct read_request *read = user;
    (void)term;
    nl_serve_reply(read->serve, read->id,
                   result == NL_OK ? NODELINK__V1__PEER_REPLY__CODE__OK
                                   : NODELINK__V1__PEER_REPLY__CODE__NOT_LEADER,
                   index);
    nl_serve_unref(read->serve);
    free(read);
}

static void on_read_index(struct nl_serve *serve, uint64_t id) {
    struct nl_cluster *cluster = serve->cluster;
    // Only the leader answers: passing the question on would hide a quarrel about who leads.
    if (cluster->info.role != NL_RAFT_LEADER) {
        nl_serve_reply(serve, id, NODELINK__V1__PEER_REPLY__CODE__NOT_LEADER, 0);
        return;
    }
    struct read_request *read = malloc(sizeof *read);
    if (read != NULL) {
        read->serve = serve;
        read->id = id;
        nl_serve_ref(serve);
        if (nl_cluster_read(cluster, READ_TIMEOUT_MS, on_read, read) == NL_OK) {
            return;
        }
        nl_serve_unref(serve);
        free(read);
    }
    nl_serve_reply(serve, id, NODELINK__V1__PEER_REPLY__CODE__BUSY, 0);
}

static void on_ping(struct nl_serve *serve, const Nodelink__V1__PeerRequest *request) {
    struct nl_link *link = nl_link_of(serve->cluster, serve->node_id);
    if (link != NULL) {
        link->seen_ms = nl_clock_mono_ms();
        link->boot = request->ping->boot;
    }
    // A node without its log can't see by itself that it has been here before.
    const struct nl_node *known = nl_state_node(serve->cluster->state, serve->node_id);
    Nodelink__V1__PeerReply reply = NODELINK__V1__PEER_REPLY__INIT;
    reply.code = NODELINK__V1__PEER_REPLY__CODE__OK;
    reply.known_boot = known != NULL ? known->boot : 0;
    reply_with(serve, request->id, &reply);
}

// Takes the request.
static void dispatch(struct nl_serve *serve, Nodelink__V1__PeerRequest *request) {
    struct nl_cluster *cluster = serve->cluster;
    serve->unanswered++;
    if (serve->unanswered > UNANSWERED_MAX || cluster->closing) {
        nl_serve_reply(serve, request->id, NODELINK__V1__PEER_REPLY__CODE__BUSY, 0);
    } else if (request->body_case == NODELINK__V1__PEER_REQUEST__BODY_PROPOSE) {
        nl_raft_hurry(cluster->raft, serve->node_id);
        nl_append_remote(cluster, serve, request);
        return;
    } else if (request->body_case == NODELINK__V1__PEER_REQUEST__BODY_READ_INDEX) {
        nl_raft_hurry(cluster->raft, serve->node_id);
        on_read_index(serve, request->id);
    } else if (request->body_case == NODELINK__V1__PEER_REQUEST__BODY_PING) {
        on_ping(serve, request);
    } else {
        nl_serve_reply(serve, request->id, NODELINK__V1__PEER_REPLY__CODE__INVALID, 0);
    }
    nl_rpc_message_free(&request->base);
}

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)call;
    dispatch(user, (Nodelink__V1__PeerRequest *)message);
}

static void on_half_close(struct nl_rpc_call *call, void *user) {
    (void)user;
    nl_rpc_call_finish(call, NL_RPC_OK, "");
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    struct nl_serve *serve = user;
    struct nl_cluster *cluster = serve->cluster;
    (void)call;
    (void)status;
    serve->closed = true;
    DL_DELETE(cluster->serves, serve);
    nl_serve_unref(serve);
    cluster->open_calls--;
    nl_cluster_maybe_closed(cluster);
}

void nl_cluster_serve_link(struct nl_cluster *cluster, struct nl_rpc_call *call) {
    static const struct nl_rpc_handler handler = {
        .on_message = on_message, .on_half_close = on_half_close, .on_closed = on_closed};
    struct nl_serve *serve = cluster->closing ? NULL : calloc(1, sizeof *serve);
    if (serve == NULL) {
        nl_rpc_call_finish(call, NL_RPC_UNAVAILABLE, "the node is stopping");
        return;
    }
    serve->cluster = cluster;
    serve->call = call;
    serve->refs = 1;
    serve->node_id = nl_peer_id_of(call);
    nl_rpc_call_ref(call);
    cluster->open_calls++;
    DL_APPEND(cluster->serves, serve);
    nl_rpc_call_set_handler(call, &handler, serve);
}

void nl_serve_close_all(struct nl_cluster *cluster) {
    struct nl_serve *serve, *next;
    DL_FOREACH_SAFE (cluster->serves, serve, next) {
        nl_rpc_call_cancel(serve->call);
    }
}
