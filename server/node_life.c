#include "server/node_life.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "server/messages.h"
#include "server/sessions.h"
#include "server/version.h"

enum { TICK_MS = 100, NODE_UP_RETRY_MS = 500, MOVE_GRACE_MS = 2000 };

struct nl_node_life {
    struct nl_server *server;
    void (*on_ready)(void *user);
    void *user;
    uv_timer_t timer;
    bool proposing, was_ready, sent_away;
    uint64_t next_try_ms;
    int serving_tasks, serving_control;  // last said health, -1: nothing yet
};

struct nl_node_life *nl_node_life_new(struct nl_server *server, void (*on_ready)(void *user),
                                      void *user) {
    struct nl_node_life *life = calloc(1, sizeof *life);
    if (life == NULL) {
        return NULL;
    }
    *life = (struct nl_node_life){.server = server,
                                  .on_ready = on_ready,
                                  .user = user,
                                  .serving_tasks = -1,
                                  .serving_control = -1};
    uv_timer_init(server->loop, &life->timer);
    life->timer.data = life;
    return life;
}

void nl_node_life_stop(struct nl_node_life *life) {
    if (life != NULL) {
        uv_timer_stop(&life->timer);
    }
}

static void on_timer_closed(uv_handle_t *handle) {
    free(handle->data);
}

void nl_node_life_close(struct nl_node_life *life) {
    if (life != NULL) {
        uv_close((uv_handle_t *)&life->timer, on_timer_closed);
    }
}

// The state says that this boot of this node is up.
static bool is_up(const struct nl_node_life *life) {
    struct nl_cluster *cluster = life->server->cluster;
    const struct nl_node *node = nl_state_node(nl_cluster_state(cluster), nl_cluster_id(cluster));
    return node != NULL && node->up && node->boot == nl_cluster_boot(cluster);
}

bool nl_node_life_takes_agents(struct nl_node_life *life, const char **ret_why) {
    struct nl_cluster_status status;
    if (life->server->draining) {
        *ret_why = "this node is stopping; try another";
        return false;
    }
    nl_cluster_status(life->server->cluster, &status);
    if (!is_up(life) || status.leader == 0) {
        *ret_why = "this node has no quorum; try another";
        return false;
    }
    return true;
}

// ---- NodeUp ----------------------------------------------------------------

static void on_proposed(void *user, int result, struct nl_outcome outcome, uint64_t index,
                        uint64_t term) {
    (void)outcome;
    (void)index;
    (void)term;
    struct nl_node_life *life = user;
    life->proposing = false;
    if (result != NL_OK) {
        nl_log(NL_LOG_DEBUG, "node", "NodeUp not committed", "why", nl_strerror(result), NULL);
    }
}

static void propose_up(struct nl_node_life *life, uint64_t now) {
    const struct nl_settings *settings = life->server->settings;
    (void)NL_FAILPOINT("start.node_up");
    Nodelink__V1__NodeUp m = NODELINK__V1__NODE_UP__INIT;
    m.node = settings->node_id;
    m.name = settings->node_name;
    m.grpc_address = nl_message_text(settings->advertised_grpc);
    m.node_boot = nl_cluster_boot(life->server->cluster);
    m.version = nl_message_text(NL_VERSION);
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_NODE_UP;
    command.node_up = &m;
    life->next_try_ms = now + NODE_UP_RETRY_MS;
    life->proposing =
        nl_cluster_propose(life->server->cluster, &command, 0, on_proposed, life) == NL_OK;
}

// ---- leaderless ------------------------------------------------------------

static void check_leader(struct nl_node_life *life, const struct nl_cluster_status *status) {
    if (status->leader != 0) {
        life->sent_away = false;
        return;
    }
    if (life->sent_away || status->leaderless_ms < life->server->settings->leaderless_grace_ms) {
        return;
    }
    life->sent_away = true;
    if (nl_sessions_count(life->server->sessions) > 0) {
        nl_log(NL_LOG_WARN, "node", "no leader: agents are sent to other nodes", "for_ms",
               nl_log_u64(status->leaderless_ms).s, "agents",
               nl_log_u64(nl_sessions_count(life->server->sessions)).s, NULL);
        nl_sessions_drain(life->server->sessions, "this node has no leader; try another",
                          MOVE_GRACE_MS);
    }
}

// ---- health ----------------------------------------------------------------

static void say_health(struct nl_node_life *life, int *said, const char *service, bool serving) {
    if (*said != (int)serving) {
        *said = serving;
        nl_rpc_server_set_health(life->server->grpc, service, serving);
    }
}

static void update_health(struct nl_node_life *life, bool tasks) {
    bool control = !life->server->draining;
    say_health(life, &life->serving_tasks, "nodelink.v1.TaskService", tasks && control);
    if (life->serving_control != (int)control) {
        nl_rpc_server_set_health(life->server->grpc, "", control);
    }
    say_health(life, &life->serving_control, "nodelink.v1.ControlService", control);
}

void nl_node_life_drain(struct nl_node_life *life) {
    update_health(life, false);
}

// ---- time ------------------------------------------------------------------

static void on_timer(uv_timer_t *timer) {
    struct nl_node_life *life = timer->data;
    struct nl_cluster_status status;
    nl_cluster_status(life->server->cluster, &status);
    uint64_t now = nl_clock_mono_ms();
    bool up = is_up(life);
    if (!up && status.leader != 0 && !life->proposing && now >= life->next_try_ms &&
        !life->server->draining) {
        propose_up(life, now);
    }
    check_leader(life, &status);
    update_health(life, up && status.leader != 0 && status.quorum);
    if (up && !life->was_ready) {
        life->was_ready = true;
        life->on_ready(life->user);
    }
}

void nl_node_life_start(struct nl_node_life *life) {
    uv_timer_start(&life->timer, on_timer, 1, TICK_MS);
}

// ---- what happens ----------------------------------------------------------

void nl_node_life_on_effect(struct nl_node_life *life, const struct nl_effect *effect) {
    if (effect->kind != NL_EFFECT_NODE) {
        return;
    }
    const struct nl_node *node = effect->node;
    // Before this node is up itself it replays what is long known.
    nl_log(life->was_ready ? NL_LOG_INFO : NL_LOG_DEBUG, "node", node->up ? "node up" : "node down",
           "node", node->name, "boot", nl_log_u64(node->boot).s, "index",
           nl_log_u64(effect->index).s, NULL);
    life->next_try_ms = 0;
}

void nl_node_life_on_role(struct nl_node_life *life, enum nl_cluster_role role, uint64_t term,
                          uint64_t leader) {
    life->next_try_ms = 0;
    if (leader != 0) {
        (void)NL_FAILPOINT("start.leader");
    }
    nl_log(NL_LOG_INFO, "node", "role", "role", nl_cluster_role_name(role), "term",
           nl_log_u64(term).s, "leader", nl_log_u64(leader).s, NULL);
}
