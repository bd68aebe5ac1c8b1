// The links between the nodes (PeerService.Link) over the simulated network, in place of gRPC: the
// product's link.c and serve.c run on it. Messages are packed and unpacked as on the wire.
//
// As over TCP, nothing of a connection is lost but with all of it: a partition holds messages
// back, whatever its kind; what link.c gives up is given up for good.

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/err.h"
#include "tests/sim/sim.h"
#include "tests/sim/wrap.h"

struct nl_rpc_channel {
    unsigned node, target;
};

// One end of a call.
struct nl_rpc_call {
    struct conn *conn;
    struct sim_node *node;
    uint32_t life;
    const struct nl_rpc_handler *handler;
    void *user;
    bool open;    // on_closed has not come
    bool ending;  // on_closed is on its way
};

// Kept until the run's end: messages on their way point to it.
struct conn {
    struct nl_rpc_call client, server;
    char *id, *auth;  // the client's metadata
    struct conn *next;
};

static struct conn *conns;

enum kind { OPEN, DATA, CLOSE };

struct packet {
    struct sim_pending pending;
    struct conn *conn;
    bool to_server;
    enum kind kind;
    uint8_t *data;  // owned
    size_t len;
};

static const ProtobufCMessageDescriptor *type_of(bool to_server) {
    return to_server ? &nodelink__v1__peer_request__descriptor
                     : &nodelink__v1__peer_reply__descriptor;
}

static struct nl_rpc_call *end_of(struct conn *conn, bool server) {
    return server ? &conn->server : &conn->client;
}

// ---- the end of a call -----------------------------------------------------------------

struct ending {
    struct sim_pending pending;
    struct nl_rpc_call *call;
};

static void run_ending(struct sim_pending *pending, enum sim_how how) {
    static const struct nl_rpc_status status = {NL_RPC_CANCELLED, "simulated"};
    struct nl_rpc_call *call = ((struct ending *)pending)->call;
    free(pending);
    call->open = false;
    if (how != SIM_ABANDONED && call->handler != NULL) {
        call->handler->on_closed(call, call->user, &status);
    }
}

static void end_call(struct nl_rpc_call *call) {
    if (!call->open || call->ending) {
        return;
    }
    struct ending *e = calloc(1, sizeof *e);
    assert(e != NULL);
    call->ending = true;
    e->pending.run = run_ending;
    e->pending.digest = 6;
    e->call = call;
    sim_post(call->node, 0, &e->pending);
}

// ---- packets -----------------------------------------------------------------------------

static void send_packet(struct conn *conn, bool to_server, enum kind kind, uint8_t *data,
                        size_t len);

static void accept_call(struct sim_node *node, struct conn *conn) {
    struct nl_rpc_call *call = &conn->server;
    call->life = node->life;
    call->open = true;
    if (nl_cluster_authorize_peer(node->cluster, call)) {
        nl_cluster_serve_link(node->cluster, call);
    }
}

static void take_data(struct packet *p, struct nl_rpc_call *call) {
    ProtobufCMessage *message;
    int rv = nl_rpc_unpack(type_of(p->to_server), p->data, p->len, 32 * 1024 * 1024, &message);
    SIM_CHECK(rv == NL_OK, "a peer's message can't be unpacked");
    call->handler->on_message(call, call->user, message);
}

static void run_packet(struct sim_pending *pending, enum sim_how how) {
    struct packet *p = (struct packet *)pending;
    struct sim_node *node = pending->node;
    struct nl_rpc_call *call = end_of(p->conn, p->to_server);
    bool here = how == SIM_DONE && node->up && node->cluster != NULL;
    if (here && p->kind == OPEN) {
        accept_call(node, p->conn);
    } else if (here && call->open && !call->ending && call->life == node->life) {
        if (p->kind == DATA && call->handler != NULL) {
            take_data(p, call);
        } else if (p->kind == CLOSE) {
            end_call(call);
        }
    }
    free(p->data);
    free(p);
}

static void route(struct packet *p) {
    const struct nl_rpc_call *from = end_of(p->conn, !p->to_server);
    struct nl_rpc_call *to = end_of(p->conn, p->to_server);
    struct sim_link *link = &sim.links[from->node->index][to->node->index];
    if (link->block != SIM_OPEN) {
        sim.counts[SIM_F_STALLED]++;
        DL_APPEND(link->held_rpc, &p->pending);
        return;
    }
    if (!to->node->up) {
        // The kernel answers for a process that is not there.
        struct conn *conn = p->conn;
        bool refused = p->to_server && p->kind != CLOSE;
        free(p->data);
        free(p);
        if (refused) {
            send_packet(conn, false, CLOSE, NULL, 0);
        }
        return;
    }
    uint64_t at = sim.now_us + link->latency_us / 2 + sim_exponential(link->latency_us);
    at = at > link->last_rpc_us ? at : link->last_rpc_us;
    link->last_rpc_us = at;
    sim_post(to->node, at - sim.now_us, &p->pending);
}

static void send_packet(struct conn *conn, bool to_server, enum kind kind, uint8_t *data,
                        size_t len) {
    struct packet *p = calloc(1, sizeof *p);
    assert(p != NULL);
    p->pending.run = run_packet;
    p->pending.digest = sim_mix(kind, len);
    p->conn = conn;
    p->to_server = to_server;
    p->kind = kind;
    p->data = data;
    p->len = len;
    route(p);
}

void sim_rpc_release(struct sim_link *link);

void sim_rpc_release(struct sim_link *link) {
    struct sim_pending *held = link->held_rpc;
    if (link->block != SIM_OPEN) {
        return;
    }
    link->held_rpc = NULL;
    while (held != NULL) {
        struct packet *p = (struct packet *)held;
        DL_DELETE(held, &p->pending);
        route(p);
    }
}

void sim_rpc_crashed(struct sim_node *node) {
    for (struct conn *conn = conns; conn != NULL; conn = conn->next) {
        if (conn->client.node == node && conn->client.open && !conn->client.ending) {
            end_call(&conn->client);
            send_packet(conn, true, CLOSE, NULL, 0);
        }
        if (conn->server.node == node && conn->server.open && !conn->server.ending) {
            end_call(&conn->server);
            send_packet(conn, false, CLOSE, NULL, 0);
        }
    }
}

void sim_rpc_free(void);

void sim_rpc_free(void) {
    for (unsigned i = 0; i < sim.n; i++) {
        for (unsigned j = 0; j < sim.n; j++) {
            struct sim_pending *pending, *next;
            DL_FOREACH_SAFE (sim.links[i][j].held_rpc, pending, next) {
                free(((struct packet *)pending)->data);
                free(pending);
            }
        }
    }
    while (conns != NULL) {
        struct conn *conn = conns;
        conns = conn->next;
        free(conn->id);
        free(conn->auth);
        free(conn);
    }
}

// ---- common/rpc --------------------------------------------------------------------------

int __wrap_nl_rpc_channel_new(struct nl_rpc *rpc, const char *target,
                              const struct nl_rpc_channel_options *options,
                              struct nl_rpc_channel **ret) {
    struct nl_rpc_channel *channel = calloc(1, sizeof *channel);
    (void)rpc, (void)options;
    assert(channel != NULL);
    channel->node = sim.current->index;
    channel->target = (unsigned)strtoul(strchr(target, ':') + 1, NULL, 10) - 1;
    *ret = channel;
    return NL_OK;
}

void __wrap_nl_rpc_channel_free(struct nl_rpc_channel *channel) {
    free(channel);
}

void __wrap_nl_rpc_channel_reset_backoff(struct nl_rpc_channel *channel) {
    (void)channel;
}

int __wrap_nl_rpc_call_start(struct nl_rpc_channel *channel,
                             const ProtobufCServiceDescriptor *service, const char *method,
                             const struct nl_rpc_call_options *options,
                             const struct nl_rpc_handler *handler, void *user,
                             struct nl_rpc_call **ret) {
    struct conn *conn = calloc(1, sizeof *conn);
    (void)service, (void)method;
    assert(conn != NULL);
    conn->next = conns;
    conns = conn;
    conn->id = strdup(options->metadata[0].value);
    conn->auth = strdup(options->metadata[1].value);
    conn->client = (struct nl_rpc_call){.conn = conn,
                                        .node = &sim.nodes[channel->node],
                                        .life = sim.nodes[channel->node].life,
                                        .handler = handler,
                                        .user = user,
                                        .open = true};
    conn->server = (struct nl_rpc_call){.conn = conn, .node = &sim.nodes[channel->target]};
    send_packet(conn, true, OPEN, NULL, 0);
    *ret = &conn->client;
    return NL_OK;
}

int __wrap_nl_rpc_call_send(struct nl_rpc_call *call, const ProtobufCMessage *message) {
    if (!call->open || call->ending) {
        return NL_ECLOSED;
    }
    bool to_server = call == &call->conn->client;
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *data = malloc(len + 1);
    assert(data != NULL);
    protobuf_c_message_pack(message, data);
    send_packet(call->conn, to_server, DATA, data, len);
    return NL_OK;
}

void __wrap_nl_rpc_call_cancel(struct nl_rpc_call *call) {
    if (call->open && !call->ending) {
        end_call(call);
        if (call->node->up) {
            send_packet(call->conn, call == &call->conn->client, CLOSE, NULL, 0);
        }
    }
}

void __wrap_nl_rpc_call_finish(struct nl_rpc_call *call, enum nl_rpc_code code,
                               const char *message) {
    (void)code, (void)message;
    __wrap_nl_rpc_call_cancel(call);
}

void __wrap_nl_rpc_call_ref(struct nl_rpc_call *call) {
    (void)call;
}

void __wrap_nl_rpc_call_unref(struct nl_rpc_call *call) {
    (void)call;
}

void __wrap_nl_rpc_call_set_handler(struct nl_rpc_call *call, const struct nl_rpc_handler *handler,
                                    void *user) {
    call->handler = handler;
    call->user = user;
}

const char *__wrap_nl_rpc_call_metadata(const struct nl_rpc_call *call, const char *key) {
    return strcmp(key, "nodelink-peer") == 0 ? call->conn->id : call->conn->auth;
}

const char *__wrap_nl_rpc_call_peer(const struct nl_rpc_call *call) {
    return call->conn->client.node->address;
}
