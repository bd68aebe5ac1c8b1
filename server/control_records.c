// Records of the state as messages. Nothing is copied: they are packed before the loop turns.
#include "server/control.h"
#include "server/messages.h"

void nl_control_fill_task(const struct nl_task *task, Nodelink__V1__Task *ret) {
    nodelink__v1__task__init(ret);
    ret->id = task->id;
    ret->spec = task->spec;
    ret->state = (Nodelink__V1__TaskState)task->state;
    ret->attempt = task->attempt;
    ret->created_ms = task->created_ms;
    ret->dispatched_ms = task->dispatched_ms;
    ret->started_ms = task->started_ms;
    ret->finished_ms = task->finished_ms;
    ret->cancel_requested = task->cancel_requested;
    ret->reason = nl_message_text(task->reason);
    ret->has_result = task->result != NULL;
    ret->result = task->result;
    ret->late_results = task->late_results;
    ret->version = task->version;
    ret->pid = task->pid;
    ret->epoch = task->epoch;
    ret->earlier = task->earlier;
    ret->late_result = task->late_result;
    ret->late_attempt = task->late_attempt;
    ret->start_deadline_ms = nl_task_start_deadline_ms(task);
    ret->finish_deadline_ms = nl_task_finish_deadline_ms(task);
    ret->has_tail = task->tail != NULL;
    ret->tail_stdout_offset = task->tail != NULL ? task->tail->stdout_offset : 0;
    ret->tail_stderr_offset = task->tail != NULL ? task->tail->stderr_offset : 0;
}

void nl_control_fill_agent(const struct nl_state *state, const struct nl_agent *agent,
                           Nodelink__V1__Agent *ret) {
    const struct nl_node *node = nl_state_node(state, agent->owner);
    nodelink__v1__agent__init(ret);
    ret->id = agent->id;
    ret->connection = (Nodelink__V1__AgentConnection)agent->connection;
    ret->node_id = agent->owner;
    ret->node = nl_message_text(node != NULL ? node->name : NULL);
    ret->epoch = agent->epoch;
    ret->connected_ms = agent->connected_ms;
    ret->disconnected_ms = agent->disconnected_ms;
    ret->version = nl_message_text(agent->version);
    ret->n_labels = agent->n_labels;
    ret->labels = agent->labels;
    ret->capacity = agent->capacity;
    ret->tasks_running = nl_state_agent_running(state, agent);
    ret->tasks_submitted = agent->tasks_submitted;
    ret->tasks_finished = agent->tasks_finished;
    ret->address = nl_message_text(agent->address);
    ret->hostname = nl_message_text(agent->hostname);
    ret->has_token = agent->tokens > 0;
    ret->extended = agent->extended;
    ret->created_ms = agent->created_ms;
}
