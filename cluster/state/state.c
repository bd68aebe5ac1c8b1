// Life of a state, and what it says of itself.

#include "cluster/state/internal.h"

#define TAILS_BYTES_MAX ((uint64_t)64 << 20)

static uint32_t or_default(uint32_t value, uint32_t fallback) {
    return value != 0 ? value : fallback;
}

int nl_state_new(const struct nl_state_limits *limits, struct nl_state **ret) {
    struct nl_state *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return NL_ENOMEM;
    }
    state->limits.tasks_per_agent_active_max =
        or_default(limits->tasks_per_agent_active_max, 10000);
    state->limits.agents_max = or_default(limits->agents_max, 100000);
    state->limits.outcomes_per_proposer_max = or_default(limits->outcomes_per_proposer_max, 65536);
    state->limits.tails_bytes_max =
        limits->tails_bytes_max != 0 ? limits->tails_bytes_max : TAILS_BYTES_MAX;
    // A stamp of 0 means "not yet", so state time never is 0.
    state->clock_ms = 1;
    nl_table_init(&state->nodes, 0);
    nl_table_init(&state->proposers, 0);
    nl_table_init(&state->agents, offsetof(struct nl_agent_rec, agent.id));
    nl_table_init(&state->tasks, offsetof(struct nl_task_rec, task.id));
    *ret = state;
    return NL_OK;
}

static void free_records(struct nl_state *state, struct nl_table *table) {
    for (uint32_t slot = 1; slot < table->next_slot; slot++) {
        struct nl_rec *rec = nl_table_get(table, slot);
        if (rec == NULL) {
            continue;
        }
        if (table == &state->nodes) {
            nl_node_rec_free(state, NL_CONTAINER(rec, struct nl_node_rec, head));
        } else if (table == &state->proposers) {
            nl_proposer_rec_free(state, NL_CONTAINER(rec, struct nl_proposer_rec, head));
        } else if (table == &state->agents) {
            nl_agent_rec_free(state, NL_CONTAINER(rec, struct nl_agent_rec, head));
        } else {
            nl_task_rec_free(state, NL_CONTAINER(rec, struct nl_task_rec, head));
        }
    }
    nl_table_close(table);
}

void nl_state_free(struct nl_state *state) {
    if (state == NULL) {
        return;
    }
    assert(state->snapshot == NULL);
    free_records(state, &state->nodes);
    free_records(state, &state->proposers);
    free_records(state, &state->agents);
    free_records(state, &state->tasks);
    free(state->tails.heap);
    free(state);
}

uint64_t nl_state_index(const struct nl_state *state) {
    return state->index;
}

void nl_state_set_index(struct nl_state *state, uint64_t index) {
    if (index > state->index) {
        state->index = index;
    }
}

uint64_t nl_state_clock_ms(const struct nl_state *state) {
    return state->clock_ms;
}

void nl_state_counts(const struct nl_state *state, struct nl_state_counts *ret) {
    *ret = state->counts;
}

void nl_state_hash(const struct nl_state *state, uint8_t out[NL_STATE_HASH_LEN]) {
    nl_sum_bytes(nl_hash_final(state->sum, state->clock_ms), out);
}
