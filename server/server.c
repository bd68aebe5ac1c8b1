// Opening and stopping a node. Each open step has its close step; a stop at any step closes what
// was opened before it, in the reverse order.
#include "server/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <nodelink/v1/control.pb-c.h>
#include <nodelink/v1/peer.pb-c.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "server/auth.h"
#include "server/control.h"
#include "server/housekeeping.h"
#include "server/node_life.h"
#include "server/output.h"
#include "server/peer_service.h"
#include "server/server_stop.h"
#include "server/sessions.h"
#include "server/stock.h"
#include "server/version.h"

enum { EXIT_FAIL_STOP = 3 };

// ---- what the cluster tells ------------------------------------------------

static void on_effect(void *user, const struct nl_effect *effect) {
    struct nl_server *server = user;
    nl_sessions_on_effect(server->sessions, effect);
    nl_housekeeping_on_effect(server->housekeeping, effect);
    nl_node_life_on_effect(server->life, effect);
    if (effect->kind == NL_EFFECT_TASK || effect->kind == NL_EFFECT_TASK_PRUNED) {
        nl_topics_fire(server->task_topics, effect->task->id);
    }
    if (effect->kind == NL_EFFECT_TASK_PRUNED) {
        nl_stock_drop(nl_outputs_stock(server->outputs), effect->task->id);
    }
    // Counters change with every task; readers care for where the agent is.
    if (effect->kind == NL_EFFECT_AGENT && effect->agent->connection != effect->old_connection) {
        nl_topics_fire(server->agent_topics, effect->agent->id);
    }
}

static void on_restored(void *user) {
    struct nl_server *server = user;
    nl_sessions_on_restored(server->sessions);
    nl_housekeeping_on_restored(server->housekeeping);
    nl_topics_fire_all(server->task_topics);
    nl_topics_fire_all(server->agent_topics);
}

static void on_role(void *user, enum nl_cluster_role role, uint64_t term, uint64_t leader) {
    struct nl_server *server = user;
    nl_housekeeping_on_role(server->housekeeping, role);
    nl_node_life_on_role(server->life, role, term, leader);
}

// The data directory must not be touched any more: no orderly stop.
static void on_fatal(void *user, const char *why) {
    (void)user;
    nl_log(NL_LOG_ERROR, "node", "stopped at once, to be safe", "why", why, NULL);
    _exit(EXIT_FAIL_STOP);
}

// ---- steps -----------------------------------------------------------------

// With the point a start can end behind each part.
static bool made(const void *part) {
    return part != NULL && !NL_FAILPOINT("start.part");
}

static int make_parts(struct nl_server *server, void (*on_ready)(void *user), void *user) {
    if (!made(server->task_topics = nl_topics_new()) ||
        !made(server->agent_topics = nl_topics_new()) ||
        !made(server->auth = nl_auth_new(server)) ||
        !made(server->outputs = nl_outputs_new(server)) ||
        !made(server->sessions = nl_sessions_new(server)) ||
        !made(server->control = nl_control_new(server)) ||
        !made(server->housekeeping = nl_housekeeping_new(server)) ||
        !made(server->life = nl_node_life_new(server, on_ready, user))) {
        return NL_ENOMEM;
    }
    server->addresses = calloc(server->settings->n_members + 1, sizeof *server->addresses);
    if (server->addresses == NULL) {
        return NL_ENOMEM;
    }
    for (size_t i = 0; i < server->settings->n_members; i++) {
        server->addresses[server->n_addresses++] = server->settings->members[i].grpc_address;
    }
    return NL_OK;
}

static const struct nl_rpc_method task_methods[] = {
    {"StreamTasks", NL_RPC_BIDI, NULL, nl_sessions_serve},
    {NULL, NL_RPC_UNARY, NULL, NULL},
};

// A call can be there before a start has failed; it is delivered while the parts are closed.
static bool is_open(struct nl_rpc_call *call, void *user) {
    const struct nl_server *server = user;
    if (server->cluster != NULL) {
        return true;
    }
    nl_rpc_call_finish(call, NL_RPC_UNAVAILABLE, "this node is not running; try another");
    return false;
}

static bool may_control(struct nl_rpc_call *call, void *user) {
    return is_open(call, user) && nl_auth_client(call, user);
}

static bool may_be_peer(struct nl_rpc_call *call, void *user) {
    return is_open(call, user) && nl_peer_authorize(call, user);
}

static int make_services(struct nl_server *server) {
    struct nl_rpc_service list[] = {
        {&nodelink__v1__task_service__descriptor, task_methods, server, is_open},
        {&nodelink__v1__control_service__descriptor, nl_control_methods, server, may_control},
        {&nodelink__v1__peer_service__descriptor, nl_peer_methods, server, may_be_peer},
        {NULL, NULL, NULL, NULL},
    };
    struct nl_rpc_service *services = NL_FAILPOINT("start.services") ? NULL : malloc(sizeof list);
    if (services == NULL) {
        return NL_ENOMEM;
    }
    memcpy(services, list, sizeof list);
    server->services = services;
    return NL_OK;
}

// Listening comes before the data directory is touched, so that a busy port changes nothing.
// Calls are not served before the loop runs, and by then the cluster is open, or the start failed.
static int listen_grpc(struct nl_server *server, char *error_text, size_t error_size) {
    const struct nl_settings *s = server->settings;
    if (NL_FAILPOINT("start.listen")) {
        snprintf(error_text, error_size, "fail point");
        return NL_EBUSY;
    }
    struct nl_rpc_tls tls = {.ca_file = s->tls_client_auth ? s->tls_ca_file : NULL,
                             .cert_file = s->tls_cert_file,
                             .key_file = s->tls_key_file};
    struct nl_rpc_server_options options = {
        .address = s->grpc_address,
        .tls = s->tls_cert_file != NULL ? &tls : NULL,
        .connections_max = (uint32_t)s->connections_max,
    };
    return nl_rpc_server_new(server->rpc, &options, server->services, &server->grpc, error_text,
                             error_size);
}

static int open_cluster(struct nl_server *server, const char *secret, char *error_text,
                        size_t error_size) {
    static const struct nl_cluster_events events = {.on_effect = on_effect,
                                                    .on_restored = on_restored,
                                                    .on_role = on_role,
                                                    .on_fatal = on_fatal};
    const struct nl_settings *s = server->settings;
    struct nl_rpc_tls tls = {
        .ca_file = s->tls_ca_file, .cert_file = s->tls_cert_file, .key_file = s->tls_key_file};
    struct nl_cluster_options options = {
        .loop = server->loop,
        .rpc = server->rpc,
        .cluster_name = s->cluster_name,
        .id = s->node_id,
        .name = s->node_name,
        .version = NL_VERSION,
        .data_dir = s->data_dir,
        .raft_address = s->raft_address,
        .members = s->members,
        .n_members = s->n_members,
        .bootstrap = s->bootstrap,
        .secret = (const uint8_t *)secret,
        .secret_len = strlen(secret),
        .tls = s->tls_cert_file != NULL ? &tls : NULL,
        .heartbeat_ms = (uint32_t)s->heartbeat_ms,
        .election_timeout_ms = (uint32_t)s->election_timeout_ms,
        .snapshot_threshold = (uint32_t)s->snapshot_threshold,
        .snapshot_trailing = (uint32_t)s->snapshot_trailing,
    };
    return nl_cluster_open(&options, &events, server, &server->cluster, error_text, error_size);
}

static int open_steps(struct nl_server *server, const char *secret, void (*on_ready)(void *user),
                      void *user, char *error_text, size_t error_size) {
    int rv = make_parts(server, on_ready, user);
    if (rv == NL_OK) {
        rv = make_services(server);
    }
    if (rv == NL_OK) {
        rv = NL_FAILPOINT("start.rpc") ? NL_EIO : nl_rpc_new(server->loop, &server->rpc);
    }
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "can't start: %s", nl_strerror(rv));
        return rv;
    }
    rv = listen_grpc(server, error_text, error_size);
    return rv == NL_OK ? open_cluster(server, secret, error_text, error_size) : rv;
}

int nl_server_open(uv_loop_t *loop, struct nl_settings *settings, const char *secret,
                   void (*on_ready)(void *user), void *user, struct nl_server **ret,
                   char *error_text, size_t error_size) {
    struct nl_server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        snprintf(error_text, error_size, "out of memory");
        return NL_ENOMEM;
    }
    server->loop = loop;
    server->settings = settings;
    server->started_ms = nl_clock_mono_ms();
    nl_defer_init(&server->defer, loop);
    int rv = open_steps(server, secret, on_ready, user, error_text, error_size);
    if (rv != NL_OK) {
        nl_server_close_now(server, NULL, NULL);
        return rv;
    }
    nl_node_life_start(server->life);
    nl_housekeeping_start(server->housekeeping);
    *ret = server;
    return NL_OK;
}

uint16_t nl_server_port(const struct nl_server *server) {
    return nl_rpc_server_port(server->grpc);
}
