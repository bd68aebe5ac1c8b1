// AgentDisconnect, AgentTimeout: what a silent agent means for its tasks.

#include "cluster/state/internal.h"

int nl_apply_disconnect(struct nl_apply *a, const Nodelink__V1__AgentDisconnect *m) {
    const struct nl_agent_rec *rec = nl_agent_get(a->state, m->agent_id);
    if (rec == NULL || rec->agent.connection != NL_AGENT_CONNECTED ||
        rec->agent.epoch != m->epoch) {
        return nl_apply_done(a, NL_OUTCOME_NOTHING, 0);
    }
    int rv = nl_agent_disconnect(a, rec->head.slot, m->reason);
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}

// Whether the task was sent, so that it may be running.
static bool was_sent(const struct nl_task *task) {
    return task->state == NL_TASK_DISPATCHED || task->state == NL_TASK_RUNNING;
}

static int on_unreachable(struct nl_apply *a, uint32_t slot) {
    const struct nl_task *task = &nl_task_at(a->state, slot)->task;
    return was_sent(task) ? nl_task_move(a, slot, NL_TASK_UNKNOWN, "agent unreachable") : NL_OK;
}

static int on_lost(struct nl_apply *a, uint32_t slot) {
    const struct nl_task *task = &nl_task_at(a->state, slot)->task;
    if (task->state != NL_TASK_PENDING) {
        return nl_attempt_over(
            a, slot,
            &(struct nl_attempt_end){.state = NL_TASK_FAILED,
                                     .reason = "agent disconnected",
                                     .retry_on = NODELINK__V1__RETRY_ON__RETRY_ON_LOST});
    }
    if (task->spec->wait_for_agent_ms == 0) {
        return nl_task_move(a, slot, NL_TASK_FAILED,
                            "agent disconnected before the command was sent");
    }
    return NL_OK;
}

static int time_out(struct nl_apply *a, uint32_t agent_slot, enum nl_agent_connection to,
                    int (*on_task)(struct nl_apply *a, uint32_t slot)) {
    struct nl_agent_rec *rec;
    int rv = nl_agent_edit(a->state, agent_slot, &rec);
    if (rv != NL_OK) {
        return rv;
    }
    enum nl_agent_connection old = rec->agent.connection;
    rec->agent.connection = to;
    nl_agent_commit(a, rec, old);
    // A task that begins its next attempt moves behind these.
    uint64_t end = rec->agent.next_order;
    uint32_t slot = nl_task_active_first(a->state, agent_slot);
    while (rv == NL_OK && slot != NL_SLOT_NONE && nl_task_at(a->state, slot)->task.order < end) {
        uint32_t next = nl_task_active_next(a->state, slot);
        rv = on_task(a, slot);
        slot = next;
    }
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}

int nl_apply_timeout(struct nl_apply *a, const Nodelink__V1__AgentTimeout *m) {
    bool unreachable = m->stage == NODELINK__V1__AGENT_TIMEOUT__STAGE__UNREACHABLE;
    bool lost = m->stage == NODELINK__V1__AGENT_TIMEOUT__STAGE__LOST;
    if (!unreachable && !lost) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    const struct nl_agent_rec *rec = nl_agent_get(a->state, m->agent_id);
    if (rec == NULL || rec->agent.epoch != m->epoch) {
        return nl_apply_done(a, NL_OUTCOME_NOTHING, 0);
    }
    enum nl_agent_connection now = rec->agent.connection;
    if (unreachable && now == NL_AGENT_DISCONNECTED) {
        return time_out(a, rec->head.slot, NL_AGENT_UNREACHABLE, on_unreachable);
    }
    if (lost && (now == NL_AGENT_DISCONNECTED || now == NL_AGENT_UNREACHABLE)) {
        return time_out(a, rec->head.slot, NL_AGENT_LOST, on_lost);
    }
    return nl_apply_done(a, NL_OUTCOME_NOTHING, 0);
}
