#include "server/housekeeping.h"

#include <stdlib.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "server/housekeeping_core.h"

enum { TICK_MS = 100, PER_TICK = 256, IN_FLIGHT_MAX = 512, PRUNE_EVERY_MS = 1000 };

struct nl_housekeeping {
    struct nl_server *server;
    struct nl_housekeeper *core;
    uv_timer_t timer;
    uint32_t in_flight;
    uint64_t leading_since_ms;  // 0: another node leads
    uint64_t next_prune_ms, next_node_ms;
    bool pruning, restored;
};

struct nl_housekeeping *nl_housekeeping_new(struct nl_server *server) {
    struct nl_housekeeping *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return NULL;
    }
    h->server = server;
    h->core = nl_housekeeper_new();
    if (h->core == NULL) {
        free(h);
        return NULL;
    }
    uv_timer_init(server->loop, &h->timer);
    h->timer.data = h;
    return h;
}

void nl_housekeeping_stop(struct nl_housekeeping *h) {
    if (h != NULL) {
        uv_timer_stop(&h->timer);
    }
}

static void on_timer_closed(uv_handle_t *handle) {
    struct nl_housekeeping *h = handle->data;
    nl_housekeeper_free(h->core);
    free(h);
}

void nl_housekeeping_close(struct nl_housekeeping *h) {
    if (h != NULL) {
        uv_close((uv_handle_t *)&h->timer, on_timer_closed);
    }
}

static struct nl_housekeeping_times times_of(const struct nl_housekeeping *h) {
    return (struct nl_housekeeping_times){h->server->settings->unreachable_after_ms,
                                          h->server->settings->disconnect_grace_ms,
                                          nl_clock_wall_ms()};
}

static void noted(int rv) {
    if (rv != NL_OK) {
        nl_log(NL_LOG_ERROR, "housekeeping", "out of memory: a time-out may be missed", NULL);
    }
}

// ---- proposals -------------------------------------------------------------

static void on_proposed(void *user, int result, struct nl_outcome outcome, uint64_t index,
                        uint64_t term) {
    (void)outcome;
    (void)index;
    (void)term;
    (void)result;  // what is still true is proposed again
    struct nl_housekeeping *h = user;
    h->in_flight--;
}

static bool propose(struct nl_housekeeping *h, Nodelink__V1__Command *command) {
    if (h->in_flight >= IN_FLIGHT_MAX ||
        nl_cluster_propose(h->server->cluster, command, 0, on_proposed, h) != NL_OK) {
        return false;
    }
    h->in_flight++;
    return true;
}

static void judge(struct nl_housekeeping *h, uint64_t now) {
    struct nl_judgement j;
    const struct nl_state *state = nl_cluster_state(h->server->cluster);
    for (int n = 0; n < PER_TICK && h->in_flight < IN_FLIGHT_MAX; n++) {
        if (!nl_housekeeper_next(h->core, now, state, &j)) {
            return;
        }
        if (propose(h, &j.command)) {
            nl_log(NL_LOG_INFO, "housekeeping", j.what, j.agent_id != NULL ? "agent" : "task",
                   j.agent_id != NULL ? j.agent_id : j.task_id, NULL);
        }
    }
}

static void prune(struct nl_housekeeping *h, uint64_t now);

static void on_pruned(void *user, int result, struct nl_outcome outcome, uint64_t index,
                      uint64_t term) {
    (void)index;
    (void)term;
    struct nl_housekeeping *h = user;
    h->pruning = false;
    if (result == NL_OK && outcome.value > 0) {
        nl_log(NL_LOG_DEBUG, "housekeeping", "pruned", "tasks", nl_log_u64(outcome.value).s, NULL);
        // Perhaps there are more. Few go with one command, so the next one follows at once: more
        // tasks can end in a second than ticks would let go.
        h->next_prune_ms = 0;
        if (h->leading_since_ms != 0) {
            prune(h, nl_clock_mono_ms());
        }
    }
}

static void prune(struct nl_housekeeping *h, uint64_t now) {
    const struct nl_settings *settings = h->server->settings;
    Nodelink__V1__TaskPrune m;
    if (h->pruning || now < h->next_prune_ms ||
        !nl_housekeeper_prune(nl_cluster_state(h->server->cluster), nl_clock_wall_ms(),
                              settings->retention_time_ms, settings->retention_count, &m)) {
        return;
    }
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_PRUNE;
    command.task_prune = &m;
    h->next_prune_ms = now + PRUNE_EVERY_MS;
    h->pruning = nl_cluster_propose(h->server->cluster, &command, 0, on_pruned, h) == NL_OK;
}

// ---- nodes -----------------------------------------------------------------

// How long the leader has heard nothing of the node; not longer than it leads, because what it
// did not hear as a follower says nothing.
static uint64_t silence(const struct nl_housekeeping *h, const struct nl_cluster_peer_status *peer,
                        uint64_t now) {
    uint64_t leading = now - h->leading_since_ms;
    return peer->last_seen_ms < leading ? peer->last_seen_ms : leading;
}

static void judge_nodes(struct nl_housekeeping *h, uint64_t now) {
    struct nl_cluster *cluster = h->server->cluster;
    const struct nl_state *state = nl_cluster_state(cluster);
    const struct nl_cluster_peer_status *peer = nl_cluster_peer_next(cluster, 0);
    for (; peer != NULL; peer = nl_cluster_peer_next(cluster, peer->id)) {
        const struct nl_node *node = nl_state_node(state, peer->id);
        if (peer->id == nl_cluster_id(cluster) || node == NULL || !node->up ||
            silence(h, peer, now) < h->server->settings->node_down_after_ms) {
            continue;
        }
        Nodelink__V1__NodeDown m = NODELINK__V1__NODE_DOWN__INIT;
        m.node = node->id;
        m.node_boot = node->boot;
        Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
        command.body_case = NODELINK__V1__COMMAND__BODY_NODE_DOWN;
        command.node_down = &m;
        if (now >= h->next_node_ms && propose(h, &command)) {
            nl_log(NL_LOG_WARN, "housekeeping", "node judged down", "node", node->name, "silent_ms",
                   nl_log_u64(silence(h, peer, now)).s, NULL);
            h->next_node_ms = now + 10 * TICK_MS;
        }
    }
}

// ---- time and changes ------------------------------------------------------

static void on_timer(uv_timer_t *timer) {
    struct nl_housekeeping *h = timer->data;
    uint64_t now = nl_clock_mono_ms();
    if (h->leading_since_ms == 0) {
        return;
    }
    if (h->restored) {
        struct nl_housekeeping_times times = times_of(h);
        h->restored = false;
        noted(nl_housekeeper_lead(h->core, now, &times, nl_cluster_state(h->server->cluster)));
    }
    judge_nodes(h, now);
    judge(h, now);
    prune(h, now);
}

void nl_housekeeping_start(struct nl_housekeeping *h) {
    uv_timer_start(&h->timer, on_timer, TICK_MS, TICK_MS);
}

void nl_housekeeping_on_effect(struct nl_housekeeping *h, const struct nl_effect *effect) {
    if (h->leading_since_ms == 0) {
        return;
    }
    struct nl_housekeeping_times times = times_of(h);
    uint64_t now = nl_clock_mono_ms();
    if (effect->kind == NL_EFFECT_AGENT) {
        noted(nl_housekeeper_on_agent(h->core, now, &times, effect->agent, effect->old_connection));
    } else if (effect->kind == NL_EFFECT_TASK) {
        noted(nl_housekeeper_on_task(h->core, now, &times, effect->task, effect->old_state));
    }
}

void nl_housekeeping_on_restored(struct nl_housekeeping *h) {
    h->restored = true;
}

// The state is looked through on the next tick, not inside of Raft's callback.
void nl_housekeeping_on_role(struct nl_housekeeping *h, enum nl_cluster_role role) {
    bool leads = role == NL_ROLE_LEADER;
    if (leads && h->leading_since_ms == 0) {
        h->leading_since_ms = nl_clock_mono_ms();
        h->restored = true;
    } else if (!leads) {
        h->leading_since_ms = 0;
        nl_housekeeper_follow(h->core);
    }
}
