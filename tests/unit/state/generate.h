// Random commands from a seed, over small pools of nodes, agents, tasks and tokens: mostly
// sensible ones (they look at the state for epochs and versions), some stale, some invalid.
#ifndef NODELINK_TESTS_UNIT_STATE_GENERATE_H
#define NODELINK_TESTS_UNIT_STATE_GENERATE_H

#include "cluster/state/state.h"

struct generator {
    uint64_t seed;
    uint64_t time_ms;
    uint64_t boot[5], sequence[5];  // by proposer
    char text[32][40];              // of the last command
    unsigned n_text;
    uint8_t sha256[32];
};

void generator_init(struct generator *g, uint64_t seed);
uint64_t generator_next(struct generator *g);
uint64_t generator_below(struct generator *g, uint64_t n);  // 0 .. n-1
// One encoded command; owned (malloc).
uint8_t *generate(struct generator *g, const struct nl_state *state, size_t *ret_len);

#endif
