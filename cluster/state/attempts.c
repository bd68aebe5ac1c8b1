// The attempts of a task: which end is followed by another one (P2: only if it was asked for), and
// what is kept of those that are over.

#include "cluster/state/internal.h"

typedef Nodelink__V1__AttemptRecord Attempt;
typedef Nodelink__V1__AttemptRecords Attempts;
typedef Nodelink__V1__TaskSpec Spec;

bool nl_attempts_spec_ok(const Spec *spec) {
    if (spec->attempts > NL_STATE_ATTEMPTS_MAX || (spec->n_retry_on > 0 && spec->attempts < 2)) {
        return false;
    }
    for (size_t i = 0; i < spec->n_retry_on; i++) {
        if (spec->retry_on[i] < NODELINK__V1__RETRY_ON__RETRY_ON_EXIT ||
            spec->retry_on[i] > NODELINK__V1__RETRY_ON__RETRY_ON_LOST) {
            return false;
        }
    }
    return true;
}

// The earlier of a time and one counted from the submit.
static uint64_t deadline(uint64_t created_ms, uint64_t by_ms, uint64_t within_ms) {
    uint64_t at = within_ms < UINT64_MAX - created_ms ? created_ms + within_ms : UINT64_MAX;
    if (within_ms == 0 || (by_ms != 0 && by_ms < at)) {
        return by_ms;
    }
    return at;
}

uint64_t nl_task_start_deadline_ms(const struct nl_task *task) {
    return deadline(task->created_ms, task->spec->start_by_ms, task->spec->start_within_ms);
}

uint64_t nl_task_finish_deadline_ms(const struct nl_task *task) {
    return deadline(task->created_ms, task->spec->finish_by_ms, task->spec->finish_within_ms);
}

static bool passed(uint64_t deadline_ms, uint64_t now_ms) {
    return deadline_ms != 0 && now_ms >= deadline_ms;
}

static bool asked_for(const Spec *spec, Nodelink__V1__RetryOn why) {
    for (size_t i = 0; i < spec->n_retry_on; i++) {
        if (spec->retry_on[i] == why) {
            return true;
        }
    }
    return spec->n_retry_on == 0;
}

// Where the next attempt begins: DISPATCHED, PENDING, or 0: nowhere.
static enum nl_task_state next_state(const struct nl_state *state, const struct nl_task *task,
                                     const struct nl_agent *agent, Nodelink__V1__RetryOn why) {
    const Spec *spec = task->spec;
    // An agent without a journal can't tell the attempts apart.
    bool may = why != 0 && task->attempt < spec->attempts && !task->cancel_requested &&
               asked_for(spec, why) && agent->extended && agent->tokens > 0 &&
               !passed(nl_task_start_deadline_ms(task), state->clock_ms) &&
               !passed(nl_task_finish_deadline_ms(task), state->clock_ms);
    if (!may || (agent->connection == NL_AGENT_LOST && spec->wait_for_agent_ms == 0)) {
        return 0;
    }
    return agent->connection == NL_AGENT_CONNECTED ? NL_TASK_DISPATCHED : NL_TASK_PENDING;
}

// Adds the attempt that is over to the earlier ones.
static int keep(struct nl_state *state, struct nl_task *task, const struct nl_attempt_end *end) {
    Attempt over = NODELINK__V1__ATTEMPT_RECORD__INIT;
    over.attempt = task->attempt;
    over.state = end->state;
    over.reason = (char *)(uintptr_t)(end->reason != NULL ? end->reason : "");
    over.result = (Nodelink__V1__TaskResult *)(uintptr_t)end->result;
    over.dispatched_ms = task->dispatched_ms;
    over.started_ms = task->started_ms;
    over.finished_ms = state->clock_ms;
    Attempt *list[NL_STATE_ATTEMPTS_MAX];
    Attempts all = NODELINK__V1__ATTEMPT_RECORDS__INIT;
    all.attempts = list;
    if (task->earlier != NULL) {
        all.n_attempts = task->earlier->n_attempts;
        memcpy(list, task->earlier->attempts, all.n_attempts * sizeof(Attempt *));
    }
    assert(all.n_attempts + 1 == task->attempt && task->attempt < NL_STATE_ATTEMPTS_MAX);
    list[all.n_attempts++] = &over;
    Attempts *kept = nl_message_compact(&all.base);
    if (kept == NULL) {
        return NL_ENOMEM;
    }
    nl_release(state, task->earlier);
    task->earlier = kept;
    return NL_OK;
}

static int begin(struct nl_apply *a, uint32_t slot, const struct nl_attempt_end *end,
                 enum nl_task_state next, uint64_t epoch) {
    struct nl_task_rec *rec;
    int rv = nl_task_edit(a->state, slot, &rec);
    if (rv != NL_OK || (rv = keep(a->state, &rec->task, end)) != NL_OK ||
        (rv = nl_task_requeue(a, rec)) != NL_OK ||
        (rv = nl_text_replace(a->state, &rec->task.reason, NULL)) != NL_OK) {
        return rv;
    }
    struct nl_task *task = &rec->task;
    enum nl_task_state old = task->state;
    task->attempt++;
    task->state = next;
    task->epoch = next == NL_TASK_DISPATCHED ? epoch : 0;
    task->dispatched_ms = next == NL_TASK_DISPATCHED ? a->state->clock_ms : 0;
    task->started_ms = 0;
    task->pid = 0;
    return nl_task_commit(a, rec, old);
}

static int end_task(struct nl_apply *a, uint32_t slot, const struct nl_attempt_end *end) {
    struct nl_task_rec *rec;
    int rv = nl_task_edit(a->state, slot, &rec);
    if (rv == NL_OK) {
        rv = nl_text_replace(a->state, &rec->task.reason, end->reason);
    }
    if (rv != NL_OK) {
        return rv;
    }
    if (end->result != NULL) {
        rec->task.result = nl_message_compact(&end->result->base);
        if (rec->task.result == NULL) {
            return NL_ENOMEM;
        }
    }
    if (nl_tail_bytes(end->tail) > 0 && nl_tail_bytes(end->tail) <= NL_STATE_TAIL_MAX) {
        rec->task.tail = nl_message_compact(&end->tail->base);
        if (rec->task.tail == NULL) {
            return NL_ENOMEM;
        }
    }
    enum nl_task_state old = rec->task.state;
    assert(!nl_task_is_terminal(old));  // P3
    rec->task.state = end->state;
    return nl_task_commit(a, rec, old);
}

int nl_attempt_over(struct nl_apply *a, uint32_t slot, const struct nl_attempt_end *end) {
    const struct nl_task *task = &nl_task_at(a->state, slot)->task;
    const struct nl_agent *agent = &nl_agent_get(a->state, task->spec->agent_id)->agent;
    enum nl_task_state next = next_state(a->state, task, agent, end->retry_on);
    return next != 0 ? begin(a, slot, end, next, agent->epoch) : end_task(a, slot, end);
}

const Attempt *nl_task_earlier(const struct nl_task *task, uint32_t attempt) {
    bool is = attempt > 0 && task->earlier != NULL && attempt <= task->earlier->n_attempts;
    return is ? task->earlier->attempts[attempt - 1] : NULL;
}
