#include "tests/unit/state/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

typedef Nodelink__V1__Command Command;

void fx_open(struct fx *fx, const struct nl_state_limits *limits) {
    static const struct nl_state_limits defaults;
    memset(fx, 0, sizeof *fx);
    fx->proposer = 1;
    fx->boot = 1;
    fx->attempt = 1;
    fx->rules = NL_STATE_RULES;
    fx->time_ms = 1000;
    assert_int_equal(nl_state_new(limits != NULL ? limits : &defaults, &fx->state), NL_OK);
}

void fx_close(struct fx *fx) {
    nl_state_free(fx->state);
    fx->state = NULL;
}

void fx_check(const struct nl_state *state) {
    char why[512] = "";
    if (nl_state_check(state, why, sizeof why) != NL_OK) {
        fail_msg("nl_state_check: %s", why);
    }
}

static void note_id(struct fx_effect *note, const char *id) {
    snprintf(note->id, sizeof note->id, "%s", id);
}

static void on_effect(void *user, const struct nl_effect *effect) {
    struct fx *fx = user;
    assert_int_equal(effect->index, fx->index);
    assert_true(fx->n_effects < FX_EFFECTS_MAX);
    struct fx_effect *note = &fx->effects[fx->n_effects++];
    memset(note, 0, sizeof *note);
    note->kind = effect->kind;
    if (effect->task != NULL) {
        note_id(note, effect->task->id);
        note->old_state = effect->old_state;
        note->state = effect->task->state;
        note->epoch = effect->task->epoch;
        // The record is in its new state already.
        assert_ptr_equal(nl_state_task(fx->state, effect->task->id),
                         effect->kind == NL_EFFECT_TASK ? effect->task : NULL);
    }
    if (effect->agent != NULL) {
        note_id(note, effect->agent->id);
        note->old_connection = effect->old_connection;
        note->connection = effect->agent->connection;
        assert_ptr_equal(nl_state_agent(fx->state, effect->agent->id), effect->agent);
    }
    if (effect->kind == NL_EFFECT_OUTCOME) {
        fx->outcome = effect->outcome;
        fx->duplicate = effect->duplicate;
    }
}

struct nl_outcome fx_apply_bytes(struct fx *fx, const uint8_t *data, size_t len) {
    fx->n_effects = 0;
    fx->index++;
    fx->outcome = (struct nl_outcome){0};
    assert_int_equal(nl_state_apply(fx->state, fx->index, data, len, on_effect, fx), NL_OK);
    assert_true(fx->n_effects > 0);
    assert_int_equal(fx->effects[fx->n_effects - 1].kind, NL_EFFECT_OUTCOME);
    fx_check(fx->state);
    return fx->outcome;
}

uint8_t *fx_pack(const Command *command, size_t *ret_len) {
    *ret_len = nodelink__v1__command__get_packed_size(command);
    uint8_t *data = malloc(*ret_len + 1);
    assert_non_null(data);
    nodelink__v1__command__pack(command, data);
    return data;
}

struct nl_outcome fx_apply_as_is(struct fx *fx, const Command *command) {
    size_t len;
    uint8_t *data = fx_pack(command, &len);
    struct nl_outcome outcome = fx_apply_bytes(fx, data, len);
    free(data);
    return outcome;
}

struct nl_outcome fx_apply(struct fx *fx, Command *command) {
    command->proposer = fx->proposer;
    command->boot = fx->boot;
    command->sequence = ++fx->sequence;
    command->ack_below = fx->ack_below;
    command->time_ms = fx->time_ms += 10;
    command->rules = fx->rules;
    return fx_apply_as_is(fx, command);
}

// Declares `command` with a body `m` of this type.
#define COMMAND(field, FIELD, Type, TYPE)                    \
    Nodelink__V1__##Type m = NODELINK__V1__##TYPE##__INIT;   \
    Command command = NODELINK__V1__COMMAND__INIT;           \
    command.body_case = NODELINK__V1__COMMAND__BODY_##FIELD; \
    command.field = &m

struct nl_outcome fx_noop(struct fx *fx) {
    COMMAND(noop, NOOP, Noop, NOOP);
    return fx_apply(fx, &command);
}

struct nl_outcome fx_node_up(struct fx *fx, uint64_t node, uint64_t boot) {
    COMMAND(node_up, NODE_UP, NodeUp, NODE_UP);
    m.node = node;
    m.node_boot = boot;
    m.name = (char *)"node";
    m.grpc_address = (char *)"node:7700";
    return fx_apply(fx, &command);
}

struct nl_outcome fx_node_down(struct fx *fx, uint64_t node, uint64_t boot) {
    COMMAND(node_down, NODE_DOWN, NodeDown, NODE_DOWN);
    m.node = node;
    m.node_boot = boot;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_token(struct fx *fx, const char *agent, uint8_t token) {
    COMMAND(agent_token_create, AGENT_TOKEN_CREATE, AgentTokenCreate, AGENT_TOKEN_CREATE);
    uint8_t sha256[32];
    memset(sha256, token, sizeof sha256);
    m.agent_id = (char *)agent;
    m.token_sha256.data = sha256;
    m.token_sha256.len = sizeof sha256;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_revoke(struct fx *fx, const char *agent) {
    COMMAND(agent_token_revoke, AGENT_TOKEN_REVOKE, AgentTokenRevoke, AGENT_TOKEN_REVOKE);
    m.agent_id = (char *)agent;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_register(struct fx *fx, struct fx_hello hello) {
    COMMAND(agent_register, AGENT_REGISTER, AgentRegister, AGENT_REGISTER);
    Nodelink__V1__TaskRef ref = NODELINK__V1__TASK_REF__INIT;
    Nodelink__V1__TaskRef *refs[1] = {&ref};
    uint8_t sha256[32];
    memset(sha256, hello.token != 0 ? hello.token : 1, sizeof sha256);
    m.agent_id = (char *)hello.agent;
    m.node = hello.node != 0 ? hello.node : 1;
    m.node_boot = hello.boot != 0 ? hello.boot : 1;
    m.token_sha256.data = sha256;
    m.token_sha256.len = sizeof sha256;
    m.extended = !hello.stock;
    m.journal_id = (char *)(hello.journal != NULL ? hello.journal : "journal");
    const struct nl_agent *agent = nl_state_agent(fx->state, hello.agent);
    m.next_epoch = agent != NULL ? agent->epoch - hello.unseen + 1 : 1;
    if (hello.listed != NULL) {
        ref.task_id = (char *)hello.listed;
        ref.attempt = hello.attempt != 0 ? hello.attempt : 1;
        ref.phase = hello.phase;
        m.tasks = refs;
        m.n_tasks = 1;
    }
    return fx_apply(fx, &command);
}

struct nl_outcome fx_disconnect(struct fx *fx, const char *agent, uint64_t epoch) {
    COMMAND(agent_disconnect, AGENT_DISCONNECT, AgentDisconnect, AGENT_DISCONNECT);
    m.agent_id = (char *)agent;
    m.epoch = epoch;
    m.reason = (char *)"stream closed";
    return fx_apply(fx, &command);
}

static struct nl_outcome time_out(struct fx *fx, const char *agent, uint64_t epoch,
                                  Nodelink__V1__AgentTimeout__Stage stage) {
    COMMAND(agent_timeout, AGENT_TIMEOUT, AgentTimeout, AGENT_TIMEOUT);
    m.agent_id = (char *)agent;
    m.epoch = epoch;
    m.stage = stage;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_unreachable(struct fx *fx, const char *agent, uint64_t epoch) {
    return time_out(fx, agent, epoch, NODELINK__V1__AGENT_TIMEOUT__STAGE__UNREACHABLE);
}

struct nl_outcome fx_lost(struct fx *fx, const char *agent, uint64_t epoch) {
    return time_out(fx, agent, epoch, NODELINK__V1__AGENT_TIMEOUT__STAGE__LOST);
}

struct nl_outcome fx_submit_spec(struct fx *fx, const char *task, Nodelink__V1__TaskSpec *spec) {
    COMMAND(task_submit, TASK_SUBMIT, TaskSubmit, TASK_SUBMIT);
    m.task_id = (char *)task;
    m.spec = spec;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_submit(struct fx *fx, const char *task, const char *agent, const char *cmd,
                            uint64_t wait_ms) {
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    spec.agent_id = (char *)agent;
    spec.cmd = (char *)cmd;
    spec.wait_for_agent_ms = wait_ms;
    return fx_submit_spec(fx, task, &spec);
}

struct nl_outcome fx_start(struct fx *fx, const char *task, const char *agent, uint64_t epoch) {
    COMMAND(task_start, TASK_START, TaskStart, TASK_START);
    m.task_id = (char *)task;
    m.agent_id = (char *)agent;
    m.epoch = epoch;
    m.attempt = fx->attempt;
    m.pid = 4711;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_finish_result(struct fx *fx, const char *task, const char *agent,
                                   uint64_t epoch, Nodelink__V1__TaskResult *result) {
    COMMAND(task_finish, TASK_FINISH, TaskFinish, TASK_FINISH);
    m.task_id = (char *)task;
    m.agent_id = (char *)agent;
    m.epoch = epoch;
    m.attempt = fx->attempt;
    m.result = result;
    Nodelink__V1__OutputTail tail = NODELINK__V1__OUTPUT_TAIL__INIT;
    if (fx->tail != NULL) {
        tail.stdout = (ProtobufCBinaryData){strlen(fx->tail), (uint8_t *)(uintptr_t)fx->tail};
        m.tail = &tail;
    }
    return fx_apply(fx, &command);
}

struct nl_outcome fx_finish(struct fx *fx, const char *task, const char *agent, uint64_t epoch,
                            Nodelink__V1__TaskResult__Kind kind, int32_t value) {
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = kind;
    if (kind == NODELINK__V1__TASK_RESULT__KIND__SIGNALLED) {
        result.signal = value;
    } else {
        result.exit_code = value;
    }
    return fx_finish_result(fx, task, agent, epoch, &result);
}

struct nl_outcome fx_unknown(struct fx *fx, const char *task, const char *agent, uint64_t epoch) {
    COMMAND(task_unknown, TASK_UNKNOWN, TaskUnknown, TASK_UNKNOWN);
    m.task_id = (char *)task;
    m.agent_id = (char *)agent;
    m.epoch = epoch;
    m.attempt = fx->attempt;
    m.reason = (char *)"supervisor lost";
    return fx_apply(fx, &command);
}

struct nl_outcome fx_cancel(struct fx *fx, const char *task, const char *reason) {
    COMMAND(task_cancel, TASK_CANCEL, TaskCancelRequest, TASK_CANCEL_REQUEST);
    m.task_id = (char *)task;
    m.reason = (char *)reason;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_expire(struct fx *fx, const char *task, uint64_t version) {
    COMMAND(task_expire, TASK_EXPIRE, TaskExpire, TASK_EXPIRE);
    m.task_id = (char *)task;
    m.reason = (char *)"waited too long";
    m.version = version;
    return fx_apply(fx, &command);
}

struct nl_outcome fx_prune(struct fx *fx, uint64_t before_ms, uint64_t keep_max, uint32_t limit) {
    COMMAND(task_prune, TASK_PRUNE, TaskPrune, TASK_PRUNE);
    m.finished_before_ms = before_ms;
    m.keep_max = keep_max;
    m.limit = limit;
    return fx_apply(fx, &command);
}

void fx_agent(struct fx *fx, const char *agent) {
    if (nl_state_node(fx->state, 1) == NULL) {
        fx_expect(fx_node_up(fx, 1, 1), NL_OUTCOME_OK);
    }
    fx_expect(fx_token(fx, agent, 1), NL_OUTCOME_OK);
    fx_expect(fx_register(fx, (struct fx_hello){.agent = agent}), NL_OUTCOME_OK);
    assert_int_equal(fx->outcome.value, 1);
}

enum nl_task_state fx_task_state(const struct fx *fx, const char *task) {
    const struct nl_task *t = nl_state_task(fx->state, task);
    return t == NULL ? 0 : t->state;
}

uint8_t *fx_snapshot(struct nl_state *state, size_t *ret_len) {
    struct nl_state_snapshot *snapshot;
    uint8_t *data;
    assert_int_equal(nl_state_snapshot_begin(state, &snapshot), NL_OK);
    assert_int_equal(nl_state_snapshot_write(snapshot, &data, ret_len), NL_OK);
    nl_state_snapshot_end(state, snapshot);
    return data;
}
