#include "tests/sim/history.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

uint64_t sim_digest(const void *data, size_t len) {
    return XXH3_64bits(data, len);
}

void sim_history_free(struct sim_history *h) {
    for (size_t i = 0; i < h->n; i++) {
        free(h->at[i].stored);
    }
    free(h->at);
    free(h->commands);
    memset(h, 0, sizeof *h);
}

// ---- entries -----------------------------------------------------------------------

static struct sim_applied *at(struct sim_history *h, uint64_t index) {
    if (index >= h->n) {
        size_t n = 2 * (size_t)index + 64;
        h->at = realloc(h->at, n * sizeof *h->at);
        assert(h->at != NULL);
        memset(h->at + h->n, 0, (n - h->n) * sizeof *h->at);
        h->n = n;
    }
    return &h->at[index];
}

const char *sim_history_log(struct sim_history *h, uint64_t index, uint64_t term, uint64_t digest,
                            uint64_t prev_term) {
    struct sim_applied *a = at(h, index);
    for (unsigned i = 0; i < a->n_stored; i++) {
        const struct sim_stored *s = &a->stored[i];
        if (s->term == term) {
            return s->digest != digest         ? "another node holds another entry there"
                   : prev_term == 0            ? NULL
                   : s->prev_term != prev_term ? "another node holds another entry before it"
                                               : NULL;
        }
    }
    a->stored = realloc(a->stored, (a->n_stored + 1) * sizeof *a->stored);
    assert(a->stored != NULL);
    a->stored[a->n_stored++] = (struct sim_stored){term, digest, prev_term};
    return NULL;
}

const char *sim_history_begin(struct sim_history *h, uint64_t index, uint64_t term,
                              uint64_t within) {
    struct sim_applied *a = at(h, index);
    a->within = a->within != 0 ? a->within : within;
    if (a->term != 0 && term != 0 && a->term != term) {
        return "an entry of another term was applied there";
    }
    a->term = a->term != 0 ? a->term : term;
    return NULL;
}

uint64_t sim_history_term(const struct sim_history *h, uint64_t index) {
    return index < h->n ? h->at[index].term : 0;
}

uint64_t sim_history_last_before(const struct sim_history *h, uint64_t last, uint64_t term) {
    while (last > 0 && (last >= h->n || h->at[last].within == 0 || h->at[last].within >= term)) {
        last--;
    }
    return last;
}

const char *sim_history_apply(struct sim_history *h, uint64_t index, uint64_t commands,
                              uint64_t state) {
    struct sim_applied *a = at(h, index);
    if (!a->has_commands) {
        a->has_commands = true;
        a->commands = commands;
        a->state = state;
        return NULL;
    }
    return a->commands != commands ? "it applies other commands than another node did"
           : a->state != state     ? "its state differs from another node's"
                                   : NULL;
}

// Entries without commands don't change the state.
const char *sim_history_restored(struct sim_history *h, uint64_t index, uint64_t state) {
    for (uint64_t i = index; i > 0 && i < h->n; i--) {
        if (h->at[i].has_commands) {
            return h->at[i].state == state ? NULL : "the state is not the one applied up to there";
        }
    }
    return NULL;
}

const char *sim_history_snapshot(struct sim_history *h, uint64_t index, uint64_t digest) {
    struct sim_applied *a = at(h, index);
    if (a->snapshot != 0 && a->snapshot != digest) {
        return "its bytes differ from another node's";
    }
    a->snapshot = digest;
    return NULL;
}

// ---- commands ----------------------------------------------------------------------

static struct sim_command *slot(struct sim_command *table, size_t cap, uint64_t proposer,
                                uint64_t boot, uint64_t sequence) {
    uint64_t key[3] = {proposer, boot, sequence};
    for (size_t i = XXH3_64bits(key, sizeof key);; i++) {
        struct sim_command *c = &table[i & (cap - 1)];
        if (c->proposer == 0 ||
            (c->proposer == proposer && c->boot == boot && c->sequence == sequence)) {
            return c;
        }
    }
}

static void grow(struct sim_history *h) {
    size_t cap = h->cap_commands > 0 ? 2 * h->cap_commands : 1024;
    struct sim_command *table = calloc(cap, sizeof *table);
    assert(table != NULL);
    for (size_t i = 0; i < h->cap_commands; i++) {
        const struct sim_command *c = &h->commands[i];
        if (c->proposer != 0) {
            *slot(table, cap, c->proposer, c->boot, c->sequence) = *c;
        }
    }
    free(h->commands);
    h->commands = table;
    h->cap_commands = cap;
}

static struct sim_command *command(struct sim_history *h, uint64_t proposer, uint64_t boot,
                                   uint64_t sequence) {
    assert(proposer != 0);
    if (2 * h->n_commands >= h->cap_commands) {
        grow(h);
    }
    struct sim_command *c = slot(h->commands, h->cap_commands, proposer, boot, sequence);
    if (c->proposer == 0) {
        *c = (struct sim_command){.proposer = proposer, .boot = boot, .sequence = sequence};
        h->n_commands++;
    }
    return c;
}

const char *sim_history_outcome(struct sim_history *h, const struct nl_effect *e) {
    if (e->duplicate || e->proposer == 0 || e->outcome.code == NL_OUTCOME_STALE_BOOT) {
        return NULL;
    }
    struct sim_command *c = command(h, e->proposer, e->boot, e->sequence);
    if (c->end == SIM_NEVER) {
        return "applies, but its client was told that it never will";
    }
    if (c->end == SIM_APPLIED) {
        return c->index != e->index                 ? "applies a second time"
               : c->outcome.code != e->outcome.code ? "has another outcome than on another node"
                                                    : NULL;
    }
    c->end = SIM_APPLIED;
    c->index = e->index;
    c->outcome = e->outcome;
    return NULL;
}

const char *sim_history_acked(struct sim_history *h, uint64_t proposer, uint64_t boot,
                              uint64_t sequence, uint64_t index, struct nl_outcome outcome) {
    const struct sim_command *c = command(h, proposer, boot, sequence);
    if (c->end != SIM_APPLIED) {
        return "nobody has applied it";
    }
    if (index < c->index) {
        return "at an index before the one it was applied at";
    }
    return c->outcome.code != outcome.code || c->outcome.value != outcome.value
               ? "with another outcome than it had"
               : NULL;
}

const char *sim_history_refused(struct sim_history *h, uint64_t proposer, uint64_t boot,
                                uint64_t sequence) {
    struct sim_command *c = command(h, proposer, boot, sequence);
    if (c->end == SIM_APPLIED) {
        return "it was applied";
    }
    c->end = SIM_NEVER;
    return NULL;
}

const char *sim_history_boot(struct sim_history *h, uint64_t proposer, uint64_t boot) {
    for (size_t i = 0; i < h->cap_commands; i++) {
        struct sim_command *c = &h->commands[i];
        if (c->proposer == proposer && c->boot == boot) {
            if (c->end == SIM_APPLIED) {
                return "a command of an earlier start with this number was applied";
            }
            c->end = SIM_NOT_APPLIED;
        }
    }
    return NULL;
}

void sim_history_promise(struct sim_history *h, uint64_t proposer, uint64_t boot,
                         uint64_t sequence) {
    command(h, proposer, boot, sequence)->promised = true;
}

const struct sim_command *sim_history_broken_promise(const struct sim_history *h) {
    for (size_t i = 0; i < h->cap_commands; i++) {
        if (h->commands[i].promised && h->commands[i].end != SIM_APPLIED) {
            return &h->commands[i];
        }
    }
    return NULL;
}
