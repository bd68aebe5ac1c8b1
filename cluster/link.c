// The links from this node to the others: one PeerService.Link call each, kept open, requests
// pipelined. A link counts as usable only after an answer came on it and while answers keep
// coming, so that a proposal isn't handed to a connection that may not exist.

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "cluster/internal.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"

enum {
    PING_MS = 150,
    RETRY_MS = 100,
    USABLE_MS = 1000,
    SILENCE_MS_MAX = 3000,
    PROPOSES_MAX = 64,
    REQUESTS_MAX = 512,
    SEND_QUEUE_BYTES = 8 * 1024 * 1024,
    BACKOFF_MS_MAX = 500,
};

struct nl_link *nl_link_of(struct nl_cluster *cluster, uint64_t node_id) {
    for (size_t i = 0; i < cluster->n_links; i++) {
        if (cluster->links[i].member->id == node_id) {
            return &cluster->links[i];
        }
    }
    return NULL;
}

bool nl_link_usable(const struct nl_link *link, uint64_t now_ms) {
    return link->call != NULL && link->ready && now_ms < link->heard_ms + USABLE_MS;
}

bool nl_link_has_room(const struct nl_link *link) {
    return link->proposes < PROPOSES_MAX && link->n_requests < REQUESTS_MAX;
}

// ---- requests ----------------------------------------------------------------

static void request_drop(struct nl_link *link, struct nl_link_request *request) {
    DL_DELETE(link->requests, request);
    link->n_requests--;
    link->proposes -= request->kind == NL_LINK_PROPOSE;
    free(request);
}

// The request without an answer to come: `result` stands for it.
static void request_fail(struct nl_link *link, struct nl_link_request *request,
                         enum nl_core_verdict verdict, uint64_t hint) {
    struct nl_cluster *cluster = link->cluster;
    if (cluster->closing) {
        return;
    }
    if (request->kind == NL_LINK_PROPOSE) {
        nl_propose_verdict(cluster, &request->batch, verdict, hint);
    } else if (request->kind == NL_LINK_READ) {
        nl_read_round_done(cluster, request->round_id, NL_ENOTLEADER, 0);
    }
}

static struct nl_link_request *post(struct nl_link *link, enum nl_link_kind kind,
                                    Nodelink__V1__PeerRequest *message) {
    struct nl_link_request *request = calloc(1, sizeof *request);
    if (request == NULL || link->call == NULL) {
        free(request);
        return NULL;
    }
    message->id = ++link->next_id;
    if (nl_rpc_call_send(link->call, &message->base) != NL_OK) {
        free(request);
        return NULL;
    }
    request->id = message->id;
    request->kind = kind;
    DL_APPEND(link->requests, request);
    link->n_requests++;
    link->proposes += kind == NL_LINK_PROPOSE;
    return request;
}

bool nl_link_propose(struct nl_link *link, ProtobufCBinaryData *commands,
                     const struct nl_core_batch *batch) {
    Nodelink__V1__PeerRequest message = NODELINK__V1__PEER_REQUEST__INIT;
    Nodelink__V1__Propose propose = NODELINK__V1__PROPOSE__INIT;
    propose.n_commands = batch->count;
    propose.commands = commands;
    message.body_case = NODELINK__V1__PEER_REQUEST__BODY_PROPOSE;
    message.propose = &propose;
    struct nl_link_request *request = post(link, NL_LINK_PROPOSE, &message);
    if (request != NULL) {
        request->batch = *batch;
    }
    return request != NULL;
}

bool nl_link_read_index(struct nl_link *link, uint64_t round_id) {
    Nodelink__V1__PeerRequest message = NODELINK__V1__PEER_REQUEST__INIT;
    Nodelink__V1__ReadIndex read = NODELINK__V1__READ_INDEX__INIT;
    message.body_case = NODELINK__V1__PEER_REQUEST__BODY_READ_INDEX;
    message.read_index = &read;
    struct nl_link_request *request =
        link->n_requests < REQUESTS_MAX ? post(link, NL_LINK_READ, &message) : NULL;
    if (request != NULL) {
        request->round_id = round_id;
    }
    return request != NULL;
}

static void ping(struct nl_link *link, uint64_t now_ms) {
    Nodelink__V1__PeerRequest message = NODELINK__V1__PEER_REQUEST__INIT;
    Nodelink__V1__PeerPing body = NODELINK__V1__PEER_PING__INIT;
    body.node = link->cluster->id;
    body.boot = link->cluster->boot;
    message.body_case = NODELINK__V1__PEER_REQUEST__BODY_PING;
    message.ping = &body;
    link->ping_at_ms = now_ms + PING_MS;
    if (link->n_requests < REQUESTS_MAX) {
        post(link, NL_LINK_PING, &message);
    }
}

// ---- replies -----------------------------------------------------------------

static void on_propose_reply(struct nl_link *link, struct nl_link_request *request,
                             const Nodelink__V1__PeerReply *reply) {
    switch (reply->code) {
        case NODELINK__V1__PEER_REPLY__CODE__OK:
            break;  // the outcome comes with the log
        case NODELINK__V1__PEER_REPLY__CODE__NOT_LEADER:
            request_fail(link, request, NL_CORE_REFUSED, reply->leader);
            break;
        case NODELINK__V1__PEER_REPLY__CODE__BUSY:
            request_fail(link, request, NL_CORE_BUSY, 0);
            break;
        case NODELINK__V1__PEER_REPLY__CODE__INVALID:
            nl_log(NL_LOG_ERROR, "cluster", "the leader calls our commands invalid", "leader",
                   link->member->name, NULL);
            request_fail(link, request, NL_CORE_REFUSED, 0);
            break;
        default:
            request_fail(link, request, NL_CORE_LOST, 0);
            break;
    }
}

static void on_read_reply(struct nl_link *link, struct nl_link_request *request,
                          const Nodelink__V1__PeerReply *reply) {
    bool ok = reply->code == NODELINK__V1__PEER_REPLY__CODE__OK;
    if (!link->cluster->closing) {
        nl_read_round_done(link->cluster, request->round_id, ok ? NL_OK : NL_ENOTLEADER,
                           reply->index);
    }
}

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct nl_link *link = user;
    const Nodelink__V1__PeerReply *reply = (const Nodelink__V1__PeerReply *)message;
    struct nl_link_request *request;
    (void)call;
    if (!link->ready) {
        (void)NL_FAILPOINT("start.peer_link");
    }
    link->ready = true;
    link->heard_ms = link->seen_ms = nl_clock_mono_ms();
    link->boot = reply->boot != 0 ? reply->boot : link->boot;
    nl_cluster_check_boot(link->cluster, reply->known_boot);
    DL_SEARCH_SCALAR(link->requests, request, id, reply->id);
    if (request != NULL) {
        if (request->kind == NL_LINK_PROPOSE) {
            on_propose_reply(link, request, reply);
        } else if (request->kind == NL_LINK_READ) {
            on_read_reply(link, request, reply);
        }
        request_drop(link, request);
    }
    nl_rpc_message_free(message);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    struct nl_link *link = user;
    struct nl_cluster *cluster = link->cluster;
    struct nl_link_request *request, *next;
    (void)call;
    if (link->ready && !cluster->closing) {
        nl_log(NL_LOG_INFO, "cluster", "link lost", "node", link->member->name, "why",
               status->message, NULL);
    }
    link->call = NULL;
    link->ready = false;
    link->retry_at_ms = nl_clock_mono_ms() + RETRY_MS;
    DL_FOREACH_SAFE (link->requests, request, next) {
        request_fail(link, request, NL_CORE_LOST, 0);
        request_drop(link, request);
    }
    cluster->open_calls--;
    nl_cluster_maybe_closed(cluster);
}

// ---- life --------------------------------------------------------------------

static void start(struct nl_link *link, uint64_t now_ms) {
    static const struct nl_rpc_handler handler = {.on_message = on_message, .on_closed = on_closed};
    struct nl_rpc_call_options options = {.metadata = link->cluster->credential.metadata};
    link->retry_at_ms = now_ms + RETRY_MS;
    nl_rpc_channel_reset_backoff(link->channel);
    if (nl_rpc_call_start(link->channel, &nodelink__v1__peer_service__descriptor, "Link", &options,
                          &handler, link, &link->call) != NL_OK) {
        link->call = NULL;
        return;
    }
    link->cluster->open_calls++;
    link->started_ms = now_ms;
    link->heard_ms = 0;
    ping(link, now_ms);
}

static void tick(struct nl_link *link, uint64_t now_ms) {
    if (link->call == NULL) {
        if (now_ms >= link->retry_at_ms) {
            start(link, now_ms);
        }
        return;
    }
    uint64_t since = link->ready ? link->heard_ms : link->started_ms;
    if (now_ms > since + SILENCE_MS_MAX) {
        nl_rpc_call_cancel(link->call);  // on_closed starts it anew
    } else if (now_ms >= link->ping_at_ms) {
        ping(link, now_ms);
    }
}

void nl_links_tick(struct nl_cluster *cluster, uint64_t now_ms) {
    for (size_t i = 0; i < cluster->n_links; i++) {
        tick(&cluster->links[i], now_ms);
    }
}

int nl_links_open(struct nl_cluster *cluster) {
    struct nl_rpc_channel_options options = {
        .tls = cluster->has_tls ? &cluster->tls : NULL,
        .send_queue_bytes_max = SEND_QUEUE_BYTES,
        .connect_backoff_ms_max = BACKOFF_MS_MAX,
    };
    for (size_t i = 0; i < cluster->n_members; i++) {
        if (cluster->members[i].id == cluster->id) {
            continue;
        }
        struct nl_link *link = &cluster->links[cluster->n_links];
        link->cluster = cluster;
        link->member = &cluster->members[i];
        int rv = NL_FAILPOINT("start.links")
                     ? NL_EIO
                     : nl_rpc_channel_new(cluster->rpc, link->member->grpc_address, &options,
                                          &link->channel);
        if (rv != NL_OK) {
            return rv;
        }
        cluster->n_links++;
    }
    return NL_OK;
}

void nl_links_close(struct nl_cluster *cluster) {
    for (size_t i = 0; i < cluster->n_links; i++) {
        struct nl_link *link = &cluster->links[i];
        if (link->call != NULL) {
            nl_rpc_call_cancel(link->call);
        }
        nl_rpc_channel_free(link->channel);
        link->channel = NULL;
    }
}
