#include "server/leaving.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "server/messages.h"

enum { RETRY_MS = 250, PER_TICK = 512 };

struct entry {
    struct nl_leaving *leaving;
    char *agent_id, *reason;
    uint64_t epoch;
    char key[NL_STATE_ID_MAX + 24];  // agent id and epoch
    bool in_flight;
    UT_hash_handle hh;
};

struct nl_leaving {
    struct nl_server *server;
    struct entry *entries;
    uv_timer_t timer;
};

static void entry_free(struct entry *e) {
    HASH_DEL(e->leaving->entries, e);
    free(e->agent_id);
    free(e->reason);
    free(e);
}

static bool still_ours(const struct nl_leaving *leaving, const struct entry *e) {
    struct nl_cluster *cluster = leaving->server->cluster;
    const struct nl_agent *agent = nl_state_agent(nl_cluster_state(cluster), e->agent_id);
    return agent != NULL && agent->epoch == e->epoch && agent->connection == NL_AGENT_CONNECTED &&
           agent->owner == nl_cluster_id(cluster);
}

static void on_proposed(void *user, int result, struct nl_outcome outcome, uint64_t index,
                        uint64_t term) {
    (void)outcome;
    (void)index;
    (void)term;
    struct entry *e = user;
    e->in_flight = false;
    if (result == NL_OK) {
        entry_free(e);
    }
}

static void propose(struct entry *e) {
    Nodelink__V1__AgentDisconnect m = NODELINK__V1__AGENT_DISCONNECT__INIT;
    m.agent_id = e->agent_id;
    m.epoch = e->epoch;
    m.reason = nl_message_text(e->reason);
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_DISCONNECT;
    command.agent_disconnect = &m;
    e->in_flight =
        nl_cluster_propose(e->leaving->server->cluster, &command, 0, on_proposed, e) == NL_OK;
}

static void on_timer(uv_timer_t *timer) {
    struct nl_leaving *leaving = timer->data;
    struct entry *e, *tmp;
    int n = 0;
    HASH_ITER (hh, leaving->entries, e, tmp) {
        if (e->in_flight) {
            continue;
        }
        if (!still_ours(leaving, e)) {
            entry_free(e);
        } else if (n++ < PER_TICK) {
            propose(e);
        }
    }
    if (leaving->entries == NULL) {
        uv_timer_stop(&leaving->timer);
    }
}

struct nl_leaving *nl_leaving_new(struct nl_server *server) {
    struct nl_leaving *leaving = calloc(1, sizeof *leaving);
    if (leaving == NULL) {
        return NULL;
    }
    leaving->server = server;
    uv_timer_init(server->loop, &leaving->timer);
    leaving->timer.data = leaving;
    return leaving;
}

void nl_leaving_stop(struct nl_leaving *leaving) {
    if (leaving != NULL) {
        uv_timer_stop(&leaving->timer);
    }
}

static void on_timer_closed(uv_handle_t *handle) {
    free(handle->data);
}

void nl_leaving_close(struct nl_leaving *leaving) {
    while (leaving->entries != NULL) {
        entry_free(leaving->entries);
    }
    uv_close((uv_handle_t *)&leaving->timer, on_timer_closed);
}

static struct entry *entry_new(struct nl_leaving *leaving, const char *agent_id, uint64_t epoch,
                               const char *reason) {
    struct entry *e = calloc(1, sizeof *e);
    char *id = strdup(agent_id);
    if (e == NULL || id == NULL) {
        free(e);
        free(id);
        return NULL;
    }
    e->leaving = leaving;
    e->agent_id = id;
    e->epoch = epoch;
    e->reason = strdup(reason);
    snprintf(e->key, sizeof e->key, "%s %" PRIu64, agent_id, epoch);
    HASH_ADD_STR(leaving->entries, key, e);
    return e;
}

void nl_leaving_add(struct nl_leaving *leaving, const char *agent_id, uint64_t epoch,
                    const char *reason) {
    struct entry *e = NULL;
    char key[sizeof e->key];
    snprintf(key, sizeof key, "%s %" PRIu64, agent_id, epoch);
    HASH_FIND_STR(leaving->entries, key, e);
    if (e != NULL) {
        return;
    }
    e = entry_new(leaving, agent_id, epoch, reason);
    if (e == NULL) {
        nl_log(NL_LOG_ERROR, "session", "out of memory", "agent", agent_id, NULL);
        return;
    }
    propose(e);
    if (!uv_is_active((uv_handle_t *)&leaving->timer)) {
        uv_timer_start(&leaving->timer, on_timer, RETRY_MS, RETRY_MS);
    }
}

size_t nl_leaving_count(const struct nl_leaving *leaving) {
    return HASH_COUNT(leaving->entries);
}
