// A listening server: start, the posted requests for calls, stop.

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/rpc/bind_probe.h"
#include "common/rpc/internal.h"

// ---- requests for calls ----------------------------------------------------

static void completion_over(struct nl_rpc_server *server) {
    if (atomic_fetch_sub(&server->pending, 1) == 1) {
        nl_rpc_post(server->rpc, &server->node);
    }
}

static void post_slot(struct nl_rpc_slot *slot) {
    struct nl_rpc_server *server = slot->server;
    grpc_call_details_init(&slot->arrival.details);
    grpc_metadata_array_init(&slot->arrival.headers);
    grpc_completion_queue *queue = server->rpc->queue;
    NL_RPC_HAND_OUT(&slot->op);
    grpc_call_error error =
        grpc_server_request_call(server->core, &slot->arrival.core, &slot->arrival.details,
                                 &slot->arrival.headers, queue, queue, &slot->op);
    assert(error == GRPC_CALL_OK);
    (void)error;
}

// After a shutdown a posted slot completes at once with !ok, so nobody has to know.
static void on_arrival(struct nl_rpc_op *op, bool ok) {
    struct nl_rpc_slot *slot = NL_CONTAINER(op, struct nl_rpc_slot, op);
    struct nl_rpc_server *server = slot->server;
    if (!ok) {
        grpc_call_details_destroy(&slot->arrival.details);
        grpc_metadata_array_destroy(&slot->arrival.headers);
        completion_over(server);
        return;
    }
    struct nl_rpc_arrival arrival = slot->arrival;
    // The call first takes part in calls_open, then the slot goes back: a server that sees no
    // slot and no open call has none on its way.
    nl_rpc_accept(server, &arrival);
    post_slot(slot);
}

static void on_shutdown(struct nl_rpc_op *op, bool ok) {
    (void)ok;
    completion_over(NL_CONTAINER(op, struct nl_rpc_server, op_shutdown));
}

// ---- stop ------------------------------------------------------------------

static void on_timer_closed(uv_handle_t *handle) {
    struct nl_rpc_server *server = handle->data;
    struct nl_rpc *rpc = server->rpc;
    void (*done)(void *user) = server->done;
    void *user = server->user;
    free(server);
    if (done != NULL) {
        done(user);
    }
    nl_rpc_object_gone(rpc);
}

// What exists of a half-built server, too.
static void close_parts(struct nl_rpc_server *server) {
    if (server->core != NULL) {
        grpc_server_destroy(server->core);
    }
    nl_accept_guard_free(server->guard);
    nl_rpc_health_free(server->health);
    nl_rpc_tls_close(server->tls);
    nl_rpc_routes_close(&server->routes);
}

static void destroy_if_over(struct nl_rpc_server *server) {
    if (server->destroyed || !server->core_done || atomic_load(&server->calls_open) > 0) {
        return;
    }
    server->destroyed = true;
    close_parts(server);
    uv_close((uv_handle_t *)&server->timer, on_timer_closed);
}

static void on_core_done(struct nl_rpc_node *node) {
    struct nl_rpc_server *server = NL_CONTAINER(node, struct nl_rpc_server, node);
    server->core_done = true;
    destroy_if_over(server);
}

void nl_rpc_server_call_gone(struct nl_rpc_server *server) {
    atomic_fetch_sub(&server->calls_open, 1);
    destroy_if_over(server);
}

static void on_grace_over(uv_timer_t *timer) {
    struct nl_rpc_server *server = timer->data;
    if (!server->destroyed) {
        grpc_server_cancel_all_calls(server->core);
    }
}

void nl_rpc_server_stop(struct nl_rpc_server *server, uint32_t grace_ms, void (*done)(void *user),
                        void *user) {
    assert(!server->stopping);
    server->stopping = true;
    server->done = done;
    server->user = user;
    nl_rpc_health_stop(server->health);
    NL_RPC_HAND_OUT(&server->op_shutdown);
    grpc_server_shutdown_and_notify(server->core, server->rpc->queue, &server->op_shutdown);
    if (grace_ms == 0) {
        grpc_server_cancel_all_calls(server->core);
    } else {
        uv_timer_start(&server->timer, on_grace_over, grace_ms, 0);
    }
}

// ---- start -----------------------------------------------------------------

static int make_routes(struct nl_rpc_server *server, const struct nl_rpc_service *services,
                       char *error_text, size_t error_size) {
    server->health = nl_rpc_health_new(services);
    if (server->health == NULL) {
        return NL_ENOMEM;
    }
    server->services = services;
    server->builtin[0] = nl_rpc_health_service(server->health);
    server->builtin[1] = nl_rpc_reflection_service(server);
    int rc = nl_rpc_routes_add(&server->routes, services, error_text, error_size);
    if (rc == NL_OK) {
        rc = nl_rpc_routes_add(&server->routes, server->builtin, error_text, error_size);
    }
    if (rc == NL_OK) {
        nl_rpc_routes_sort(&server->routes);
    }
    return rc;
}

static int bind_port(struct nl_rpc_server *server, const struct nl_rpc_server_options *options,
                     char *error_text, size_t error_size) {
    int rc = nl_rpc_bind_probe(options->address, error_text, error_size);
    if (rc != NL_OK) {
        return rc;
    }
    grpc_server_credentials *credentials = server->tls != NULL
                                               ? nl_rpc_tls_server(server->tls)
                                               : grpc_insecure_server_credentials_create();
    int port = grpc_server_add_http2_port(server->core, options->address, credentials);
    grpc_server_credentials_release(credentials);
    if (port <= 0) {
        snprintf(error_text, error_size, "can't listen on %s", options->address);
        return NL_EBUSY;
    }
    server->port = (uint16_t)port;
    return NL_OK;
}

static int build(struct nl_rpc_server *server, const struct nl_rpc_server_options *options,
                 const struct nl_rpc_service *services, char *error_text, size_t error_size) {
    int rc = make_routes(server, services, error_text, error_size);
    if (rc == NL_OK && options->tls != NULL) {
        rc = nl_rpc_tls_open(options->tls, true, &server->tls, error_text, error_size);
    }
    if (rc != NL_OK) {
        return rc;
    }
    struct nl_rpc_args args;
    nl_rpc_args_server(&args, options, &server->limits);
    grpc_channel_args core_args = nl_rpc_args_core(&args);
    server->core = grpc_server_create(&core_args, NULL);
    grpc_server_register_completion_queue(server->core, server->rpc->queue, NULL);
    server->guard = nl_accept_guard_new();
    rc = server->guard != NULL ? bind_port(server, options, error_text, error_size) : NL_ENOMEM;
    if (rc != NL_OK) {
        return rc;
    }
    nl_accept_guard_watch(server->guard, server->port, options->connections_max);
    return NL_OK;
}

static void start(struct nl_rpc_server *server) {
    uv_timer_init(server->rpc->loop, &server->timer);
    server->timer.data = server;
    server->op_shutdown.done = on_shutdown;
    server->node.run = on_core_done;
    atomic_init(&server->pending, NL_RPC_SLOTS + 1);
    grpc_server_start(server->core);
    for (size_t i = 0; i < NL_RPC_SLOTS; i++) {
        server->slots[i].server = server;
        server->slots[i].op.done = on_arrival;
        post_slot(&server->slots[i]);
    }
}

int nl_rpc_server_new(struct nl_rpc *rpc, const struct nl_rpc_server_options *options,
                      const struct nl_rpc_service *services, struct nl_rpc_server **ret,
                      char *error_text, size_t error_size) {
    struct nl_rpc_server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        snprintf(error_text, error_size, "no memory for the server");
        return NL_ENOMEM;
    }
    server->rpc = rpc;
    server->limits = (struct nl_rpc_limits){
        .message_bytes_max = options->message_bytes_max,
        .unpacked_bytes_max = options->unpacked_bytes_max,
        .recv_queue_max = options->recv_queue_max,
        .send_queue_bytes_max = options->send_queue_bytes_max,
    };
    nl_rpc_limits_default(&server->limits);
    int rc = build(server, options, services, error_text, error_size);
    if (rc != NL_OK) {
        if (rc == NL_ENOMEM) {
            snprintf(error_text, error_size, "no memory for the server");
        }
        close_parts(server);
        free(server);
        return rc;
    }
    start(server);
    nl_rpc_object_born(rpc);
    *ret = server;
    return NL_OK;
}

uint16_t nl_rpc_server_port(const struct nl_rpc_server *server) {
    return server->port;
}

void nl_rpc_server_set_health(struct nl_rpc_server *server, const char *service, bool serving) {
    nl_rpc_health_set(server->health, service, serving);
}

void nl_rpc_server_stats(const struct nl_rpc_server *server, struct nl_rpc_server_stats *ret) {
    *ret = (struct nl_rpc_server_stats){
        .connections_refused = nl_accept_guard_refused(server->guard),
        .calls_started = atomic_load(&server->calls_started),
        .calls_open = atomic_load(&server->calls_open),
        .bad_messages = atomic_load(&server->bad_messages),
    };
}
