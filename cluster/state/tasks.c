// Task records, their orders, and what a change of a task entails.

#include "cluster/state/internal.h"

static struct nl_task_rec *as_task(struct nl_rec *rec) {
    return NL_CONTAINER(rec, struct nl_task_rec, head);
}

static const struct nl_task *task_at(const struct nl_state *state, uint32_t slot) {
    return slot == NL_SLOT_NONE ? NULL : &nl_task_at(state, slot)->task;
}

static uint32_t slot_of(const struct nl_task *task) {
    return NL_CONTAINER(task, struct nl_task_rec, task)->head.slot;
}

void nl_task_rec_free(struct nl_state *state, struct nl_task_rec *rec) {
    nl_release(state, rec->task.spec);
    nl_release(state, rec->task.cancel_reason);
    nl_release(state, rec->task.reason);
    nl_release(state, rec->task.result);
    nl_release(state, rec->task.late_result);
    nl_release(state, rec->task.earlier);
    nl_release(state, rec->task.tail);
    nl_release(state, rec);
}

struct nl_task_rec *nl_task_at(const struct nl_state *state, uint32_t slot) {
    return as_task(nl_table_get(&state->tasks, slot));
}

struct nl_task_rec *nl_task_get(const struct nl_state *state, const char *id) {
    uint32_t slot = nl_table_find(&state->tasks, id);
    return slot == NL_SLOT_NONE ? NULL : nl_task_at(state, slot);
}

uint32_t nl_task_active_first(const struct nl_state *state, uint32_t agent_slot) {
    uint32_t root = nl_table_link(&state->agents, agent_slot)->active;
    return nl_order_first(&state->tasks, NL_ORDER_LIFE, root);
}

uint32_t nl_task_active_next(const struct nl_state *state, uint32_t slot) {
    return nl_order_next(&state->tasks, NL_ORDER_LIFE, slot);
}

struct nl_task_rec *nl_task_rec_new(const char *id) {
    size_t id_size = strlen(id) + 1;
    struct nl_task_rec *rec = calloc(1, sizeof *rec + id_size);
    if (rec != NULL) {
        memcpy(rec->id, id, id_size);
        rec->task.id = rec->id;
    }
    return rec;
}

int nl_task_insert_hashed(struct nl_state *state, struct nl_task_rec *rec, uint32_t agent_slot,
                          struct nl_sum hash) {
    const struct nl_task *task = &rec->task;
    int rv = nl_table_add(state, &state->tasks, &rec->head, 0);
    if (rv != NL_OK) {
        return rv;
    }
    nl_table_link(&state->tasks, rec->head.slot)->agent = agent_slot;
    state->counts.tasks[task->state]++;
    state->counts.tasks_total++;
    state->counts.tasks_terminal += nl_task_is_terminal(task->state);
    nl_table_link(&state->agents, agent_slot)->running += task->state == NL_TASK_RUNNING;
    nl_rehash(state, &rec->head, hash);
    return NL_OK;
}

int nl_task_insert(struct nl_state *state, struct nl_task_rec *rec, uint32_t agent_slot) {
    return nl_task_insert_hashed(state, rec, agent_slot, nl_hash_task(&rec->task));
}

uint64_t nl_task_order_key(const struct nl_task *task, enum nl_order_kind kind) {
    if (kind == NL_ORDER_ALL) {
        return task->created_ms;
    }
    return nl_task_is_terminal(task->state) ? task->finished_ms : task->order;
}

uint32_t *nl_task_order_root(struct nl_state *state, const struct nl_task *task,
                             enum nl_order_kind kind) {
    if (kind == NL_ORDER_ALL) {
        return &state->tasks.root;
    }
    uint32_t agent = nl_table_link(&state->tasks, slot_of(task))->agent;
    return nl_task_is_terminal(task->state) ? &state->finished
                                            : &nl_table_link(&state->agents, agent)->active;
}

void nl_task_order(struct nl_state *state, const struct nl_task *task, enum nl_order_kind kind) {
    nl_order_add(&state->tasks, kind, nl_task_order_root(state, task, kind), slot_of(task),
                 nl_task_order_key(task, kind));
}

int nl_task_edit(struct nl_state *state, uint32_t slot, struct nl_task_rec **ret) {
    size_t size = sizeof(struct nl_task_rec) + strlen(nl_table_id(&state->tasks, slot)) + 1;
    struct nl_rec *head;
    int rv = nl_table_edit(state, &state->tasks, slot, size, &head);
    if (rv == NL_OK) {
        *ret = as_task(head);
        (*ret)->task.id = (*ret)->id;  // a copy's own
    }
    return rv;
}

// From its agent's active tasks to the finished ones.
static void retire(struct nl_state *state, struct nl_task_rec *rec, struct nl_agent_rec *agent) {
    uint32_t slot = rec->head.slot;
    uint32_t *active = &nl_table_link(&state->agents, agent->head.slot)->active;
    nl_order_remove(&state->tasks, NL_ORDER_LIFE, active, slot);
    rec->task.finished_ms = state->clock_ms;
    nl_task_order(state, &rec->task, NL_ORDER_LIFE);
    state->counts.tasks_terminal++;
    agent->agent.tasks_active--;
    agent->agent.tasks_finished++;
}

int nl_task_commit(struct nl_apply *a, struct nl_task_rec *rec, enum nl_task_state old) {
    struct nl_state *state = a->state;
    struct nl_agent_rec *agent = NULL;
    uint32_t slot = nl_table_link(&state->tasks, rec->head.slot)->agent;
    if (nl_task_is_terminal(rec->task.state) && !nl_task_is_terminal(old)) {
        int rv = nl_agent_edit(state, slot, &agent);
        if (rv != NL_OK) {
            return rv;
        }
        retire(state, rec, agent);
    }
    state->counts.tasks[old]--;
    state->counts.tasks[rec->task.state]++;
    struct nl_link *of_agent = nl_table_link(&state->agents, slot);
    of_agent->running -= old == NL_TASK_RUNNING;
    of_agent->running += rec->task.state == NL_TASK_RUNNING;
    rec->task.version++;
    nl_rehash(state, &rec->head, nl_hash_task(&rec->task));
    nl_emit_task(a, NL_EFFECT_TASK, &rec->task, old);
    if (agent != NULL) {
        nl_agent_commit(a, agent, agent->agent.connection);
        return nl_tails_add(state, rec);
    }
    return NL_OK;
}

int nl_task_move(struct nl_apply *a, uint32_t slot, enum nl_task_state to, const char *reason) {
    struct nl_task_rec *rec;
    int rv = nl_task_edit(a->state, slot, &rec);
    if (rv == NL_OK) {
        rv = nl_text_replace(a->state, &rec->task.reason, reason);
    }
    if (rv != NL_OK) {
        return rv;
    }
    enum nl_task_state old = rec->task.state;
    assert(!nl_task_is_terminal(old));  // P3
    rec->task.state = to;
    return nl_task_commit(a, rec, old);
}

int nl_task_requeue(struct nl_apply *a, struct nl_task_rec *rec) {
    struct nl_state *state = a->state;
    uint32_t slot = rec->head.slot, agent_slot = nl_table_link(&state->tasks, slot)->agent;
    struct nl_agent_rec *agent;
    int rv = nl_agent_edit(state, agent_slot, &agent);
    if (rv != NL_OK) {
        return rv;
    }
    uint32_t *active = &nl_table_link(&state->agents, agent_slot)->active;
    nl_order_remove(&state->tasks, NL_ORDER_LIFE, active, slot);
    rec->task.order = agent->agent.next_order++;
    nl_task_order(state, &rec->task, NL_ORDER_LIFE);
    nl_agent_commit(a, agent, agent->agent.connection);
    return NL_OK;
}

int nl_task_remove(struct nl_apply *a, uint32_t slot) {
    struct nl_state *state = a->state;
    struct nl_task_rec *rec = nl_task_at(state, slot);
    assert(nl_task_is_terminal(rec->task.state));
    int rv = nl_grave_reserve(state);
    if (rv != NL_OK) {
        return rv;
    }
    nl_tails_remove(state, rec);  // while its id can be found by its slot
    rv = nl_table_remove(state, &state->tasks, slot);
    if (rv != NL_OK) {
        return rv;
    }
    nl_order_remove(&state->tasks, NL_ORDER_ALL, &state->tasks.root, slot);
    nl_order_remove(&state->tasks, NL_ORDER_LIFE, &state->finished, slot);
    state->counts.tasks[rec->task.state]--;
    state->counts.tasks_terminal--;
    state->counts.tasks_total--;
    nl_sum_sub(&state->sum, rec->head.hash);
    nl_emit_task(a, NL_EFFECT_TASK_PRUNED, &rec->task, rec->task.state);
    nl_task_rec_free(state, rec);
    return NL_OK;
}

const struct nl_task *nl_state_task(const struct nl_state *state, const char *task_id) {
    return task_at(state, nl_table_find(&state->tasks, task_id));
}

const struct nl_task *nl_state_agent_task_next(const struct nl_state *state,
                                               const struct nl_agent *agent,
                                               const struct nl_task *after) {
    uint32_t agent_slot = NL_CONTAINER(agent, struct nl_agent_rec, agent)->head.slot;
    uint32_t slot = after == NULL ? nl_task_active_first(state, agent_slot)
                                  : nl_task_active_next(state, slot_of(after));
    return task_at(state, slot);
}

uint32_t nl_state_agent_running(const struct nl_state *state, const struct nl_agent *agent) {
    uint32_t slot = NL_CONTAINER(agent, struct nl_agent_rec, agent)->head.slot;
    return nl_table_link(&state->agents, slot)->running;
}

const struct nl_task *nl_state_task_next_older(const struct nl_state *state,
                                               const struct nl_task *after) {
    const struct nl_table *tasks = &state->tasks;
    uint32_t slot = after == NULL ? nl_order_last(tasks, NL_ORDER_ALL, tasks->root)
                                  : nl_order_prev(tasks, NL_ORDER_ALL, slot_of(after));
    return task_at(state, slot);
}

const struct nl_task *nl_state_task_older(const struct nl_state *state, uint64_t created_ms,
                                          const char *id) {
    const struct nl_table *tasks = &state->tasks;
    return task_at(state, nl_order_below(tasks, NL_ORDER_ALL, tasks->root, created_ms, id));
}

uint64_t nl_state_oldest_finished_ms(const struct nl_state *state) {
    uint32_t slot = nl_order_first(&state->tasks, NL_ORDER_LIFE, state->finished);
    return slot == NL_SLOT_NONE ? 0 : nl_task_at(state, slot)->task.finished_ms;
}
