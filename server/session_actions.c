// What is due, one action at a time, most urgent first: the end, the registration, what went out of
// step with the state, short frames, results for the log, then tasks.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/text.h"
#include "server/messages.h"
#include "server/session_slots.h"

#define CANCELLED_UNSENT "cancelled before it was sent to the agent"

static bool same_owner(const struct nl_session_core *core, const struct nl_agent *agent) {
    return agent != NULL && agent->epoch == core->epoch &&
           agent->connection == NL_AGENT_CONNECTED && agent->owner == core->config.node &&
           agent->owner_boot == core->config.node_boot;
}

static bool token_valid(const struct nl_session_core *core, const struct nl_agent *agent) {
    bool valid = false;
    for (uint32_t i = 0; i < agent->tokens; i++) {
        valid |= nl_equal_const_time(agent->token_sha256[i], core->config.token_sha256, 32);
    }
    return valid;
}

void session_check(struct nl_session_core *core, const struct nl_state *state) {
    const struct nl_agent *agent = nl_state_agent(state, core->config.agent_id);
    if (agent == NULL || agent->epoch != core->epoch) {
        session_close(core, NL_RPC_ABORTED,
                      "replaced: the agent registered again (epoch %" PRIu64 ")",
                      agent != NULL ? agent->epoch : 0);
    } else if (!token_valid(core, agent)) {
        session_close(core, NL_RPC_UNAUTHENTICATED, "the agent's token was revoked");
    } else if (!same_owner(core, agent)) {
        session_close(core, NL_RPC_ABORTED, "the cluster judged this stream dead (%s)",
                      nl_agent_connection_name(agent->connection));
    }
}

// ---- reconciliation --------------------------------------------------------

// What runs is to be stopped: it was cancelled, or its task has ended (or goes on with another
// attempt), and such orphans are not left.
static bool unwanted(const struct nl_session_core *core, const struct nl_task *task, bool over) {
    return (task != NULL && task->cancel_requested) || (over && !core->config.leave_orphans);
}

// The agent's journal against the state: what the cluster does not want any more is stopped, what
// it has recorded is acknowledged. What it still waits for comes with the result itself.
static int reconcile_ref(struct nl_session_core *core, const struct nl_state *state,
                         const Nodelink__V1__TaskRef *ref) {
    struct slot *slot = session_slot_get(core, ref->task_id, ref->attempt);
    if (slot == NULL) {
        return NL_ENOMEM;
    }
    const struct nl_task *task = nl_state_task(state, ref->task_id);
    bool ours = task != NULL && strcmp(task->spec->agent_id, core->config.agent_id) == 0;
    bool over = !ours || nl_task_is_terminal(task->state) || task->attempt != ref->attempt;
    slot->sent = true;
    if (ref->phase == NODELINK__V1__TASK_REF__PHASE__RUNNING) {
        session_slot_set_busy(core, slot, true);
        slot->started = true;
        if (unwanted(core, task, over)) {
            session_slot_cancel(core, slot);
        }
    } else if (!ours || (over && (task->result != NULL || task->attempt != ref->attempt))) {
        slot->ack_due = true;
        slot->ack_late = !ours || task->attempt != ref->attempt;
        session_slot_out(core, slot, true);
    }
    return NL_OK;
}

static int reconcile_hello(struct nl_session_core *core, const struct nl_state *state) {
    int rv = NL_OK;
    for (size_t i = 0; rv == NL_OK && i < core->hello->n_tasks; i++) {
        rv = reconcile_ref(core, state, core->hello->tasks[i]);
    }
    protobuf_c_message_free_unpacked(&core->hello->base, NULL);
    core->hello = NULL;
    return rv;
}

// After a snapshot: tasks that this stream runs may have ended or been pruned in it.
static void reconcile_slots(struct nl_session_core *core, const struct nl_state *state) {
    struct slot *slot, *tmp;
    HASH_ITER (hh, core->slots, slot, tmp) {
        const struct nl_task *task = nl_state_task(state, slot->id);
        bool over = task == NULL || nl_task_is_terminal(task->state);
        if (slot->sent && unwanted(core, task, over)) {
            session_slot_cancel(core, slot);
        }
    }
}

// A stock agent may still bring word of a task of an earlier stream.
static int adopt_unknown(struct nl_session_core *core, const struct nl_task *task) {
    struct slot *slot = session_slot_get(core, task->id, task->attempt);
    if (slot == NULL) {
        return NL_ENOMEM;
    }
    slot->sent = true;
    session_slot_set_busy(core, slot, true);
    return NL_OK;
}

static int reconcile_tasks(struct nl_session_core *core, const struct nl_state *state) {
    const struct nl_agent *agent = nl_state_agent(state, core->config.agent_id);
    const struct nl_task *task = NULL;
    int rv = NL_OK;
    while (rv == NL_OK && (task = nl_state_agent_task_next(state, agent, task)) != NULL) {
        if (task->state == NL_TASK_UNKNOWN && !core->config.extended) {
            rv = adopt_unknown(core, task);
        } else if (task->cancel_requested && task->state == NL_TASK_DISPATCHED &&
                   task->epoch == core->epoch) {
            rv = session_slot_withdraw(core, task, CANCELLED_UNSENT);
        }
    }
    return rv;
}

void session_reconcile(struct nl_session_core *core, const struct nl_state *state) {
    session_check(core, state);
    if (core->state != NL_SESSION_ACTIVE) {
        return;
    }
    int rv = core->hello != NULL ? reconcile_hello(core, state) : NL_OK;
    reconcile_slots(core, state);
    if (rv == NL_OK) {
        rv = reconcile_tasks(core, state);
    }
    if (rv != NL_OK) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
    }
    core->pump_due = core->sweep_due = true;
}

// ---- actions ---------------------------------------------------------------

static void begin_send(struct nl_session_core *core, struct nl_session_action *a,
                       enum nl_session_purpose purpose, const char *task_id, uint32_t attempt) {
    a->kind = NL_SESSION_SEND;
    a->purpose = purpose;
    a->task_id = task_id;
    a->attempt = attempt;
    nodelink__v1__task_request__init(&a->frame);
    a->frame.agent_id = nl_message_text(core->config.agent_id);
    a->frame.task_id = nl_message_text(task_id);
    if (core->config.extended) {
        a->frame.epoch = core->epoch;
    }
}

static void begin_propose(struct nl_session_action *a, enum nl_session_purpose purpose,
                          const char *task_id, uint32_t attempt) {
    a->kind = NL_SESSION_PROPOSE;
    a->purpose = purpose;
    a->task_id = task_id;
    a->attempt = attempt;
    nodelink__v1__command__init(&a->command);
}

static bool next_close(struct nl_session_core *core, struct nl_session_action *a) {
    if (!core->close_due) {
        return false;
    }
    a->kind = NL_SESSION_FINISH_STREAM;
    a->purpose = NL_SESSION_END;
    a->task_id = "";
    a->code = core->code;
    a->text = nl_session_core_why(core);
    return true;
}

static bool next_register(struct nl_session_core *core, struct nl_session_action *a) {
    if (!core->register_due) {
        return false;
    }
    begin_propose(a, NL_SESSION_REGISTER, "", 0);
    Nodelink__V1__AgentRegister *r = &a->body.registration;
    nodelink__v1__agent_register__init(r);
    r->agent_id = nl_message_text(core->config.agent_id);
    r->node = core->config.node;
    r->node_boot = core->config.node_boot;
    r->token_sha256 = (ProtobufCBinaryData){32, core->config.token_sha256};
    r->address = nl_message_text(core->config.address);
    r->extended = core->config.extended;
    const Nodelink__V1__Hello *hello = core->hello;
    if (hello != NULL) {
        r->version = hello->version;
        r->boot_id = hello->boot_id;
        r->hostname = hello->hostname;
        r->journal_id = hello->journal_id;
        r->capacity = hello->capacity;
        r->n_labels = hello->n_labels;
        r->labels = hello->labels;
        r->n_tasks = hello->n_tasks;
        r->tasks = hello->tasks;
        r->next_epoch = hello->last_epoch + 1;
    }
    a->command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_REGISTER;
    a->command.agent_register = r;
    return true;
}

static void fill_welcome(struct nl_session_core *core, struct nl_session_action *a) {
    begin_send(core, a, NL_SESSION_WELCOME, "", 0);
    Nodelink__V1__Welcome *w = &a->body.welcome;
    nodelink__v1__welcome__init(w);
    w->epoch = core->epoch;
    w->node = nl_message_text(core->config.node_name);
    w->cluster = nl_message_text(core->config.cluster_name);
    w->n_servers = core->config.n_servers;
    w->servers = (char **)(uintptr_t)core->config.servers;
    w->ping_interval_ms = core->config.ping_interval_ms;
    a->frame.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_WELCOME;
    a->frame.welcome = w;
}

static void fill_drain(struct nl_session_core *core, struct nl_session_action *a) {
    begin_send(core, a, NL_SESSION_DRAIN, "", 0);
    nodelink__v1__drain__init(&a->body.drain);
    a->body.drain.reason = nl_message_text("this node asks its agents to move");
    a->frame.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_DRAIN;
    a->frame.drain = &a->body.drain;
}

static void fill_ping(struct nl_session_core *core, struct nl_session_action *a) {
    begin_send(core, a, NL_SESSION_PING, "", 0);
    nodelink__v1__ping__init(&a->body.ping);
    a->body.ping.nonce = core->heard_at_ms;
    a->frame.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_PING;
    a->frame.ping = &a->body.ping;
}

static void fill_pong(struct nl_session_core *core, struct nl_session_action *a) {
    begin_send(core, a, NL_SESSION_PONG, "", 0);
    nodelink__v1__pong__init(&a->body.pong);
    a->body.pong.nonce = core->pong_nonce;
    a->frame.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_PONG;
    a->frame.pong = &a->body.pong;
}

static void fill_cancel(struct nl_session_core *core, struct slot *slot,
                        const struct nl_state *state, struct nl_session_action *a) {
    const struct nl_task *task = nl_state_task(state, slot->id);
    begin_send(core, a, NL_SESSION_CANCEL, slot->id, slot->attempt);
    nodelink__v1__task_cancel__init(&a->body.cancel);
    a->body.cancel.reason =
        nl_message_text(slot->timed_out                    ? "timeout"
                        : task == NULL                     ? "not wanted any more"
                        : nl_task_is_terminal(task->state) ? "the task has ended"
                        : task->attempt != slot->attempt   ? "this attempt was given up"
                                                           : task->cancel_reason);
    a->frame.attempt = core->config.extended ? slot->attempt : 0;
    a->frame.task_case = NODELINK__V1__TASK_REQUEST__TASK_TASK_CANCEL;
    a->frame.task_cancel = &a->body.cancel;
}

static void fill_ack(struct nl_session_core *core, struct slot *slot, struct nl_session_action *a) {
    begin_send(core, a, NL_SESSION_ACK, slot->id, slot->attempt);
    Nodelink__V1__ResultAck *ack = &a->body.ack;
    nodelink__v1__result_ack__init(ack);
    ack->task_id = slot->id;
    ack->attempt = slot->attempt;
    ack->late = slot->ack_late;
    a->frame.attempt = slot->attempt;
    a->frame.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_RESULT_ACK;
    a->frame.result_ack = ack;
}

// Frames about tasks that the agent has: cancel, acknowledgement.
static bool next_out(struct nl_session_core *core, const struct nl_state *state,
                     struct nl_session_action *a) {
    struct slot *slot = core->outs;
    if (slot == NULL) {
        return false;
    }
    if (slot->ack_due && slot->ack_if_current) {
        session_check(core, state);
        if (core->state != NL_SESSION_ACTIVE) {
            return next_close(core, a);
        }
    }
    if (slot->cancel_due) {
        fill_cancel(core, slot, state, a);
    } else {
        fill_ack(core, slot, a);
    }
    return true;
}

static bool next_frame(struct nl_session_core *core, const struct nl_state *state,
                       struct nl_session_action *a) {
    if (core->blocked || core->state != NL_SESSION_ACTIVE) {
        return false;
    }
    if (core->welcome_due) {
        fill_welcome(core, a);
    } else if (core->pong_due) {
        fill_pong(core, a);
    } else if (core->ping_due) {
        fill_ping(core, a);
    } else if (core->drain_due) {
        fill_drain(core, a);
    } else {
        return next_out(core, state, a);
    }
    return true;
}

// ---- proposals -------------------------------------------------------------

static void fill_finish(struct nl_session_core *core, struct slot *slot,
                        struct nl_session_action *a) {
    begin_propose(a, NL_SESSION_FINISH, slot->id, slot->attempt);
    Nodelink__V1__TaskFinish *f = &a->body.finish;
    nodelink__v1__task_finish__init(f);
    f->task_id = slot->id;
    f->attempt = slot->attempt;
    f->agent_id = nl_message_text(core->config.agent_id);
    f->epoch = core->epoch;
    f->result = slot->result;
    f->tail = slot->tail;
    a->command.body_case = NODELINK__V1__COMMAND__BODY_TASK_FINISH;
    a->command.task_finish = f;
}

static void fill_start(struct nl_session_core *core, struct slot *slot,
                       struct nl_session_action *a) {
    begin_propose(a, NL_SESSION_START, slot->id, slot->attempt);
    Nodelink__V1__TaskStart *s = &a->body.start;
    nodelink__v1__task_start__init(s);
    s->task_id = slot->id;
    s->attempt = slot->attempt;
    s->agent_id = nl_message_text(core->config.agent_id);
    s->epoch = core->epoch;
    s->started_ms = slot->started_ms;
    s->pid = slot->pid;
    a->command.body_case = NODELINK__V1__COMMAND__BODY_TASK_START;
    a->command.task_start = s;
}

static void fill_uncertain(struct nl_session_core *core, struct slot *slot,
                           struct nl_session_action *a) {
    begin_propose(a, NL_SESSION_UNCERTAIN, slot->id, slot->attempt);
    Nodelink__V1__TaskUnknown *u = &a->body.uncertain;
    nodelink__v1__task_unknown__init(u);
    u->task_id = slot->id;
    u->attempt = slot->attempt;
    u->agent_id = nl_message_text(core->config.agent_id);
    u->epoch = core->epoch;
    u->reason = nl_message_text("supervisor lost");
    a->command.body_case = NODELINK__V1__COMMAND__BODY_TASK_UNKNOWN;
    a->command.task_unknown = u;
}

// Results of an epoch that is over would be refused: the agent repeats them on its new stream.
static void drop_superseded(struct nl_session_core *core, const struct nl_state *state) {
    const struct nl_agent *agent = nl_state_agent(state, core->config.agent_id);
    if (agent != NULL && agent->epoch == core->epoch) {
        return;
    }
    struct slot *slot, *tmp;
    DL_FOREACH_SAFE (core->finishes, slot, tmp) {
        session_slot_queue(core, slot, SLOT_IDLE);
        session_slot_drop_result(core, slot);
    }
}

static bool next_proposal(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_state *state, struct nl_session_action *a) {
    if (core->epoch == 0 || core->in_flight >= SESSION_IN_FLIGHT_MAX ||
        now_ms < core->resume_at_ms) {
        return false;
    }
    if (core->state == NL_SESSION_CLOSING && core->finishes != NULL) {
        drop_superseded(core, state);
    }
    if (core->finishes != NULL) {
        fill_finish(core, core->finishes, a);
        return true;
    }
    if (core->state == NL_SESSION_ACTIVE && core->starts != NULL &&
        core->starts->start_at_ms <= now_ms) {
        if (core->starts->uncertain) {
            fill_uncertain(core, core->starts, a);
        } else {
            fill_start(core, core->starts, a);
        }
        return true;
    }
    return false;
}

// ---- tasks -----------------------------------------------------------------

static bool has_capacity(const struct nl_session_core *core, const struct nl_agent *agent) {
    return agent->capacity == 0 || core->busy < agent->capacity;
}

// Whether this DISPATCHED task of this epoch may be sent now. What was cancelled, or has missed its
// deadline, is withdrawn: it is never sent. An attempt waits until the one before it has ended.
static bool may_send(struct nl_session_core *core, uint64_t now_ms, const struct nl_task *task) {
    const struct slot *slot = session_slot_find(core, task->id, task->attempt);
    if (slot != NULL && (slot->sent || slot->withdrawn)) {
        return false;
    }
    if (session_slot_earlier_runs(core, task)) {
        core->held_order = task->order < core->held_order ? task->order : core->held_order;
        return false;
    }
    const char *why =
        task->cancel_requested ? CANCELLED_UNSENT : session_deadline(core, now_ms, task);
    if (why != NULL && session_slot_withdraw(core, task, why) != NL_OK) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
    }
    return why == NULL;
}

// The next task that this stream has not sent, by order.
static const struct nl_task *find_sendable(struct nl_session_core *core, uint64_t now_ms,
                                           const struct nl_state *state,
                                           const struct nl_agent *agent) {
    const struct nl_task *task = core->scan;
    if (task == NULL) {
        core->held_order = UINT64_MAX;
    }
    while ((task = nl_state_agent_task_next(state, agent, task)) != NULL) {
        bool ours = task->order >= core->cursor && task->state == NL_TASK_DISPATCHED &&
                    task->epoch == core->epoch;
        if (ours && may_send(core, now_ms, task)) {
            return task;
        }
        if (core->state != NL_SESSION_ACTIVE) {
            return NULL;
        }
        core->scan = task;
    }
    return NULL;
}

// What is left of a deadline, at least 1 ms; 0: there is none.
static uint64_t left_of(const struct nl_session_core *core, uint64_t now_ms, uint64_t deadline) {
    uint64_t wall = (uint64_t)((int64_t)now_ms + core->wall_ahead_ms);
    return deadline == 0 ? 0 : deadline > wall ? deadline - wall : 1;
}

static bool fill_run(struct nl_session_core *core, uint64_t now_ms, const struct nl_task *task,
                     struct nl_session_action *a) {
    const Nodelink__V1__TaskSpec *spec = task->spec;
    begin_send(core, a, NL_SESSION_RUN, task->id, task->attempt);
    Nodelink__V1__ShellExecute *shell = &a->body.run.shell;
    nodelink__v1__shell_execute__init(shell);
    shell->cmd = spec->cmd;
    if (spec->n_argv > 0 && (!core->config.extended || spec->cmd[0] == '\0')) {
        free(core->scratch);
        core->scratch = nl_text_shell_join(spec->argv, spec->n_argv);
        if (core->scratch == NULL) {
            session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
            return false;
        }
        shell->cmd = core->scratch;
    }
    shell->n_env = spec->n_env;
    shell->env = spec->env;
    shell->working_dir = spec->working_dir;
    a->frame.task_case = NODELINK__V1__TASK_REQUEST__TASK_SHELL_EXECUTE;
    a->frame.shell_execute = shell;
    if (core->config.extended) {
        Nodelink__V1__ShellOptions *options = &a->body.run.options;
        nodelink__v1__shell_options__init(options);
        options->n_argv = spec->n_argv;
        options->argv = spec->argv;
        options->timeout_ms = spec->timeout_ms;
        options->kill_grace_ms = spec->kill_grace_ms;
        options->start_within_ms = left_of(core, now_ms, nl_task_start_deadline_ms(task));
        options->finish_within_ms = left_of(core, now_ms, nl_task_finish_deadline_ms(task));
        a->frame.attempt = task->attempt;
        a->frame.shell_options = options;
    }
    return true;
}

static bool next_run(struct nl_session_core *core, uint64_t now_ms, const struct nl_state *state,
                     struct nl_session_action *a) {
    if (!core->pump_due || core->blocked || core->draining || core->state != NL_SESSION_ACTIVE) {
        return false;
    }
    const struct nl_agent *agent = nl_state_agent(state, core->config.agent_id);
    if (agent == NULL || agent->epoch != core->epoch || !has_capacity(core, agent)) {
        core->pump_due = false;  // a task's end, or the end of this stream, comes as an event
        return false;
    }
    const struct nl_task *task = find_sendable(core, now_ms, state, agent);
    if (task == NULL) {
        core->pump_due = false;
        return false;
    }
    core->sending = task;
    return fill_run(core, now_ms, task, a);
}

bool nl_session_core_next(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_state *state, struct nl_session_action *ret) {
    if (core->state == NL_SESSION_ACTIVE && core->reconcile_due) {
        core->reconcile_due = core->check_due = false;
        session_reconcile(core, state);
    } else if (core->state == NL_SESSION_ACTIVE && core->check_due) {
        core->check_due = false;
        session_check(core, state);
    }
    if (core->state == NL_SESSION_ACTIVE && core->sweep_due) {
        core->sweep_due = false;
        session_sweep(core, now_ms, state);
    }
    return next_close(core, ret) || next_register(core, ret) || next_frame(core, state, ret) ||
           next_proposal(core, now_ms, state, ret) || next_run(core, now_ms, state, ret) ||
           next_proposal(core, now_ms, state, ret) || next_close(core, ret);
}

// ---- what became of it -----------------------------------------------------

static void sent_run(struct nl_session_core *core, uint64_t now_ms) {
    const struct nl_task *task = core->sending;
    struct slot *slot = session_slot_get(core, task->id, task->attempt);
    core->cursor = task->order < core->held_order ? task->order + 1 : core->held_order;
    if (slot == NULL) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "too many tasks on one stream");
        return;
    }
    slot->sent = true;
    slot->attempt = task->attempt;
    session_slot_set_busy(core, slot, true);
    uint64_t left = left_of(core, now_ms, nl_task_finish_deadline_ms(task));
    uint64_t timeout = task->spec->timeout_ms;
    timeout = timeout == 0 || (left != 0 && left < timeout) ? left : timeout;
    if (!core->config.extended && timeout > 0) {
        slot->timeout_at_ms = now_ms + timeout;
        if (slot->timeout_at_ms < core->timeout_at_ms) {
            core->timeout_at_ms = slot->timeout_at_ms;
        }
    }
}

// No message of this size can be sent: said, instead of waiting for ever.
static void unsendable(struct nl_session_core *core, const struct nl_session_action *a) {
    if (a->purpose != NL_SESSION_RUN) {
        session_close(core, NL_RPC_INTERNAL, "a message could not be sent");
        return;
    }
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED;
    result.reason = nl_message_text("the request is too large to be sent to the agent");
    struct slot *slot = session_slot_get(core, core->sending->id, core->sending->attempt);
    core->cursor =
        core->sending->order < core->held_order ? core->sending->order + 1 : core->held_order;
    if (slot == NULL) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "too many tasks on one stream");
        return;
    }
    slot->withdrawn = true;
    if (session_slot_finish(core, slot, &result, NULL) != NL_OK) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
    }
}

static void sent(struct nl_session_core *core, uint64_t now_ms, const struct nl_session_action *a) {
    struct slot *slot = NULL;
    switch (a->purpose) {
        case NL_SESSION_WELCOME:
            core->welcome_due = false;
            return;
        case NL_SESSION_PONG:
            core->pong_due = false;
            return;
        case NL_SESSION_PING:
            core->ping_due = false;
            return;
        case NL_SESSION_DRAIN:
            core->drain_due = false;
            return;
        case NL_SESSION_RUN:
            sent_run(core, now_ms);
            return;
        case NL_SESSION_CANCEL:
        case NL_SESSION_ACK:
            slot = session_slot_find(core, a->task_id, a->attempt);
            break;
        case NL_SESSION_REGISTER:
        case NL_SESSION_START:
        case NL_SESSION_UNCERTAIN:
        case NL_SESSION_FINISH:
        case NL_SESSION_END:
            return;
    }
    if (slot != NULL) {
        slot->cancel_sent = slot->cancel_sent || a->purpose == NL_SESSION_CANCEL;
        slot->cancel_due = slot->cancel_due && a->purpose != NL_SESSION_CANCEL;
        slot->ack_due = slot->ack_due && a->purpose != NL_SESSION_ACK;
        session_slot_out(core, slot, slot->cancel_due || slot->ack_due);
        session_slot_settle(core, slot);
    }
}

static void send_done(struct nl_session_core *core, uint64_t now_ms,
                      const struct nl_session_action *a, int result) {
    if (result == NL_OK) {
        sent(core, now_ms, a);
    } else if (result == NL_EFULL) {
        core->blocked = true;
    } else if (result == NL_ETOOBIG) {
        unsendable(core, a);
    } else {
        session_close(core, NL_RPC_UNAVAILABLE, "sending failed: %s", nl_strerror(result));
    }
}

static void propose_done(struct nl_session_core *core, uint64_t now_ms,
                         const struct nl_session_action *a, int result) {
    if (a->purpose == NL_SESSION_REGISTER) {
        core->register_due = false;
        core->registering = result == NL_OK;
        if (result != NL_OK) {
            session_close(core, NL_RPC_UNAVAILABLE,
                          "this node has too many proposals under way; try another");
        }
        return;
    }
    struct slot *slot = session_slot_find(core, a->task_id, a->attempt);
    if (result == NL_OK) {
        core->in_flight++;
        session_slot_queue(core, slot, SLOT_IN_FLIGHT);
        slot->in_flight = a->purpose;
    } else {
        core->resume_at_ms = now_ms + SESSION_RETRY_MS;
    }
}

void nl_session_core_done(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_session_action *action, int result) {
    switch (action->kind) {
        case NL_SESSION_SEND:
            send_done(core, now_ms, action, result);
            break;
        case NL_SESSION_PROPOSE:
            propose_done(core, now_ms, action, result);
            break;
        case NL_SESSION_FINISH_STREAM:
            core->close_due = false;
            break;
    }
    core->sending = NULL;
}
