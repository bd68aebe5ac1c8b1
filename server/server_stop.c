#include "server/server_stop.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "server/auth.h"
#include "server/control.h"
#include "server/housekeeping.h"
#include "server/node_life.h"
#include "server/output.h"
#include "server/sessions.h"

enum { POLL_MS = 20 };

struct stop {
    struct nl_server *server;
    void (*done)(void *user);
    void *user;
    uv_timer_t timer;
    uint64_t until_ms;  // of the drain
    uint64_t close_grace_ms;
    bool stepped_down;
};

// ---- close -----------------------------------------------------------------

static void on_stop_closed(uv_handle_t *handle) {
    struct stop *stop = handle->data;
    void (*done)(void *user) = stop->done;
    void *user = stop->user;
    free(stop);
    if (done != NULL) {
        done(user);
    }
}

static void on_defer_closed(uv_handle_t *handle) {
    struct stop *stop = handle->data;
    free(stop->server);
    uv_close((uv_handle_t *)&stop->timer, on_stop_closed);
}

static void on_rpc_closed(void *user) {
    struct stop *stop = user;
    nl_defer_close(&stop->server->defer, on_defer_closed, stop);
}

static void free_parts(struct nl_server *server) {
    nl_node_life_close(server->life);
    nl_housekeeping_close(server->housekeeping);
    nl_control_free(server->control);
    nl_sessions_close(server->sessions);
    nl_outputs_free(server->outputs);
    nl_auth_free(server->auth);
    nl_topics_free(server->task_topics);
    nl_topics_free(server->agent_topics);
    free((void *)(uintptr_t)server->services);
    free(server->addresses);
}

static bool parts_idle(const struct nl_server *server) {
    return (server->control == NULL ||
            (server->control->operations == 0 && server->control->submits == NULL &&
             nl_watches_count(server->control->watches) == 0)) &&
           (server->sessions == NULL || nl_sessions_objects(server->sessions) == 0);
}

// Callbacks of the closed cluster and of closed calls still have their turn.
static void wait_for_parts(uv_timer_t *timer) {
    struct stop *stop = timer->data;
    struct nl_server *server = stop->server;
    if (!parts_idle(server)) {
        return;
    }
    uv_timer_stop(timer);
    free_parts(server);
    if (server->rpc != NULL) {
        nl_rpc_close(server->rpc, on_rpc_closed, stop);
    } else {
        on_rpc_closed(stop);
    }
}

static void on_cluster_closed(void *user) {
    struct stop *stop = user;
    uv_timer_start(&stop->timer, wait_for_parts, 0, POLL_MS);
}

static void on_grpc_stopped(void *user) {
    struct stop *stop = user;
    struct nl_server *server = stop->server;
    struct nl_cluster *cluster = server->cluster;
    server->cluster = NULL;  // nobody asks a closing cluster anything
    nl_node_life_stop(server->life);
    nl_housekeeping_stop(server->housekeeping);
    nl_sessions_stop(server->sessions);
    if (cluster != NULL) {
        nl_cluster_close(cluster, on_cluster_closed, stop);
    } else {
        on_cluster_closed(stop);
    }
}

static void close_all(struct stop *stop) {
    uv_timer_stop(&stop->timer);
    if (stop->server->grpc != NULL) {
        nl_rpc_server_stop(stop->server->grpc, (uint32_t)stop->close_grace_ms, on_grpc_stopped,
                           stop);
    } else {
        on_grpc_stopped(stop);
    }
}

static struct stop *stop_new(struct nl_server *server, void (*done)(void *user), void *user) {
    struct stop *stop = calloc(1, sizeof *stop);
    if (stop == NULL) {
        nl_log(NL_LOG_ERROR, "node", "out of memory while stopping", NULL);
        _Exit(1);
    }
    *stop = (struct stop){.server = server, .done = done, .user = user};
    uv_timer_init(server->loop, &stop->timer);
    stop->timer.data = stop;
    server->draining = true;
    return stop;
}

void nl_server_close_now(struct nl_server *server, void (*done)(void *user), void *user) {
    close_all(stop_new(server, done, user));
}

// ---- drain -----------------------------------------------------------------

static void on_stepped_down(void *user) {
    struct stop *stop = user;
    stop->stepped_down = true;
}

static void wait_for_drain(uv_timer_t *timer) {
    struct stop *stop = timer->data;
    bool done = stop->stepped_down && nl_sessions_busy(stop->server->sessions) == 0;
    if (!done && nl_clock_mono_ms() < stop->until_ms) {
        return;
    }
    nl_log(NL_LOG_INFO, "node", "drained", "streams_left",
           nl_log_u64(nl_sessions_count(stop->server->sessions)).s, NULL);
    nl_sessions_end(stop->server->sessions, NL_RPC_UNAVAILABLE, "this node stopped; try another");
    close_all(stop);
}

void nl_server_stop(struct nl_server *server, void (*done)(void *user), void *user) {
    struct stop *stop = stop_new(server, done, user);
    uint64_t timeout = server->settings->drain_timeout_ms;
    nl_log(NL_LOG_INFO, "node", "draining", "agents",
           nl_log_u64(nl_sessions_count(server->sessions)).s, NULL);
    stop->until_ms = nl_clock_mono_ms() + timeout * 6 / 10;
    stop->close_grace_ms = timeout / 10 > 0 ? timeout / 10 : 1;
    nl_node_life_drain(server->life);
    nl_watches_end(server->control->watches, "failed: this node is stopping; go on at another");
    nl_submits_end(server->control,
                   "unknown: this node is stopping; ask another for what was not answered");
    nl_sessions_drain(server->sessions, "this node is stopping; try another", timeout / 2);
    if (server->settings->n_members > 1) {
        nl_cluster_step_down(server->cluster, timeout / 2, on_stepped_down, stop);
    } else {
        stop->stepped_down = true;
    }
    uv_timer_start(&stop->timer, wait_for_drain, POLL_MS, POLL_MS);
}
