#include "server/session.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "server/auth.h"
#include "server/messages.h"
#include "server/node_life.h"
#include "server/sessions.h"
#include "server/stock.h"
#include "server/tail.h"

#define CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

enum {
    ACTIONS_PER_TURN = 256,
    REGISTER_TIMEOUT_MS = 5000,
    REPORT_TIMEOUT_MS = 10000,
    AUTH_TIMEOUT_MS = 3000,
    BACKLOG_BYTES_MAX = 16 * 1024 * 1024,
};

// A proposal of a session, until its end is known.
struct report {
    struct nl_session *session;
    enum nl_session_purpose purpose;
    uint32_t attempt;
    char task_id[];
};

uint64_t nl_session_epoch(const struct nl_session *session) {
    return nl_session_core_epoch(session->core);
}

bool nl_session_is_active(const struct nl_session *session) {
    return nl_session_core_state(session->core) == NL_SESSION_ACTIVE;
}

int nl_session_send(struct nl_session *session, const Nodelink__V1__TaskRequest *frame) {
    return session->call != NULL ? nl_rpc_call_send(session->call, &frame->base) : NL_ECLOSED;
}

void nl_session_post(struct nl_session *s, const struct nl_session_event *event) {
    nl_session_core_step(s->core, nl_clock_mono_ms(), event);
    nl_defer_post(&s->server->defer, &s->turn);
}

// ---- actions ---------------------------------------------------------------

static void on_proposed(void *user, int result, struct nl_outcome outcome, uint64_t index,
                        uint64_t term) {
    (void)index;
    (void)term;
    struct report *report = user;
    struct nl_session *s = report->session;
    bool registered = report->purpose == NL_SESSION_REGISTER;
    s->pending--;
    if (report->purpose == NL_SESSION_FINISH && result == NL_OK) {
        (void)NL_FAILPOINT("session.before_ack");
    }
    if (registered && result == NL_OK && outcome.code == NL_OUTCOME_OK) {
        nl_log(NL_LOG_INFO, "session", "agent connected", "agent", s->agent_id, "epoch",
               nl_log_u64(outcome.value).s, "peer",
               s->call != NULL ? nl_rpc_call_peer(s->call) : "gone", "kind",
               s->extended ? "nodelink" : "stock", NULL);
    }
    nl_session_post(s, &(struct nl_session_event){
                           .kind = registered ? NL_SESSION_EV_REGISTERED : NL_SESSION_EV_PROPOSED,
                           .purpose = report->purpose,
                           .task_id = report->task_id,
                           .attempt = report->attempt,
                           .result = result,
                           .outcome = outcome});
    free(report);
}

static int propose(struct nl_session *s, struct nl_session_action *a) {
    size_t len = strlen(a->task_id) + 1;
    struct report *report = malloc(sizeof *report + len);
    if (report == NULL) {
        return NL_ENOMEM;
    }
    report->session = s;
    report->purpose = a->purpose;
    report->attempt = a->attempt;
    memcpy(report->task_id, a->task_id, len);
    if (a->purpose == NL_SESSION_FINISH) {
        (void)NL_FAILPOINT("session.result");
    }
    uint64_t timeout = a->purpose == NL_SESSION_REGISTER ? REGISTER_TIMEOUT_MS : REPORT_TIMEOUT_MS;
    int rv = nl_cluster_propose(s->server->cluster, &a->command, timeout, on_proposed, report);
    if (rv != NL_OK) {
        free(report);
        return rv;
    }
    s->pending++;
    return NL_OK;
}

static int send_frame(struct nl_session *s, const struct nl_session_action *a) {
    int rv = nl_session_send(s, &a->frame);
    if (rv != NL_OK) {
        return rv;
    }
    if (a->purpose == NL_SESSION_RUN && !s->extended) {
        rv = nl_stock_begin(nl_outputs_stock(s->server->outputs), a->task_id, s->agent_id,
                            nl_session_epoch(s));
    }
    if (a->task_id[0] != '\0') {
        nl_log(NL_LOG_DEBUG, "session", nl_session_purpose_name(a->purpose), "agent", s->agent_id,
               "task", a->task_id, NULL);
    }
    return NL_OK;
}

static int perform(struct nl_session *s, struct nl_session_action *a) {
    switch (a->kind) {
        case NL_SESSION_SEND:
            return send_frame(s, a);
        case NL_SESSION_PROPOSE:
            return propose(s, a);
        case NL_SESSION_FINISH_STREAM:
            if (s->call != NULL) {
                nl_rpc_call_finish(s->call, a->code, a->text);
            }
            return NL_OK;
    }
    return NL_OK;
}

// ---- the turn --------------------------------------------------------------

static void on_timer(uv_timer_t *timer) {
    struct nl_session *s = timer->data;
    nl_session_post(s, &(struct nl_session_event){.kind = NL_SESSION_EV_TICK});
}

static void arm(struct nl_session *s, uint64_t now) {
    uint64_t at = nl_session_core_deadline(s->core);
    if (at == UINT64_MAX) {
        uv_timer_stop(&s->timer);
        return;
    }
    uv_update_time(s->server->loop);
    uv_timer_start(&s->timer, on_timer, at > now ? at - now : 1, 0);
}

static void on_timer_closed(uv_handle_t *handle) {
    struct nl_session *s = handle->data;
    nl_session_core_free(s->core);
    free(s->agent_id);
    free(s);
}

static void end(struct nl_session *s) {
    s->freed = true;
    nl_defer_cancel(&s->server->defer, &s->turn);
    if (s->listed) {
        nl_sessions_ended(s->server->sessions, s);
    }
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}

// Nothing is read before the credential and the registration are through: what a stock agent says
// needs its epoch. Nor while results with much output wait for the log.
static void set_paused(struct nl_session *s) {
    enum nl_session_state state = nl_session_core_state(s->core);
    bool pause = state == NL_SESSION_AUTH || state == NL_SESSION_REGISTERING ||
                 nl_session_core_backlog(s->core) > BACKLOG_BYTES_MAX;
    if (s->call == NULL || pause == s->paused) {
        return;
    }
    s->paused = pause;
    if (pause) {
        nl_rpc_call_pause(s->call);
    } else {
        nl_rpc_call_resume(s->call);
    }
}

static void act(struct nl_session *s, uint64_t now) {
    nl_session_core_set_wall(s->core, now, nl_clock_wall_ms());
    const struct nl_state *state = nl_cluster_state(s->server->cluster);
    struct nl_session_action action;
    int n = 0;
    while (n < ACTIONS_PER_TURN && nl_session_core_next(s->core, now, state, &action)) {
        nl_session_core_done(s->core, now, &action, perform(s, &action));
        n++;
    }
    if (n == ACTIONS_PER_TURN) {
        nl_defer_post(&s->server->defer, &s->turn);
    }
    set_paused(s);
    arm(s, now);
}

static void on_turn(struct nl_defer_item *item) {
    struct nl_session *s = CONTAINER(item, struct nl_session, turn);
    if (s->server->cluster == NULL) {  // the node is closing: what is open stays open
        if (s->call == NULL && s->pending == 0) {
            end(s);
        }
        return;
    }
    act(s, nl_clock_mono_ms());
    if (!s->left && nl_session_core_settled(s->core)) {
        s->left = true;
        nl_sessions_left(s->server->sessions, s);
    }
    if (nl_session_core_finished(s->core) && s->pending == 0) {
        end(s);
    }
}

// ---- the call --------------------------------------------------------------

// A stock agent's frame: its output is kept, its final response becomes a result.
static void on_stock_frame(struct nl_session *s, const Nodelink__V1__TaskResponse *frame) {
    struct nl_stock *stock = nl_outputs_stock(s->server->outputs);
    struct nl_session_event event = {.kind = NL_SESSION_EV_FRAME, .frame = frame};
    struct nl_stock_task *task = NULL;
    Nodelink__V1__TaskResult result;
    struct nl_tail_made tail = {.message = NODELINK__V1__OUTPUT_TAIL__INIT};
    uint8_t digests[2][32];
    bool active = nl_session_is_active(s) && strcmp(frame->agent_id, s->agent_id) == 0;
    if (active && nl_session_core_knows(s->core, frame->task_id)) {
        task = nl_stock_find(stock, frame->task_id);
    } else if (active && frame->task_id[0] != '\0') {
        nl_log(NL_LOG_DEBUG, "session", "word of an unknown task", "agent", s->agent_id, NULL);
    }
    if (task != NULL &&
        frame->response_case == NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE) {
        const Nodelink__V1__ShellExecuteResponse *shell = frame->shell_execute;
        nl_stock_append(stock, task, 0, shell->stdout.data, shell->stdout.len);
        nl_stock_append(stock, task, 1, shell->stderr.data, shell->stderr.len);
    }
    if (active && frame->is_final) {
        nl_stock_result(task, frame, digests, &result);
        event.synthesised = &result;
        if (task != NULL && nl_tail_of_stock(task, &tail) == NL_OK) {
            event.synthesised_tail = &tail.message;
        }
        if (task != NULL) {
            nl_stock_end(stock, task, true);
        }
    }
    nl_session_post(s, &event);
    nl_tail_made_close(&tail);
}

static bool is_output(const Nodelink__V1__TaskResponse *frame) {
    return frame->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL_OUTPUT_END ||
           (frame->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL__NOT_SET &&
            frame->sub != 0);
}

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)call;
    struct nl_session *s = user;
    const Nodelink__V1__TaskResponse *frame = (const void *)message;
    if (!s->extended) {
        on_stock_frame(s, frame);
    } else {
        nl_session_post(s, &(struct nl_session_event){.kind = NL_SESSION_EV_FRAME, .frame = frame});
        if (is_output(frame) && nl_session_is_active(s)) {
            nl_agent_readers_frame(&s->readers, frame);
        }
    }
    set_paused(s);
    nl_rpc_message_free(message);
}

static void on_half_close(struct nl_rpc_call *call, void *user) {
    (void)call;
    nl_session_post(user, &(struct nl_session_event){.kind = NL_SESSION_EV_CLOSE,
                                                     .code = NL_RPC_OK,
                                                     .text = "the agent ended its side"});
}

static void on_writable(struct nl_rpc_call *call, void *user) {
    (void)call;
    struct nl_session *s = user;
    nl_session_post(s, &(struct nl_session_event){.kind = NL_SESSION_EV_WRITABLE});
    nl_agent_readers_flush(&s->readers);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    struct nl_session *s = user;
    bool ours = nl_session_core_state(s->core) == NL_SESSION_CLOSING;
    nl_session_core_step(s->core, nl_clock_mono_ms(),
                         &(struct nl_session_event){.kind = NL_SESSION_EV_GONE,
                                                    .code = status->code,
                                                    .text = "the agent's connection went away"});
    if (nl_session_epoch(s) != 0) {
        nl_log(NL_LOG_INFO, "session", "agent's stream ended", "agent", s->agent_id, "epoch",
               nl_log_u64(nl_session_epoch(s)).s, "by", ours ? "node" : "agent", "why",
               nl_session_core_why(s->core), NULL);
    }
    s->call = NULL;
    nl_rpc_call_unref(call);
    nl_agent_readers_break(&s->readers);
    if (!s->extended) {
        nl_stock_agent_gone(nl_outputs_stock(s->server->outputs), s->agent_id, nl_session_epoch(s));
    }
    nl_defer_post(&s->server->defer, &s->turn);
}

// ---- the credential --------------------------------------------------------

static void authorized(struct nl_session *s) {
    struct nl_rpc_metadata metadata[] = {{"nodelink-protocol", "1"},
                                         {"nodelink-node", s->server->settings->node_name},
                                         {NULL, NULL}};
    nl_rpc_call_send_headers(s->call, metadata);
    nl_session_post(s, &(struct nl_session_event){.kind = NL_SESSION_EV_AUTHORIZED});
}

static void refuse(struct nl_session *s, enum nl_rpc_code code, const char *text) {
    nl_session_post(
        s, &(struct nl_session_event){.kind = NL_SESSION_EV_REFUSED, .code = code, .text = text});
}

// This node may be behind: a token made a moment ago at another node is not wrong.
static void on_caught_up(void *user, int result, uint64_t index, uint64_t term) {
    (void)index;
    (void)term;
    struct nl_session *s = user;
    s->pending--;
    struct nl_cluster *cluster = s->server->cluster;
    if (s->call == NULL || cluster == NULL) {
        nl_defer_post(&s->server->defer, &s->turn);
    } else if (nl_auth_agent_token_ok(nl_cluster_state(cluster), s->agent_id, s->token_sha256)) {
        authorized(s);
    } else if (result != NL_OK) {
        refuse(s, NL_RPC_UNAVAILABLE, "this node has no quorum; try another");
    } else {
        nl_auth_agent_failed(s->server->auth, s->call, s->agent_id, "wrong id or token");
        refuse(s, NL_RPC_UNAUTHENTICATED, "wrong agent id or token");
    }
}

static void check_token(struct nl_session *s) {
    const struct nl_state *state = nl_cluster_state(s->server->cluster);
    if (nl_auth_agent_token_ok(state, s->agent_id, s->token_sha256)) {
        authorized(s);
        return;
    }
    if (nl_cluster_read(s->server->cluster, AUTH_TIMEOUT_MS, on_caught_up, s) == NL_OK) {
        s->pending++;
    } else {
        refuse(s, NL_RPC_UNAVAILABLE, "this node is too busy; try another");
    }
}

// ---- start -----------------------------------------------------------------

static int core_new(struct nl_session *s, struct nl_rpc_call *call) {
    struct nl_server *server = s->server;
    struct nl_session_config config = {
        .agent_id = s->agent_id,
        .address = nl_rpc_call_peer(call),
        .extended = s->extended,
        .node = server->settings->node_id,
        .node_boot = nl_cluster_boot(server->cluster),
        .node_name = server->settings->node_name,
        .cluster_name = server->settings->cluster_name,
        .servers = server->addresses,
        .n_servers = server->n_addresses,
        .ping_interval_ms = server->settings->agent_ping_interval_ms,
        .leave_orphans = server->settings->leave_orphans,
    };
    memcpy(config.token_sha256, s->token_sha256, sizeof config.token_sha256);
    return nl_session_core_new(&config, nl_clock_mono_ms(), &s->core);
}

static struct nl_session *session_new(struct nl_server *server, struct nl_rpc_call *call,
                                      const char *agent_id, const uint8_t token_sha256[32],
                                      bool extended) {
    struct nl_session *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    s->server = server;
    s->extended = extended;
    s->turn.run = on_turn;
    s->agent_id = strdup(agent_id);
    memcpy(s->token_sha256, token_sha256, sizeof s->token_sha256);
    if (s->agent_id == NULL || core_new(s, call) != NL_OK ||
        nl_sessions_add(server->sessions, s) != NL_OK) {
        nl_session_core_free(s->core);
        free(s->agent_id);
        free(s);
        return NULL;
    }
    uv_timer_init(server->loop, &s->timer);
    s->timer.data = s;
    nl_agent_readers_init(&s->readers, s);
    return s;
}

void nl_session_start(struct nl_server *server, struct nl_rpc_call *call, const char *agent_id,
                      const uint8_t token_sha256[32], bool extended) {
    static const struct nl_rpc_handler handler = {.on_message = on_message,
                                                  .on_half_close = on_half_close,
                                                  .on_writable = on_writable,
                                                  .on_closed = on_closed};
    struct nl_session *s = session_new(server, call, agent_id, token_sha256, extended);
    if (s == NULL) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
        return;
    }
    nl_rpc_call_ref(call);
    s->call = call;
    nl_rpc_call_set_handler(call, &handler, s);
    set_paused(s);
    check_token(s);
}
