#include "server/sessions.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "server/auth.h"
#include "server/leaving.h"
#include "server/node_life.h"
#include "server/stock.h"

enum { TOKEN_LEN_MAX = 4096, STREAMS_PER_AGENT_MAX = 4 };

// The streams of one agent: mostly one, two while it replaces its own.
struct entry {
    char *agent_id;
    struct nl_session *list;
    uint32_t count;
    UT_hash_handle hh;
};

struct nl_sessions {
    struct nl_server *server;
    struct entry *entries;
    struct nl_session *all;
    uint32_t streams, objects;
    struct nl_leaving *leaving;
};

struct nl_sessions *nl_sessions_new(struct nl_server *server) {
    struct nl_sessions *sessions = calloc(1, sizeof *sessions);
    if (sessions == NULL) {
        return NULL;
    }
    sessions->server = server;
    sessions->leaving = nl_leaving_new(server);
    if (sessions->leaving == NULL) {
        free(sessions);
        return NULL;
    }
    return sessions;
}

void nl_sessions_stop(struct nl_sessions *sessions) {
    if (sessions != NULL) {
        nl_leaving_stop(sessions->leaving);
    }
}

void nl_sessions_close(struct nl_sessions *sessions) {
    if (sessions != NULL) {
        assert(sessions->all == NULL);
        nl_leaving_close(sessions->leaving);
        free(sessions);
    }
}

// ---- the table -------------------------------------------------------------

static struct entry *entry_find(const struct nl_sessions *sessions, const char *agent_id) {
    struct entry *entry = NULL;
    HASH_FIND_STR(sessions->entries, agent_id, entry);
    return entry;
}

static struct entry *entry_get(struct nl_sessions *sessions, const char *agent_id) {
    struct entry *entry = entry_find(sessions, agent_id);
    if (entry != NULL) {
        return entry;
    }
    entry = calloc(1, sizeof *entry);
    char *copy = strdup(agent_id);
    if (entry == NULL || copy == NULL) {
        free(entry);
        free(copy);
        return NULL;
    }
    entry->agent_id = copy;
    HASH_ADD_KEYPTR(hh, sessions->entries, entry->agent_id, strlen(entry->agent_id), entry);
    return entry;
}

int nl_sessions_add(struct nl_sessions *sessions, struct nl_session *session) {
    struct entry *entry = entry_get(sessions, session->agent_id);
    if (entry == NULL) {
        return NL_ENOMEM;
    }
    DL_APPEND(entry->list, session);
    DL_APPEND2(sessions->all, session, all_prev, all_next);
    entry->count++;
    sessions->streams++;
    sessions->objects++;
    session->listed = true;
    return NL_OK;
}

void nl_sessions_left(struct nl_sessions *sessions, struct nl_session *session) {
    sessions->streams--;
    if (nl_session_epoch(session) != 0 && sessions->server->cluster != NULL) {
        nl_leaving_add(sessions->leaving, session->agent_id, nl_session_epoch(session),
                       nl_session_core_why(session->core));
    }
}

void nl_sessions_ended(struct nl_sessions *sessions, struct nl_session *session) {
    struct entry *entry = entry_find(sessions, session->agent_id);
    DL_DELETE(entry->list, session);
    DL_DELETE2(sessions->all, session, all_prev, all_next);
    sessions->objects--;
    if (--entry->count == 0) {
        HASH_DEL(sessions->entries, entry);
        free(entry->agent_id);
        free(entry);
    }
}

uint32_t nl_sessions_count(const struct nl_sessions *sessions) {
    return sessions->streams;
}

size_t nl_sessions_objects(const struct nl_sessions *sessions) {
    return sessions->objects;
}

size_t nl_sessions_busy(const struct nl_sessions *sessions) {
    return sessions->objects + nl_leaving_count(sessions->leaving);
}

struct nl_session *nl_sessions_find(struct nl_sessions *sessions, const char *agent_id,
                                    uint64_t epoch) {
    struct entry *entry = entry_find(sessions, agent_id);
    struct nl_session *s = NULL;
    if (entry != NULL) {
        DL_FOREACH (entry->list, s) {
            if (nl_session_is_active(s) && nl_session_epoch(s) == epoch) {
                return s;
            }
        }
    }
    return NULL;
}

uint32_t nl_sessions_tasks_active(struct nl_sessions *sessions) {
    const struct nl_state *state = nl_cluster_state(sessions->server->cluster);
    struct entry *entry, *tmp;
    uint32_t sum = 0;
    HASH_ITER (hh, sessions->entries, entry, tmp) {
        const struct nl_agent *agent = nl_state_agent(state, entry->agent_id);
        if (agent != NULL && nl_sessions_find(sessions, agent->id, agent->epoch) != NULL) {
            sum += agent->tasks_active;
        }
    }
    return sum;
}

// ---- effects ---------------------------------------------------------------

static void tell(struct entry *entry, const struct nl_session_event *event) {
    struct nl_session *s;
    DL_FOREACH (entry->list, s) {
        nl_session_post(s, event);
    }
}

static bool has_stream_of(const struct entry *entry, uint64_t epoch) {
    struct nl_session *s;
    DL_FOREACH (entry->list, s) {
        enum nl_session_state state = nl_session_core_state(s->core);
        if (state == NL_SESSION_REGISTERING || nl_session_epoch(s) == epoch) {
            return true;
        }
    }
    return false;
}

// The state says that the agent is connected here, but there is no such stream: a registration
// whose stream ended meanwhile, or whose outcome was given up.
static void check_orphan(struct nl_sessions *sessions, const struct nl_agent *agent) {
    struct nl_cluster *cluster = sessions->server->cluster;
    if (cluster == NULL || agent->connection != NL_AGENT_CONNECTED ||
        agent->owner != nl_cluster_id(cluster) || agent->owner_boot != nl_cluster_boot(cluster)) {
        return;
    }
    const struct entry *entry = entry_find(sessions, agent->id);
    if (entry == NULL || !has_stream_of(entry, agent->epoch)) {
        nl_leaving_add(sessions->leaving, agent->id, agent->epoch, "no stream of this agent");
    }
}

static void on_task(struct nl_sessions *sessions, const struct nl_task *task,
                    enum nl_session_event_kind kind) {
    struct entry *entry = entry_find(sessions, task->spec->agent_id);
    if (entry != NULL) {
        tell(entry, &(struct nl_session_event){.kind = kind, .task = task});
    }
}

void nl_sessions_on_effect(struct nl_sessions *sessions, const struct nl_effect *effect) {
    struct entry *entry = NULL;
    switch (effect->kind) {
        case NL_EFFECT_TASK:
            on_task(sessions, effect->task, NL_SESSION_EV_TASK);
            return;
        case NL_EFFECT_TASK_PRUNED:
            on_task(sessions, effect->task, NL_SESSION_EV_PRUNED);
            return;
        case NL_EFFECT_AGENT:
            entry = entry_find(sessions, effect->agent->id);
            if (entry != NULL) {
                tell(entry, &(struct nl_session_event){.kind = NL_SESSION_EV_AGENT});
            }
            check_orphan(sessions, effect->agent);
            return;
        case NL_EFFECT_NODE:
        case NL_EFFECT_OUTCOME:
            return;
    }
}

void nl_sessions_on_restored(struct nl_sessions *sessions) {
    struct entry *entry, *tmp;
    HASH_ITER (hh, sessions->entries, entry, tmp) {
        tell(entry, &(struct nl_session_event){.kind = NL_SESSION_EV_RESTORED});
    }
    if (sessions->server->cluster == NULL) {
        return;
    }
    const struct nl_state *state = nl_cluster_state(sessions->server->cluster);
    const struct nl_agent *agent = nl_state_agent_next(state, NULL);
    for (; agent != NULL; agent = nl_state_agent_next(state, agent->id)) {
        check_orphan(sessions, agent);
    }
}

// ---- all of them -----------------------------------------------------------

static void tell_all(struct nl_sessions *sessions, const struct nl_session_event *event) {
    struct nl_session *s;
    DL_FOREACH2(sessions->all, s, all_next) {
        nl_session_post(s, event);
    }
}

void nl_sessions_drain(struct nl_sessions *sessions, const char *text, uint64_t grace_ms) {
    tell_all(sessions, &(struct nl_session_event){
                           .kind = NL_SESSION_EV_DRAIN, .text = text, .grace_ms = grace_ms});
}

void nl_sessions_end(struct nl_sessions *sessions, enum nl_rpc_code code, const char *text) {
    tell_all(sessions,
             &(struct nl_session_event){.kind = NL_SESSION_EV_CLOSE, .code = code, .text = text});
}

// ---- new streams -----------------------------------------------------------

static bool room_for(struct nl_sessions *sessions, struct nl_rpc_call *call, const char *agent_id) {
    const struct entry *entry = entry_find(sessions, agent_id);
    if (sessions->streams >= sessions->server->settings->agents_max) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED,
                           "this node has all the agents it may have; try another");
        return false;
    }
    if (entry != NULL && entry->count >= STREAMS_PER_AGENT_MAX) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED,
                           "too many streams of this agent at once; try again");
        return false;
    }
    return true;
}

void nl_sessions_serve(struct nl_rpc_call *call, void *user) {
    struct nl_server *server = user;
    const char *agent_id = nl_rpc_call_metadata(call, "agent_id");
    const char *token = nl_rpc_call_metadata(call, "agent_token");
    const char *protocol = nl_rpc_call_metadata(call, "nodelink-protocol");
    const char *why = NULL;
    if (agent_id == NULL || token == NULL || strlen(token) > TOKEN_LEN_MAX) {
        nl_auth_agent_failed(server->auth, call, agent_id != NULL ? agent_id : "",
                             "no agent_id or no agent_token");
        nl_rpc_call_finish(call, NL_RPC_UNAUTHENTICATED,
                           "metadata agent_id and agent_token are needed");
        return;
    }
    if (!nl_text_id_ok(agent_id)) {
        nl_rpc_call_finish(call, NL_RPC_INVALID_ARGUMENT, "agent_id is not a valid id");
        return;
    }
    if (!nl_auth_agent_allowed(server->auth, call, agent_id)) {
        nl_rpc_call_finish(call, NL_RPC_UNAUTHENTICATED, "too many wrong tokens; try again later");
        return;
    }
    if (!nl_node_life_takes_agents(server->life, &why)) {
        nl_rpc_call_finish(call, NL_RPC_UNAVAILABLE, why);
        return;
    }
    if (!room_for(server->sessions, call, agent_id)) {
        return;
    }
    uint8_t hash[NL_SHA256_LEN];
    nl_sha256_of(token, strlen(token), hash);
    nl_session_start(server, call, agent_id, hash, protocol != NULL && strcmp(protocol, "1") == 0);
}
