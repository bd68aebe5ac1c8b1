// TaskStart, TaskUnknown, TaskFinish, TaskCancelRequest, TaskExpire: the life of a task.

#include <inttypes.h>
#include <stdio.h>

#include "cluster/state/internal.h"

typedef Nodelink__V1__TaskResult Result;

// Whether the report comes from the agent's current epoch and the task's attempt (P7).
static bool is_current(const struct nl_state *state, const struct nl_task *task, uint64_t epoch,
                       uint32_t attempt) {
    const struct nl_agent_rec *agent = nl_agent_get(state, task->spec->agent_id);
    return agent->agent.epoch == epoch && task->attempt == attempt;
}

int nl_apply_start(struct nl_apply *a, const Nodelink__V1__TaskStart *m) {
    struct nl_task_rec *rec = nl_task_get(a->state, m->task_id);
    if (rec == NULL) {
        return nl_apply_done(a, NL_OUTCOME_NO_TASK, 0);
    }
    enum nl_task_state old = rec->task.state;
    if (strcmp(rec->task.spec->agent_id, m->agent_id) != 0) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    if (!is_current(a->state, &rec->task, m->epoch, m->attempt)) {
        return nl_apply_done(a, NL_OUTCOME_STALE, 0);
    }
    if (nl_task_is_terminal(old)) {
        return nl_apply_done(a, NL_OUTCOME_TOO_LATE, old);
    }
    if (old != NL_TASK_DISPATCHED && old != NL_TASK_UNKNOWN) {
        // A PENDING task was never sent, so nobody can have started it.
        return nl_apply_done(a, old == NL_TASK_RUNNING ? NL_OUTCOME_NOTHING : NL_OUTCOME_INVALID,
                             0);
    }
    int rv = nl_task_edit(a->state, rec->head.slot, &rec);
    if (rv == NL_OK) {
        rv = nl_text_replace(a->state, &rec->task.reason, NULL);
    }
    if (rv != NL_OK) {
        return rv;
    }
    rec->task.state = NL_TASK_RUNNING;
    rec->task.epoch = m->epoch;
    rec->task.pid = m->pid;
    if (rec->task.started_ms == 0) {
        rec->task.started_ms = a->state->clock_ms;
    }
    rv = nl_task_commit(a, rec, old);
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}

int nl_apply_unknown(struct nl_apply *a, const Nodelink__V1__TaskUnknown *m) {
    struct nl_task_rec *rec = nl_task_get(a->state, m->task_id);
    if (rec == NULL) {
        return nl_apply_done(a, NL_OUTCOME_NO_TASK, 0);
    }
    enum nl_task_state old = rec->task.state;
    if (strcmp(rec->task.spec->agent_id, m->agent_id) != 0) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    if (!is_current(a->state, &rec->task, m->epoch, m->attempt)) {
        return nl_apply_done(a, NL_OUTCOME_STALE, 0);
    }
    if (nl_task_is_terminal(old)) {
        return nl_apply_done(a, NL_OUTCOME_TOO_LATE, old);
    }
    if (old != NL_TASK_DISPATCHED && old != NL_TASK_RUNNING) {
        return nl_apply_done(a, old == NL_TASK_UNKNOWN ? NL_OUTCOME_NOTHING : NL_OUTCOME_INVALID,
                             0);
    }
    int rv = nl_task_move(a, rec->head.slot, NL_TASK_UNKNOWN, m->reason);
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}

static enum nl_task_state exit_text(const Result *result, char *text, size_t size) {
    if (result->exit_code == 0) {
        text[0] = '\0';
        return NL_TASK_COMPLETED;
    }
    snprintf(text, size, "exit code %" PRId32, result->exit_code);
    return NL_TASK_FAILED;
}

static enum nl_task_state signal_text(const Result *result, char *text, size_t size) {
    const char *name = nl_signal_name(result->signal);
    if (name != NULL) {
        snprintf(text, size, "killed by signal %" PRId32 " (%s)", result->signal, name);
    } else {
        snprintf(text, size, "killed by signal %" PRId32, result->signal);
    }
    return NL_TASK_FAILED;
}

// The terminal state that a result means, 0 if it means none. The reason is in `text`, or where
// *reason points to.
static enum nl_task_state judge(const struct nl_task *task, const Result *result, char *text,
                                size_t size, const char **reason) {
    *reason = text;
    bool said = result->reason[0] != '\0';
    switch (result->kind) {
        case NODELINK__V1__TASK_RESULT__KIND__EXITED:
            return exit_text(result, text, size);
        case NODELINK__V1__TASK_RESULT__KIND__SIGNALLED:
            return signal_text(result, text, size);
        case NODELINK__V1__TASK_RESULT__KIND__TIMED_OUT:
            *reason = nl_task_finish_deadline_ms(task) != 0
                          ? "exceeded its timeout or its time to finish"
                          : "exceeded its timeout";
            return NL_TASK_TIMED_OUT;
        case NODELINK__V1__TASK_RESULT__KIND__CANCELLED:
            *reason = task->cancel_reason != NULL ? task->cancel_reason : result->reason;
            return NL_TASK_CANCELLED;
        case NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED:
            *reason = said ? result->reason : "the agent could not start the command";
            return NL_TASK_FAILED;
        case NODELINK__V1__TASK_RESULT__KIND__LOST:
            *reason = said ? result->reason : "the agent lost the command";
            return NL_TASK_FAILED;
        default:
            return 0;
    }
}

static Nodelink__V1__RetryOn retry_on(const Result *result) {
    switch (result->kind) {
        case NODELINK__V1__TASK_RESULT__KIND__EXITED:
            return result->exit_code != 0 ? NODELINK__V1__RETRY_ON__RETRY_ON_EXIT : 0;
        case NODELINK__V1__TASK_RESULT__KIND__SIGNALLED:
            return NODELINK__V1__RETRY_ON__RETRY_ON_SIGNAL;
        case NODELINK__V1__TASK_RESULT__KIND__TIMED_OUT:
            return NODELINK__V1__RETRY_ON__RETRY_ON_TIMEOUT;
        case NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED:
            return NODELINK__V1__RETRY_ON__RETRY_ON_NOT_STARTED;
        case NODELINK__V1__TASK_RESULT__KIND__LOST:
            return NODELINK__V1__RETRY_ON__RETRY_ON_LOST;
        default:
            return 0;
    }
}

// The first late result is kept, of all rules but the first.
static int keep_late(struct nl_apply *a, struct nl_task *task, uint32_t attempt,
                     const Result *result) {
    if (a->command->rules == 0 || task->late_result != NULL) {
        return NL_OK;
    }
    task->late_result = nl_message_compact(&result->base);
    task->late_attempt = attempt;
    return task->late_result == NULL ? NL_ENOMEM : NL_OK;
}

// What is known already is not late. 1, 0, NL_ENOMEM.
static int is_known(const Result *known, const Result *result) {
    return known == NULL ? 0 : nl_message_same(&known->base, &result->base);
}

static int finish_late(struct nl_apply *a, struct nl_task_rec *rec, uint32_t attempt,
                       const Result *known, const Result *result) {
    enum nl_task_state state = rec->task.state;
    int same = is_known(known, result);
    if (same == 0 && rec->task.late_attempt == attempt) {
        same = is_known(rec->task.late_result, result);
    }
    if (same != 0) {
        return same < 0 ? same : nl_apply_done(a, NL_OUTCOME_EXISTED, state);
    }
    int rv = nl_task_edit(a->state, rec->head.slot, &rec);
    if (rv == NL_OK) {
        rv = keep_late(a, &rec->task, attempt, result);
    }
    if (rv != NL_OK) {
        return rv;
    }
    rec->task.late_results++;
    rv = nl_task_commit(a, rec, state);
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_LATE, state) : rv;
}

static int finish_now(struct nl_apply *a, struct nl_task_rec *rec,
                      const Nodelink__V1__TaskFinish *m) {
    char text[64] = "";
    struct nl_attempt_end end = {
        .result = m->result, .tail = m->tail, .retry_on = retry_on(m->result)};
    end.state = judge(&rec->task, m->result, text, sizeof text, &end.reason);
    if (end.state == 0) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    int rv = nl_attempt_over(a, rec->head.slot, &end);
    if (rv == NL_OK) {
        rv = nl_tails_trim(a);
    }
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}

static int finish(struct nl_apply *a, struct nl_task_rec *rec, const Nodelink__V1__TaskFinish *m) {
    // An earlier attempt was given up and another one begun; its result is as late as any.
    const Nodelink__V1__AttemptRecord *earlier = nl_task_earlier(&rec->task, m->attempt);
    if (earlier != NULL) {
        return finish_late(a, rec, m->attempt, earlier->result, m->result);
    }
    if (m->attempt != rec->task.attempt) {
        return nl_apply_done(a, NL_OUTCOME_STALE, 0);
    }
    if (rec->task.state == NL_TASK_PENDING) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    return nl_task_is_terminal(rec->task.state)
               ? finish_late(a, rec, m->attempt, rec->task.result, m->result)
               : finish_now(a, rec, m);
}

int nl_apply_finish(struct nl_apply *a, const Nodelink__V1__TaskFinish *m) {
    struct nl_task_rec *rec = nl_task_get(a->state, m->task_id);
    if (rec == NULL) {
        return nl_apply_done(a, NL_OUTCOME_NO_TASK, 0);
    }
    if (m->result == NULL || strcmp(rec->task.spec->agent_id, m->agent_id) != 0) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    if (nl_agent_get(a->state, m->agent_id)->agent.epoch != m->epoch) {
        return nl_apply_done(a, NL_OUTCOME_STALE, 0);
    }
    return finish(a, rec, m);
}

// Asks once; the first reason stays.
static int request_cancel(struct nl_apply *a, struct nl_task_rec *rec, const char *reason) {
    int rv = nl_task_edit(a->state, rec->head.slot, &rec);
    if (rv == NL_OK) {
        rv = nl_text_replace(a->state, &rec->task.cancel_reason, reason);
    }
    if (rv != NL_OK) {
        return rv;
    }
    rec->task.cancel_requested = true;
    if (rec->task.state == NL_TASK_PENDING) {
        rv = nl_task_move(a, rec->head.slot, NL_TASK_CANCELLED, reason);
        return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, NL_TASK_CANCELLED) : rv;
    }
    rv = nl_task_commit(a, rec, rec->task.state);
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_CANCEL_REQUESTED, rec->task.state) : rv;
}

int nl_apply_cancel(struct nl_apply *a, const Nodelink__V1__TaskCancelRequest *m) {
    struct nl_task_rec *rec = nl_task_get(a->state, m->task_id);
    if (rec == NULL) {
        return nl_apply_done(a, NL_OUTCOME_NO_TASK, 0);
    }
    if (nl_task_is_terminal(rec->task.state)) {
        return nl_apply_done(a, NL_OUTCOME_TOO_LATE, rec->task.state);
    }
    if (rec->task.cancel_requested) {
        return nl_apply_done(a, NL_OUTCOME_CANCEL_REQUESTED, rec->task.state);
    }
    return request_cancel(a, rec, m->reason);
}

int nl_apply_expire(struct nl_apply *a, const Nodelink__V1__TaskExpire *m) {
    const struct nl_task_rec *rec = nl_task_get(a->state, m->task_id);
    if (rec == NULL || nl_task_is_terminal(rec->task.state) || rec->task.version != m->version) {
        return nl_apply_done(a, NL_OUTCOME_NOTHING, 0);
    }
    int rv = nl_task_move(a, rec->head.slot, NL_TASK_FAILED, m->reason);
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}
