// TaskPrune: terminal tasks go, oldest first.

#include "cluster/state/internal.h"

#define PRUNE_DEFAULT 1000u

static bool should_go(const struct nl_state *state, const struct nl_task *task,
                      const Nodelink__V1__TaskPrune *m) {
    return task->finished_ms < m->finished_before_ms ||
           (m->keep_max > 0 && state->counts.tasks_terminal > m->keep_max);
}

int nl_apply_prune(struct nl_apply *a, const Nodelink__V1__TaskPrune *m) {
    struct nl_state *state = a->state;
    uint32_t limit = m->limit == 0 ? PRUNE_DEFAULT : m->limit;
    uint32_t gone = 0;
    for (; gone < limit; gone++) {
        uint32_t slot = nl_order_first(&state->tasks, NL_ORDER_LIFE, state->finished);
        if (slot == NL_SLOT_NONE || !should_go(state, &nl_task_at(state, slot)->task, m)) {
            break;
        }
        int rv = nl_task_remove(a, slot);
        if (rv != NL_OK) {
            return rv;
        }
    }
    return nl_apply_done(a, NL_OUTCOME_OK, gone);
}
