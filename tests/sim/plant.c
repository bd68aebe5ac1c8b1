// Planted defects that need the state machine's representation.

#include "cluster/state/internal.h"

void sim_forget_outcomes(struct nl_state *state);

// As if a snapshot didn't hold which commands were applied.
void sim_forget_outcomes(struct nl_state *state) {
    for (uint32_t slot = 1; slot < state->proposers.next_slot; slot++) {
        struct nl_rec *rec = nl_table_get(&state->proposers, slot);
        if (rec != NULL) {
            NL_CONTAINER(rec, struct nl_proposer_rec, head)->count = 0;
        }
    }
}
