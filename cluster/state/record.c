// Records in the form of snapshot.proto: the one form that is hashed and written.

#include "cluster/state/internal.h"

// A text that isn't there is encoded like an empty one: not at all.
static char *text_or_empty(char *text) {
    return text != NULL ? text : (char *)protobuf_c_empty_string;
}

void nl_node_to_message(const struct nl_node *node, Nodelink__V1__NodeRecord *out) {
    nodelink__v1__node_record__init(out);
    out->node = node->id;
    out->name = text_or_empty(node->name);
    out->grpc_address = text_or_empty(node->grpc_address);
    out->boot = node->boot;
    out->up = node->up;
    out->version = text_or_empty(node->version);
    out->changed_ms = node->changed_ms;
}

void nl_agent_to_message(const struct nl_agent *agent, struct nl_agent_message *message) {
    Nodelink__V1__AgentRecord *out = &message->record;
    nodelink__v1__agent_record__init(out);
    out->id = agent->id;
    for (uint32_t i = 0; i < agent->tokens; i++) {
        message->tokens[i].data = (uint8_t *)agent->token_sha256[i];
        message->tokens[i].len = sizeof agent->token_sha256[i];
    }
    out->n_token_sha256 = agent->tokens;
    out->token_sha256 = message->tokens;
    out->epoch = agent->epoch;
    out->connection = agent->connection;
    out->owner = agent->owner;
    out->owner_boot = agent->owner_boot;
    out->version = text_or_empty(agent->version);
    out->boot_id = text_or_empty(agent->boot_id);
    out->journal_id = text_or_empty(agent->journal_id);
    out->address = text_or_empty(agent->address);
    out->hostname = text_or_empty(agent->hostname);
    out->n_labels = agent->n_labels;
    out->labels = agent->labels;
    out->capacity = agent->capacity;
    out->extended = agent->extended;
    out->created_ms = agent->created_ms;
    out->connected_ms = agent->connected_ms;
    out->disconnected_ms = agent->disconnected_ms;
    out->disconnect_reason = text_or_empty(agent->disconnect_reason);
    out->next_order = agent->next_order;
    out->tasks_submitted = agent->tasks_submitted;
    out->tasks_finished = agent->tasks_finished;
}

void nl_task_to_message(const struct nl_task *task, Nodelink__V1__TaskRecord *out) {
    nodelink__v1__task_record__init(out);
    out->id = task->id;
    out->spec = task->spec;
    out->spec_sha256.data = (uint8_t *)task->spec_sha256;
    out->spec_sha256.len = sizeof task->spec_sha256;
    out->state = task->state;
    out->attempt = task->attempt;
    out->order = task->order;
    out->epoch = task->epoch;
    out->cancel_requested = task->cancel_requested;
    out->cancel_reason = text_or_empty(task->cancel_reason);
    out->created_ms = task->created_ms;
    out->dispatched_ms = task->dispatched_ms;
    out->started_ms = task->started_ms;
    out->finished_ms = task->finished_ms;
    out->version = task->version;
    out->reason = text_or_empty(task->reason);
    out->result = task->result;
    out->has_result = task->result != NULL;
    out->late_results = task->late_results;
    out->pid = task->pid;
    out->earlier = task->earlier;
    out->late_result = task->late_result;
    out->late_attempt = task->late_attempt;
    out->tail = task->tail;
}

void nl_proposer_to_message(const struct nl_proposer_rec *proposer,
                            Nodelink__V1__ProposerRecord *out) {
    nodelink__v1__proposer_record__init(out);
    out->proposer = proposer->id;
    out->boot = proposer->boot;
    out->done_below = proposer->done_below;
}

void nl_done_to_message(const struct nl_done *done, Nodelink__V1__OutcomeRecord *out) {
    nodelink__v1__outcome_record__init(out);
    out->sequence = done->sequence;
    out->code = done->code;
    out->value = done->value;
}
