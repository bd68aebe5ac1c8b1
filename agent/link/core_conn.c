// The streams: which server next and when, the steps until a stream is welcomed, time limits,
// pings, leaving.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/link/core_internal.h"

// gRPC's numbers that mean something here; rpc.h has them all, but the core knows no drivers.
enum {
    CODE_INVALID_ARGUMENT = 3,
    CODE_PERMISSION_DENIED = 7,
    CODE_UNIMPLEMENTED = 12,
    CODE_UNAUTHENTICATED = 16
};

enum { MISSED_PINGS_MAX = 3, PING_MS_MIN = 100, PING_MS_DEFAULT = 10000 };

struct nl_link_conn *nl_link_conn_find(struct nl_link_core *core, uint64_t call) {
    if (call == 0) {
        return NULL;
    }
    return core->main.call == call ? &core->main : core->spare.call == call ? &core->spare : NULL;
}

struct nl_link_conn *nl_link_conn_serving(struct nl_link_core *core) {
    bool serves = core->main.state == NL_LINK_UP || core->main.state == NL_LINK_STOCK;
    return serves ? &core->main : NULL;
}

static void clear_conn(struct nl_link_conn *conn) {
    free(conn->address);
    memset(conn, 0, sizeof *conn);
}

static void enter(struct nl_link_core *core, struct nl_link_conn *conn, enum nl_link_state state,
                  uint64_t limit_ms) {
    conn->state = state;
    conn->deadline_ms = limit_ms == 0 ? 0 : core->now_ms + limit_ms;
}

// ---- which server, and when ------------------------------------------------

// All servers of the round failed: the next round comes after a pause.
static void pause_round(struct nl_link_core *core) {
    bool slow = core->round_refused && !core->round_failed;
    uint64_t wait = slow ? nl_link_backoff_slow_ms(&core->backoff, core->random)
                         : nl_link_backoff_next_ms(&core->backoff, core->random);
    core->retry_at_ms = core->now_ms + wait;
    core->round_refused = core->round_failed = false;
    nl_link_servers_new_round(&core->servers);
}

static void schedule_retry(struct nl_link_core *core) {
    const char *except = core->main.draining ? core->main.address : NULL;
    if (nl_link_servers_pick(&core->servers, except) != NULL) {
        core->retry_at_ms = core->now_ms;
    } else {
        pause_round(core);
    }
}

// The connection that should be tried now; NULL: none is wanted.
static struct nl_link_conn *wanted(struct nl_link_core *core) {
    if (core->stopping || core->boot_id == NULL || core->sup_gone) {
        return NULL;  // without a supervisor there is nothing to say in a Hello
    }
    if (core->main.state == NL_LINK_NONE) {
        return &core->main;
    }
    bool moves = core->main.draining || core->main.renew;
    return moves && core->spare.state == NL_LINK_NONE ? &core->spare : NULL;
}

static void connect_next(struct nl_link_core *core, struct nl_link_conn *conn) {
    const char *except = core->main.draining ? core->main.address : NULL;
    const char *address = nl_link_servers_pick(&core->servers, except);
    if (address == NULL) {
        pause_round(core);
        return;
    }
    char *copy = nl_link_strdup(core, address);
    if (copy == NULL) {
        return;
    }
    nl_link_servers_tried(&core->servers, address);
    conn->address = copy;
    conn->call = ++core->next_call;
    enter(core, conn, NL_LINK_CONNECTING, core->options.connect_ms);
    nl_link_do_connect(core, conn);
}

// ---- ends ------------------------------------------------------------------

static bool is_serving(const struct nl_link_conn *conn) {
    return conn->state == NL_LINK_UP || conn->state == NL_LINK_STOCK;
}

// After a stream of `main` ended, by whom ever: what was being built beside it takes its place.
static void after_end(struct nl_link_core *core, struct nl_link_conn *conn) {
    if (conn == &core->main) {
        nl_link_output_drop_all(core);
        if (is_serving(conn)) {
            nl_link_servers_dropped(&core->servers, conn->address);
            if (core->stable) {
                nl_link_servers_new_round(&core->servers);
            }
        }
        core->stable = false;
        clear_conn(conn);
        core->main = core->spare;
        memset(&core->spare, 0, sizeof core->spare);
        if (core->main.state != NL_LINK_NONE) {
            return;
        }
    } else {
        clear_conn(conn);
    }
    schedule_retry(core);
}

void nl_link_conn_drop(struct nl_link_core *core, struct nl_link_conn *conn, const char *why) {
    if (is_serving(conn)) {
        nl_link_log_conn(core, NL_LOG_WARN, "disconnected", conn, why);
    } else {
        nl_link_log_failure(core, NL_LOG_WARN, "connection given up", conn, why);
    }
    nl_link_do(core, NL_LINK_CANCEL, conn->call);
    core->round_failed = true;
    after_end(core, conn);
}

void nl_link_conn_goodbye(struct nl_link_core *core, struct nl_link_conn *conn, const char *why) {
    if (conn->state == NL_LINK_UP) {
        Nodelink__V1__Goodbye goodbye = NODELINK__V1__GOODBYE__INIT;
        goodbye.reason = (char *)why;
        Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
        response.agent_id = (char *)core->options.agent_id;
        response.epoch = conn->epoch;
        response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_GOODBYE;
        response.goodbye = &goodbye;
        nl_link_do_send(core, conn, &response);
    }
    nl_link_do(core, is_serving(conn) ? NL_LINK_LEAVE : NL_LINK_CANCEL, conn->call);
    nl_link_log_conn(core, NL_LOG_INFO, "left the server", conn, why);
    clear_conn(conn);
}

static bool is_refusal(int code) {
    return code == CODE_UNAUTHENTICATED || code == CODE_PERMISSION_DENIED ||
           code == CODE_INVALID_ARGUMENT || code == CODE_UNIMPLEMENTED;
}

static void closed(struct nl_link_core *core, struct nl_link_conn *conn, int code,
                   const char *message) {
    char reason[400];
    snprintf(reason, sizeof reason, "%s (code %d)", message, code);
    core->round_refused |= is_refusal(code);
    core->round_failed |= !is_refusal(code);
    if (code == CODE_UNAUTHENTICATED) {
        nl_link_log_failure(core, NL_LOG_ERROR,
                            "the server refused the agent's token; put a valid one into the token "
                            "file, it is read again at each attempt",
                            conn, reason);
    } else if (is_refusal(code)) {
        nl_link_log_failure(core, NL_LOG_ERROR, "the server refused the agent", conn, reason);
    } else if (is_serving(conn)) {
        nl_link_log_conn(core, NL_LOG_WARN, "disconnected", conn, reason);
    } else {
        nl_link_log_failure(core, NL_LOG_WARN, "connect failed", conn, reason);
    }
    after_end(core, conn);
}

// ---- steps of a stream -----------------------------------------------------

static void send_hello(struct nl_link_core *core, struct nl_link_conn *conn) {
    nl_link_report_hello(core, conn);
    conn->said_hello = true;
    enter(core, conn, NL_LINK_HELLO, core->options.welcome_ms);
}

// `spare` has its stream: the old one is left only now (make before break).
static void promote(struct nl_link_core *core, struct nl_link_conn *conn) {
    if (conn != &core->spare) {
        return;
    }
    nl_link_output_drop_all(core);
    nl_link_conn_goodbye(core, &core->main, "moved to another server");
    core->main = core->spare;
    memset(&core->spare, 0, sizeof core->spare);
}

static void serve(struct nl_link_core *core, struct nl_link_conn *conn, enum nl_link_state state) {
    bool changed = false;
    core->no_memory |= nl_link_servers_good(&core->servers, conn->address, &changed) != 0;
    if (changed) {
        nl_link_do(core, NL_LINK_SAVE_SERVERS, 0);
    }
    conn->up_at_ms = core->now_ms;
    enter(core, conn, state, 0);
    promote(core, conn);
    core->stable = false;
    core->retry_at_ms = core->now_ms;
    nl_link_log_conn(core, NL_LOG_INFO, "connected", &core->main,
                     state == NL_LINK_STOCK ? "a server without the extensions" : NULL);
    nl_link_report_all(core);
}

static void headers(struct nl_link_core *core, struct nl_link_conn *conn,
                    const struct nl_link_event *event) {
    if (event->headers.node != NULL) {
        snprintf(conn->node, sizeof conn->node, "%s", event->headers.node);
    }
    conn->extended = event->headers.extended;
    if (conn->state == NL_LINK_STOCK && conn->extended) {
        nl_link_conn_drop(core, conn, "taken for a stock server, but it was only slow");
        return;
    }
    if (conn->state != NL_LINK_CONNECTING && conn->state != NL_LINK_HEADERS) {
        return;
    }
    if (!conn->extended) {
        serve(core, conn, NL_LINK_STOCK);
    } else if (core->sup_attached) {
        send_hello(core, conn);
    } else {
        enter(core, conn, NL_LINK_HELLO, core->options.welcome_ms);
    }
}

// An agent that can't run anything, and can't say what became of what ran, is not connected: the
// cluster takes it for unreachable, which it knows how to deal with.
void nl_link_conn_supervisor_gone(struct nl_link_core *core) {
    core->sup_gone = true;
    struct nl_link_conn *conns[] = {&core->spare, &core->main};
    for (size_t i = 0; i < 2; i++) {
        if (conns[i]->state != NL_LINK_NONE) {
            nl_link_conn_drop(core, conns[i], "the supervisor does not come back");
        }
    }
}

void nl_link_conn_supervisor_ready(struct nl_link_core *core) {
    if (core->sup_gone) {
        core->sup_gone = false;
        core->retry_at_ms = core->now_ms;
        nl_link_servers_new_round(&core->servers);
    }
    struct nl_link_conn *conns[] = {&core->main, &core->spare};
    for (size_t i = 0; i < 2; i++) {
        if (conns[i]->state == NL_LINK_HELLO && !conns[i]->said_hello) {
            send_hello(core, conns[i]);
        }
    }
}

void nl_link_conn_welcome(struct nl_link_core *core, struct nl_link_conn *conn,
                          const Nodelink__V1__Welcome *welcome) {
    if (conn->state != NL_LINK_HELLO || !conn->said_hello) {
        nl_link_log_bad(core, "welcome out of turn", NULL);
        return;
    }
    if (welcome->epoch <= core->epoch) {
        char why[96];
        snprintf(why, sizeof why, "its epoch %llu is not above the highest seen, %llu",
                 (unsigned long long)welcome->epoch, (unsigned long long)core->epoch);
        nl_link_conn_drop(core, conn, why);
        return;
    }
    conn->epoch = welcome->epoch;
    conn->ping_ms = welcome->ping_interval_ms == 0 ? PING_MS_DEFAULT : welcome->ping_interval_ms;
    conn->ping_ms = conn->ping_ms < PING_MS_MIN ? PING_MS_MIN : conn->ping_ms;
    snprintf(conn->node, sizeof conn->node, "%s", welcome->node);
    struct nl_link_strings list = {welcome->servers, welcome->n_servers};
    bool changed = false;
    if (list.count > 0) {
        core->no_memory |= nl_link_servers_set_learned(&core->servers, list, &changed) != 0;
    }
    if (changed) {
        nl_link_do(core, NL_LINK_SAVE_SERVERS, 0);
    }
    // Acting on an epoch that a crash could make us forget would let an older owner back in.
    enter(core, conn, NL_LINK_SAVING, 0);
    core->epoch_pending = welcome->epoch;
    nl_link_do_save_epoch(core, welcome->epoch);
}

static void epoch_saved(struct nl_link_core *core, bool ok) {
    struct nl_link_conn *conn = core->main.state == NL_LINK_SAVING    ? &core->main
                                : core->spare.state == NL_LINK_SAVING ? &core->spare
                                                                      : NULL;
    if (conn == NULL) {
        return;
    }
    if (!ok) {
        nl_link_conn_drop(core, conn, "the epoch can't be written to the state directory");
        return;
    }
    core->epoch = core->epoch_pending;
    conn->ping_at_ms = core->now_ms + conn->ping_ms;
    serve(core, conn, NL_LINK_UP);
}

void nl_link_conn_drain(struct nl_link_core *core, struct nl_link_conn *conn,
                        const Nodelink__V1__Drain *drain) {
    if (conn != &core->main) {
        nl_link_conn_drop(core, conn, drain->reason);
        return;
    }
    struct nl_link_strings list = {
        drain->servers, drain->n_servers};  // Nodes that all send us away are paced like nodes that
                                            // all refuse us. Meanwhile this one serves.
    core->retry_at_ms = core->now_ms;
    if (!core->stable) {
        core->retry_at_ms += nl_link_backoff_next_ms(&core->backoff, core->random);
    }
    nl_link_servers_new_round(&core->servers);
    core->no_memory |= nl_link_servers_prefer(&core->servers, list) != 0;
    nl_link_servers_tried(&core->servers, conn->address);
    nl_link_servers_dropped(&core->servers, conn->address);
    if (!conn->draining) {
        nl_link_log_conn(core, NL_LOG_INFO, "asked to move", conn, drain->reason);
    }
    conn->draining = true;
}

void nl_link_conn_servers_changed(struct nl_link_core *core) {
    struct nl_link_conn *conn = &core->main;
    if (conn->state != NL_LINK_NONE && !nl_link_servers_has(&core->servers, conn->address)) {
        nl_link_log_conn(core, NL_LOG_INFO, "its server is no longer in the list: moving", conn,
                         NULL);
        conn->draining = true;
    }
    nl_link_servers_new_round(&core->servers);
    core->retry_at_ms = core->now_ms;
}

void nl_link_conn_labels_changed(struct nl_link_core *core) {
    if (core->main.said_hello) {
        core->main.renew = true;
        nl_link_servers_new_round(&core->servers);
        core->retry_at_ms = core->now_ms;
    }
}

// ---- time ------------------------------------------------------------------

static void deadline(struct nl_link_core *core, struct nl_link_conn *conn) {
    switch (conn->state) {
        case NL_LINK_CONNECTING:
            // A stock server sends no headers before its first message: whether this one is
            // there at all only the driver can see.
            conn->deadline_ms = 0;
            nl_link_do(core, NL_LINK_PROBE, conn->call);
            break;
        case NL_LINK_HEADERS:
            if (core->epoch == 0) {
                serve(core, conn, NL_LINK_STOCK);
            } else {
                // Nodes of a cluster answer at once: this one hangs.
                nl_link_conn_drop(core, conn, "no answer to the call");
            }
            break;
        case NL_LINK_HELLO:
            nl_link_conn_drop(
                core, conn,
                conn->said_hello ? "no Welcome in time" : "the supervisor is not there");
            break;
        default:
            break;
    }
}

static void ping(struct nl_link_core *core, struct nl_link_conn *conn) {
    conn->missed = conn->heard ? 0 : conn->missed + 1;
    if (conn->missed >= MISSED_PINGS_MAX) {
        nl_link_conn_drop(core, conn, "silent for three ping intervals");
        return;
    }
    // Counting intervals, not time: after a pause of this process one interval is missed, not
    // many, and what waits in the socket is read before the next is counted.
    if (!conn->heard || !conn->sent) {
        Nodelink__V1__Ping message = NODELINK__V1__PING__INIT;
        message.nonce = core->random;
        Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
        response.agent_id = (char *)core->options.agent_id;
        response.epoch = conn->epoch;
        response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_PING;
        response.ping = &message;
        nl_link_do_send(core, conn, &response);
    }
    conn->heard = false;
    conn->sent = false;
    conn->ping_at_ms = core->now_ms + conn->ping_ms;
}

static void tick_conn(struct nl_link_core *core, struct nl_link_conn *conn) {
    if (conn->deadline_ms != 0 && conn->deadline_ms <= core->now_ms) {
        deadline(core, conn);
    } else if (conn->state == NL_LINK_UP && conn->ping_at_ms <= core->now_ms) {
        ping(core, conn);
    }
}

static uint64_t stable_at_ms(const struct nl_link_core *core) {
    bool counts = is_serving(&core->main) && !core->stable && !core->main.draining;
    return counts ? core->main.up_at_ms + core->options.stable_ms : UINT64_MAX;
}

void nl_link_conn_tick(struct nl_link_core *core) {
    tick_conn(core, &core->main);
    tick_conn(core, &core->spare);
    if (stable_at_ms(core) <= core->now_ms) {
        core->stable = true;
        core->round_refused = core->round_failed = false;
        nl_link_backoff_reset(&core->backoff);
        nl_link_servers_reset(&core->servers);
    }
    struct nl_link_conn *conn = wanted(core);
    if (conn != NULL && core->retry_at_ms <= core->now_ms) {
        connect_next(core, conn);
    }
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

uint64_t nl_link_conn_deadline_ms(const struct nl_link_core *core) {
    const struct nl_link_conn *conns[] = {&core->main, &core->spare};
    uint64_t at = stable_at_ms(core);
    for (size_t i = 0; i < 2; i++) {
        if (conns[i]->deadline_ms != 0) {
            at = earlier(at, conns[i]->deadline_ms);
        }
        if (conns[i]->state == NL_LINK_UP) {
            at = earlier(at, conns[i]->ping_at_ms);
        }
    }
    return wanted((struct nl_link_core *)core) == NULL ? at : earlier(at, core->retry_at_ms);
}

// ---- events ----------------------------------------------------------------

void nl_link_conn_event(struct nl_link_core *core, const struct nl_link_event *event) {
    if (event->type == NL_LINK_EPOCH_SAVED) {
        epoch_saved(core, event->ok);
        return;
    }
    struct nl_link_conn *conn = nl_link_conn_find(core, event->call);
    if (conn == NULL) {
        return;  // of a call that was given up
    }
    switch (event->type) {
        case NL_LINK_CALL_UP:
            if (conn->state == NL_LINK_CONNECTING) {
                enter(core, conn, NL_LINK_HEADERS, core->options.headers_ms);
            }
            break;
        case NL_LINK_CALL_HEADERS:
            headers(core, conn, event);
            break;
        case NL_LINK_CALL_MESSAGE:
            conn->heard = true;
            nl_link_request(core, conn, event->request);
            break;
        case NL_LINK_CALL_CLOSED:
            closed(core, conn, event->closed.code, event->closed.message);
            break;
        default:
            break;
    }
}
