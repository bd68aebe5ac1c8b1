// TaskSubmit: idempotent by task id (P8).

#include "cluster/state/internal.h"
#include "common/base/text.h"

static bool env_ok(const char *entry) {
    const char *equals = strchr(entry, '=');
    return equals != NULL && equals != entry;
}

static bool spec_ok(const Nodelink__V1__TaskSpec *spec) {
    if (!nl_text_id_ok(spec->agent_id) || (spec->cmd[0] == '\0' && spec->n_argv == 0) ||
        !nl_attempts_spec_ok(spec)) {
        return false;
    }
    for (size_t i = 0; i < spec->n_env; i++) {
        if (!env_ok(spec->env[i])) {
            return false;
        }
    }
    return protobuf_c_message_get_packed_size(&spec->base) <= NL_SPEC_MAX;
}

static bool too_late(const struct nl_state *state, const Nodelink__V1__TaskSpec *spec) {
    uint64_t now = state->clock_ms;
    return (spec->start_by_ms != 0 && spec->start_by_ms <= now) ||
           (spec->finish_by_ms != 0 && spec->finish_by_ms <= now);
}

// The state a new task of the agent begins in; 0: it can't be taken.
static enum nl_task_state first_state(const struct nl_agent *agent,
                                      const Nodelink__V1__TaskSpec *spec) {
    bool offline = agent->tokens == 0 || agent->connection == NL_AGENT_NEVER_CONNECTED ||
                   agent->connection == NL_AGENT_LOST;
    if (offline) {
        return spec->wait_for_agent_ms > 0 ? NL_TASK_PENDING : 0;
    }
    return agent->connection == NL_AGENT_CONNECTED ? NL_TASK_DISPATCHED : NL_TASK_PENDING;
}

static void fill(struct nl_task *task, const struct nl_state *state, const struct nl_agent *agent,
                 enum nl_task_state first) {
    task->state = first;
    task->attempt = 1;
    task->version = 1;
    task->order = agent->next_order;
    task->created_ms = state->clock_ms;
    if (first == NL_TASK_DISPATCHED) {
        task->epoch = agent->epoch;
        task->dispatched_ms = state->clock_ms;
    }
}

static int create(struct nl_apply *a, const Nodelink__V1__TaskSubmit *m, uint32_t agent_slot,
                  enum nl_task_state first, const uint8_t sha256[32]) {
    struct nl_state *state = a->state;
    struct nl_agent_rec *agent;
    int rv = nl_agent_edit(state, agent_slot, &agent);
    if (rv != NL_OK) {
        return rv;
    }
    struct nl_task_rec *rec = nl_task_rec_new(m->task_id);
    if (rec == NULL) {
        return NL_ENOMEM;
    }
    rec->task.spec = nl_message_compact(&m->spec->base);
    memcpy(rec->task.spec_sha256, sha256, sizeof rec->task.spec_sha256);
    fill(&rec->task, state, &agent->agent, first);
    rv = rec->task.spec == NULL ? NL_ENOMEM : nl_task_insert(state, rec, agent_slot);
    if (rv != NL_OK) {
        nl_task_rec_free(state, rec);
        return rv;
    }
    nl_task_order(state, &rec->task, NL_ORDER_ALL);
    nl_task_order(state, &rec->task, NL_ORDER_LIFE);
    agent->agent.next_order++;
    agent->agent.tasks_submitted++;
    agent->agent.tasks_active++;
    nl_emit_task(a, NL_EFFECT_TASK, &rec->task, 0);
    nl_agent_commit(a, agent, agent->agent.connection);
    return nl_apply_done(a, NL_OUTCOME_OK, first);
}

int nl_apply_submit(struct nl_apply *a, const Nodelink__V1__TaskSubmit *m) {
    uint8_t sha256[32];
    if (!nl_text_id_ok(m->task_id) || m->spec == NULL || !spec_ok(m->spec)) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    int rv = nl_message_sha256(&m->spec->base, sha256);
    if (rv != NL_OK) {
        return rv;
    }
    const struct nl_task_rec *known = nl_task_get(a->state, m->task_id);
    if (known != NULL) {
        bool same = memcmp(known->task.spec_sha256, sha256, sizeof sha256) == 0;
        return same ? nl_apply_done(a, NL_OUTCOME_EXISTED, known->task.state)
                    : nl_apply_done(a, NL_OUTCOME_CONFLICT, 0);
    }
    const struct nl_agent_rec *agent = nl_agent_get(a->state, m->spec->agent_id);
    if (agent == NULL) {
        return nl_apply_done(a, NL_OUTCOME_NO_AGENT, 0);
    }
    if (too_late(a->state, m->spec)) {
        return nl_apply_done(a, NL_OUTCOME_TOO_LATE, 0);
    }
    enum nl_task_state first = first_state(&agent->agent, m->spec);
    if (first == 0) {
        return nl_apply_done(a, NL_OUTCOME_AGENT_OFFLINE, 0);
    }
    if (agent->agent.tasks_active >= a->state->limits.tasks_per_agent_active_max) {
        return nl_apply_done(a, NL_OUTCOME_LIMIT, 0);
    }
    return create(a, m, agent->head.slot, first, sha256);
}
