// One command from its bytes to its effects.

#include "cluster/state/internal.h"

int nl_apply_done(struct nl_apply *a, enum nl_outcome_code code, uint64_t value) {
    a->outcome = (struct nl_outcome){code, value};
    return NL_OK;
}

static void emit(struct nl_apply *a, const struct nl_effect *effect) {
    if (a->effect != NULL) {
        a->effect(a->user, effect);
    }
}

void nl_emit_task(struct nl_apply *a, enum nl_effect_kind kind, const struct nl_task *task,
                  enum nl_task_state old) {
    emit(a, &(struct nl_effect){.kind = kind, .index = a->index, .task = task, .old_state = old});
}

void nl_emit_agent(struct nl_apply *a, const struct nl_agent *agent, enum nl_agent_connection old) {
    emit(a, &(struct nl_effect){
                .kind = NL_EFFECT_AGENT, .index = a->index, .agent = agent, .old_connection = old});
}

void nl_emit_node(struct nl_apply *a, const struct nl_node *node) {
    emit(a, &(struct nl_effect){.kind = NL_EFFECT_NODE, .index = a->index, .node = node});
}

static void emit_outcome(struct nl_apply *a, bool duplicate) {
    emit(a, &(struct nl_effect){.kind = NL_EFFECT_OUTCOME,
                                .index = a->index,
                                .proposer = a->command->proposer,
                                .boot = a->command->boot,
                                .sequence = a->command->sequence,
                                .outcome = a->outcome,
                                .duplicate = duplicate});
}

static int dispatch(struct nl_apply *a) {
    const Nodelink__V1__Command *c = a->command;
    switch (c->body_case) {
        case NODELINK__V1__COMMAND__BODY_NOOP:
            return nl_apply_done(a, NL_OUTCOME_OK, 0);
        case NODELINK__V1__COMMAND__BODY_NODE_UP:
            return nl_apply_node_up(a, c->node_up);
        case NODELINK__V1__COMMAND__BODY_NODE_DOWN:
            return nl_apply_node_down(a, c->node_down);
        case NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE:
            return nl_apply_token_create(a, c->agent_token_create);
        case NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_REVOKE:
            return nl_apply_token_revoke(a, c->agent_token_revoke);
        case NODELINK__V1__COMMAND__BODY_AGENT_REGISTER:
            return nl_apply_register(a, c->agent_register);
        case NODELINK__V1__COMMAND__BODY_AGENT_DISCONNECT:
            return nl_apply_disconnect(a, c->agent_disconnect);
        case NODELINK__V1__COMMAND__BODY_AGENT_TIMEOUT:
            return nl_apply_timeout(a, c->agent_timeout);
        case NODELINK__V1__COMMAND__BODY_TASK_SUBMIT:
            return nl_apply_submit(a, c->task_submit);
        case NODELINK__V1__COMMAND__BODY_TASK_START:
            return nl_apply_start(a, c->task_start);
        case NODELINK__V1__COMMAND__BODY_TASK_UNKNOWN:
            return nl_apply_unknown(a, c->task_unknown);
        case NODELINK__V1__COMMAND__BODY_TASK_FINISH:
            return nl_apply_finish(a, c->task_finish);
        case NODELINK__V1__COMMAND__BODY_TASK_CANCEL:
            return nl_apply_cancel(a, c->task_cancel);
        case NODELINK__V1__COMMAND__BODY_TASK_EXPIRE:
            return nl_apply_expire(a, c->task_expire);
        case NODELINK__V1__COMMAND__BODY_TASK_PRUNE:
            return nl_apply_prune(a, c->task_prune);
        default:
            return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
}

static int apply_new(struct nl_apply *a) {
    struct nl_state *state = a->state;
    if (a->command->time_ms > state->clock_ms) {
        state->clock_ms = a->command->time_ms;
    }
    // Text that isn't UTF-8 could not be sent to a client in a string field.
    int rv = nl_message_utf8_ok(&a->command->base) ? dispatch(a)
                                                   : nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    return rv == NL_OK ? nl_dedup_end(a) : rv;
}

static int apply_command(struct nl_apply *a) {
    enum nl_dedup_verdict verdict;
    int rv = nl_dedup_begin(a, &verdict, &a->outcome);
    if (rv == NL_OK && verdict == NL_DEDUP_APPLY) {
        rv = apply_new(a);
    }
    if (rv == NL_OK) {
        emit_outcome(a, verdict == NL_DEDUP_DUPLICATE);
    }
    return rv;
}

int nl_state_apply(struct nl_state *state, uint64_t index, const uint8_t *command, size_t len,
                   nl_effect_cb effect, void *user) {
    int rv;
    ProtobufCMessage *message =
        nl_message_decode(&nodelink__v1__command__descriptor, command, len, NL_DECODE_MAX, &rv);
    if (message == NULL) {
        return rv;
    }
    struct nl_apply a = {.state = state,
                         .index = index,
                         .command = (const Nodelink__V1__Command *)message,
                         .effect = effect,
                         .user = user};
    rv = apply_command(&a);
    nl_message_free(message);
    if (rv == NL_OK) {
        nl_state_set_index(state, index);
    }
    return rv;
}

int nl_state_command_check(const uint8_t *command, size_t len) {
    int rv = NL_OK;
    nl_message_free(
        nl_message_decode(&nodelink__v1__command__descriptor, command, len, NL_DECODE_MAX, &rv));
    return rv;
}
