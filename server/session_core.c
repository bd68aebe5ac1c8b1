// Events: what happened is noted as flags; session_actions.c turns what is due into actions.
#include "server/session_core.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/err.h"
#include "server/session_slots.h"

const char *nl_session_state_name(enum nl_session_state state) {
    static const char *const names[] = {"auth", "hello", "registering", "active", "closing"};
    return names[state];
}

const char *nl_session_purpose_name(enum nl_session_purpose purpose) {
    static const char *const names[] = {"welcome", "run",       "cancel", "ack",
                                        "ping",    "pong",      "drain",  "register",
                                        "start",   "uncertain", "finish", "end"};
    return names[purpose];
}

int nl_session_core_new(const struct nl_session_config *config, uint64_t now_ms,
                        struct nl_session_core **ret) {
    struct nl_session_core *core = calloc(1, sizeof *core);
    if (core == NULL) {
        return NL_ENOMEM;
    }
    core->config = *config;
    core->config.agent_id = strdup(config->agent_id);
    core->config.address = strdup(config->address);
    if (core->config.agent_id == NULL || core->config.address == NULL) {
        nl_session_core_free(core);
        return NL_ENOMEM;
    }
    core->entered_at_ms = core->heard_at_ms = now_ms;
    core->close_at_ms = core->timeout_at_ms = core->expire_at_ms = UINT64_MAX;
    *ret = core;
    return NL_OK;
}

void nl_session_core_free(struct nl_session_core *core) {
    if (core == NULL) {
        return;
    }
    struct slot *slot, *tmp;
    HASH_ITER (hh, core->slots, slot, tmp) {
        session_slot_free(core, slot);
    }
    if (core->hello != NULL) {
        protobuf_c_message_free_unpacked(&core->hello->base, NULL);
    }
    free((char *)(uintptr_t)core->config.agent_id);
    free((char *)(uintptr_t)core->config.address);
    free(core->why);
    free(core->scratch);
    free(core);
}

void session_close(struct nl_session_core *core, enum nl_rpc_code code, const char *fmt, ...) {
    if (core->state == NL_SESSION_CLOSING) {
        return;
    }
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    core->state = NL_SESSION_CLOSING;
    core->code = code;
    core->why = strdup(text);  // NULL is allowed: nl_session_core_why has a word for it
    core->close_due = !core->gone;
}

// ---- registration ----------------------------------------------------------

static void on_authorized(struct nl_session_core *core, uint64_t now_ms) {
    if (core->state != NL_SESSION_AUTH) {
        return;
    }
    core->entered_at_ms = core->heard_at_ms = now_ms;
    core->state = core->config.extended ? NL_SESSION_HELLO : NL_SESSION_REGISTERING;
    core->register_due = !core->config.extended;
}

static void on_register_refused(struct nl_session_core *core, struct nl_outcome outcome) {
    switch (outcome.code) {
        case NL_OUTCOME_BAD_TOKEN:
        case NL_OUTCOME_NO_AGENT:
            session_close(core, NL_RPC_UNAUTHENTICATED, "wrong agent id or token");
            return;
        case NL_OUTCOME_LIMIT:
            session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "the cluster has too many agents");
            return;
        case NL_OUTCOME_INVALID:
            session_close(core, NL_RPC_INVALID_ARGUMENT, "the registration is not valid");
            return;
        case NL_OUTCOME_STALE:
        case NL_OUTCOME_STALE_BOOT:
        default:
            session_close(core, NL_RPC_UNAVAILABLE,
                          "this node could not register the agent (%s); try another",
                          nl_outcome_name(outcome.code));
            return;
    }
}

static void on_registered(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_session_event *event) {
    core->registering = false;
    bool ok = event->result == NL_OK && event->outcome.code == NL_OUTCOME_OK;
    core->epoch = ok ? event->outcome.value : 0;  // also when the stream is over by now
    if (core->state != NL_SESSION_REGISTERING) {
        return;
    }
    if (event->result != NL_OK) {
        session_close(core, NL_RPC_UNAVAILABLE,
                      "the agent could not be registered (%s); try another",
                      nl_strerror(event->result));
    } else if (!ok) {
        on_register_refused(core, event->outcome);
    } else {
        core->state = NL_SESSION_ACTIVE;
        core->heard_at_ms = now_ms;
        core->welcome_due = core->config.extended;
        core->reconcile_due = true;
    }
}

// ---- results of proposals --------------------------------------------------

static void on_finish_known(struct nl_session_core *core, struct slot *slot,
                            struct nl_outcome outcome) {
    session_slot_drop_result(core, slot);
    if (core->config.extended && !slot->withdrawn && !core->gone) {
        slot->ack_due = true;
        slot->ack_late = outcome.code != NL_OUTCOME_OK && outcome.code != NL_OUTCOME_EXISTED;
        // Refused as stale: if the agent has a newer epoch its result counts there, and an
        // acknowledgement would make it forget it.
        slot->ack_if_current = outcome.code == NL_OUTCOME_STALE;
        session_slot_out(core, slot, true);
    }
}

// Whether a task without a result has more to say to the log.
static bool start_due(struct slot *slot, bool known) {
    slot->uncertain_known |= known && slot->in_flight == NL_SESSION_UNCERTAIN;
    return slot->uncertain ? !slot->uncertain_known : slot->in_flight == NL_SESSION_START && !known;
}

static void on_proposed(struct nl_session_core *core, uint64_t now_ms,
                        const struct nl_session_event *event) {
    core->in_flight--;
    struct slot *slot = session_slot_find(core, event->task_id, event->attempt);
    if (slot == NULL || slot->queue != SLOT_IN_FLIGHT) {
        return;
    }
    slot->queue = SLOT_IDLE;
    bool known = event->result == NL_OK;
    if (!known) {
        core->resume_at_ms = now_ms + SESSION_RETRY_MS;
    }
    if (slot->in_flight == NL_SESSION_FINISH && known) {
        on_finish_known(core, slot, event->outcome);
    } else if (slot->result != NULL) {
        session_slot_queue(core, slot, SLOT_FINISH);
    } else if (slot->busy && start_due(slot, known)) {
        slot->start_at_ms = known ? now_ms : core->resume_at_ms;
        session_slot_queue(core, slot, SLOT_START);
    }
    session_slot_settle(core, slot);
    if (core->draining && !core->config.extended && core->busy == 0 && core->n_finishing == 0) {
        session_close(core, NL_RPC_UNAVAILABLE, "this node asked the agent to move");
    }
}

// ---- changes of the state --------------------------------------------------

static void withdraw(struct nl_session_core *core, const struct nl_task *task, const char *why) {
    if (session_slot_withdraw(core, task, why) != NL_OK) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
    }
}

const char *session_deadline(struct nl_session_core *core, uint64_t now_ms,
                             const struct nl_task *task) {
    uint64_t wall = (uint64_t)((int64_t)now_ms + core->wall_ahead_ms);
    uint64_t start = nl_task_start_deadline_ms(task), finish = nl_task_finish_deadline_ms(task);
    if (start != 0 && wall >= start) {
        return "not started by its deadline";
    }
    if (finish != 0 && wall >= finish) {
        return "not started before its deadline to finish";
    }
    uint64_t next = start == 0 || (finish != 0 && finish < start) ? finish : start;
    if (next != 0) {
        uint64_t left = next - wall;
        uint64_t at = left < UINT64_MAX - now_ms ? now_ms + left : UINT64_MAX;
        core->expire_at_ms = at < core->expire_at_ms ? at : core->expire_at_ms;
    }
    return NULL;
}

void session_sweep(struct nl_session_core *core, uint64_t now_ms, const struct nl_state *state) {
    const struct nl_agent *agent = nl_state_agent(state, core->config.agent_id);
    const struct nl_task *task = NULL;
    core->expire_at_ms = UINT64_MAX;
    while (agent != NULL && (task = nl_state_agent_task_next(state, agent, task)) != NULL) {
        bool waits = task->state == NL_TASK_DISPATCHED && task->epoch == core->epoch &&
                     session_slot_find(core, task->id, task->attempt) == NULL;
        const char *why = waits ? session_deadline(core, now_ms, task) : NULL;
        if (why != NULL) {
            withdraw(core, task, why);
        }
    }
}

static void on_task(struct nl_session_core *core, uint64_t now_ms, const struct nl_task *task,
                    bool pruned) {
    if (core->state != NL_SESSION_ACTIVE) {
        return;  // the reconciliation after the registration sees everything
    }
    struct slot *slot = session_slot_find(core, task->id, task->attempt);
    bool over = pruned || nl_task_is_terminal(task->state);
    if (slot != NULL && slot->sent) {
        if (task->cancel_requested || (over && !core->config.leave_orphans)) {
            session_slot_cancel(core, slot);
        }
        return;
    }
    if (over || task->state != NL_TASK_DISPATCHED || task->epoch != core->epoch) {
        return;
    }
    if (task->cancel_requested) {
        withdraw(core, task, "cancelled before it was sent to the agent");
    } else {
        session_deadline(core, now_ms, task);  // for its time; find_sendable acts on it
    }
    core->pump_due = true;
}

// ---- time ------------------------------------------------------------------

// Time-outs of a stock agent's tasks; the next one is looked for among all.
static void on_task_timeouts(struct nl_session_core *core, uint64_t now_ms) {
    struct slot *slot, *tmp;
    core->timeout_at_ms = UINT64_MAX;
    HASH_ITER (hh, core->slots, slot, tmp) {
        if (slot->timeout_at_ms == 0 || !slot->busy) {
            continue;
        }
        if (slot->timeout_at_ms <= now_ms) {
            slot->timed_out = true;
            slot->timeout_at_ms = 0;
            session_slot_cancel(core, slot);
        } else if (slot->timeout_at_ms < core->timeout_at_ms) {
            core->timeout_at_ms = slot->timeout_at_ms;
        }
    }
}

static void give_up_results(struct nl_session_core *core) {
    struct slot *slot, *tmp;
    DL_FOREACH_SAFE (core->finishes, slot, tmp) {
        session_slot_queue(core, slot, SLOT_IDLE);
        session_slot_drop_result(core, slot);
    }
}

static void on_silence(struct nl_session_core *core, uint64_t now_ms) {
    uint64_t interval = core->config.ping_interval_ms, silent = now_ms - core->heard_at_ms;
    if (silent >= 3 * interval) {
        session_close(core, NL_RPC_DEADLINE_EXCEEDED, "nothing heard from the agent for %llu ms",
                      (unsigned long long)silent);
    } else if (silent >= 2 * interval && !core->pinged) {
        core->pinged = core->ping_due = true;
    }
}

static void on_tick(struct nl_session_core *core, uint64_t now_ms) {
    if (core->state == NL_SESSION_HELLO && now_ms >= core->entered_at_ms + SESSION_HELLO_LIMIT_MS) {
        session_close(core, NL_RPC_DEADLINE_EXCEEDED, "no Hello within %d s",
                      SESSION_HELLO_LIMIT_MS / 1000);
    }
    if (core->state == NL_SESSION_ACTIVE && core->config.extended) {
        on_silence(core, now_ms);
    }
    if (core->state == NL_SESSION_ACTIVE && now_ms >= core->close_at_ms) {
        session_close(core, NL_RPC_UNAVAILABLE, "this node asked the agent to move");
    }
    if (now_ms >= core->timeout_at_ms) {
        on_task_timeouts(core, now_ms);
    }
    core->sweep_due = core->sweep_due || now_ms >= core->expire_at_ms;
    if (core->gone && now_ms >= core->gone_at_ms + SESSION_LINGER_MS) {
        give_up_results(core);
    }
}

static void on_drain(struct nl_session_core *core, uint64_t now_ms,
                     const struct nl_session_event *event) {
    bool idle = !core->config.extended && core->busy == 0 && core->n_finishing == 0;
    if (core->state != NL_SESSION_ACTIVE || idle || event->grace_ms == 0) {
        session_close(core, NL_RPC_UNAVAILABLE, "%s", event->text);
        return;
    }
    // A stock agent can't be asked to move, and what it runs is lost with its stream: it gets the
    // time to end it.
    core->drain_due = core->drain_due || (!core->draining && core->config.extended);
    core->draining = true;
    core->close_at_ms = now_ms + event->grace_ms;
}

static void on_gone(struct nl_session_core *core, uint64_t now_ms,
                    const struct nl_session_event *event) {
    if (core->gone) {
        return;
    }
    core->gone = true;
    core->gone_at_ms = now_ms;
    session_close(core, event->code, "%s", event->text != NULL ? event->text : "the stream ended");
    core->close_due = core->register_due = core->welcome_due = false;
    core->ping_due = core->pong_due = core->drain_due = core->pump_due = false;
    core->reconcile_due = core->check_due = core->sweep_due = false;
    struct slot *slot, *tmp;
    HASH_ITER (hh, core->slots, slot, tmp) {
        slot->ack_due = slot->cancel_due = false;
        session_slot_out(core, slot, false);
        session_slot_set_busy(core, slot, false);
        if (slot->queue == SLOT_START) {
            session_slot_queue(core, slot, SLOT_IDLE);
        }
        session_slot_settle(core, slot);
    }
    core->pump_due = false;
}

void nl_session_core_set_wall(struct nl_session_core *core, uint64_t now_ms, uint64_t wall_ms) {
    core->wall_ahead_ms = (int64_t)(wall_ms - now_ms);
}

void nl_session_core_step(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_session_event *event) {
    core->scan = NULL;
    switch (event->kind) {
        case NL_SESSION_EV_AUTHORIZED:
            on_authorized(core, now_ms);
            return;
        case NL_SESSION_EV_REFUSED:
        case NL_SESSION_EV_CLOSE:
            session_close(core, event->code, "%s", event->text);
            return;
        case NL_SESSION_EV_FRAME:
            session_frame(core, now_ms, event);
            return;
        case NL_SESSION_EV_REGISTERED:
            on_registered(core, now_ms, event);
            return;
        case NL_SESSION_EV_PROPOSED:
            on_proposed(core, now_ms, event);
            return;
        case NL_SESSION_EV_TASK:
        case NL_SESSION_EV_PRUNED:
            on_task(core, now_ms, event->task, event->kind == NL_SESSION_EV_PRUNED);
            return;
        case NL_SESSION_EV_AGENT:
            core->check_due = core->check_due || core->state == NL_SESSION_ACTIVE;
            return;
        case NL_SESSION_EV_RESTORED:
            core->reconcile_due = core->reconcile_due || core->state == NL_SESSION_ACTIVE;
            return;
        case NL_SESSION_EV_WRITABLE:
            core->blocked = false;
            return;
        case NL_SESSION_EV_TICK:
            on_tick(core, now_ms);
            return;
        case NL_SESSION_EV_DRAIN:
            on_drain(core, now_ms, event);
            return;
        case NL_SESSION_EV_GONE:
            on_gone(core, now_ms, event);
            return;
    }
}

// ---- queries ---------------------------------------------------------------

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t proposals_deadline(const struct nl_session_core *core) {
    if (core->in_flight >= SESSION_IN_FLIGHT_MAX) {
        return UINT64_MAX;
    }
    uint64_t at = core->finishes != NULL ? core->resume_at_ms : UINT64_MAX;
    if (core->starts != NULL && core->state == NL_SESSION_ACTIVE) {
        uint64_t start = core->starts->start_at_ms;
        at = min_u64(at, start > core->resume_at_ms ? start : core->resume_at_ms);
    }
    return at;
}

uint64_t nl_session_core_deadline(const struct nl_session_core *core) {
    uint64_t at = proposals_deadline(core);
    if (core->state == NL_SESSION_HELLO) {
        at = min_u64(at, core->entered_at_ms + SESSION_HELLO_LIMIT_MS);
    }
    if (core->state == NL_SESSION_ACTIVE) {
        at = min_u64(at, min_u64(core->close_at_ms, core->timeout_at_ms));
        at = min_u64(at, core->expire_at_ms);
        if (core->config.extended) {
            at = min_u64(
                at, core->heard_at_ms + (core->pinged ? 3 : 2) * core->config.ping_interval_ms);
        }
    }
    if (core->gone && core->finishes != NULL) {
        at = min_u64(at, core->gone_at_ms + SESSION_LINGER_MS);
    }
    return at;
}

enum nl_session_state nl_session_core_state(const struct nl_session_core *core) {
    return core->state;
}

uint64_t nl_session_core_epoch(const struct nl_session_core *core) {
    return core->epoch;
}

bool nl_session_core_settled(const struct nl_session_core *core) {
    return core->gone && !core->registering && (core->config.extended || core->n_finishing == 0);
}

bool nl_session_core_finished(const struct nl_session_core *core) {
    return core->gone && !core->registering && core->in_flight == 0 && core->n_finishing == 0;
}

size_t nl_session_core_backlog(const struct nl_session_core *core) {
    return core->backlog;
}

bool nl_session_core_knows(const struct nl_session_core *core, const char *task_id) {
    const struct slot *slot = session_slot_find(core, task_id, 1);
    return slot != NULL && slot->sent;
}

const char *nl_session_core_why(const struct nl_session_core *core) {
    return core->why != NULL ? core->why : "the stream ended";
}
