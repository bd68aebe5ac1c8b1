// Which commands of a proposer have been applied, so that a node may propose again after an
// ambiguous failure.

#include "cluster/state/internal.h"

static struct nl_proposer_rec *as_proposer(struct nl_rec *rec) {
    return NL_CONTAINER(rec, struct nl_proposer_rec, head);
}

void nl_proposer_rec_free(struct nl_state *state, struct nl_proposer_rec *rec) {
    nl_release(state, rec->done);
    nl_release(state, rec);
}

int nl_proposer_add(struct nl_state *state, uint64_t id, struct nl_proposer_rec **ret) {
    struct nl_proposer_rec *rec = calloc(1, sizeof *rec);
    if (rec == NULL) {
        return NL_ENOMEM;
    }
    rec->id = id;
    int rv = nl_table_add(state, &state->proposers, &rec->head, id);
    if (rv != NL_OK) {
        free(rec);
        return rv;
    }
    nl_order_add(&state->proposers, NL_ORDER_ALL, &state->proposers.root, rec->head.slot, id);
    nl_rehash(state, &rec->head, nl_hash_proposer(rec));
    *ret = rec;
    return NL_OK;
}

static int proposer_edit(struct nl_state *state, uint64_t id, struct nl_proposer_rec **ret) {
    uint32_t slot = nl_order_find(&state->proposers, id);
    if (slot == NL_SLOT_NONE) {
        return nl_proposer_add(state, id, ret);
    }
    struct nl_rec *rec;
    int rv = nl_table_edit(state, &state->proposers, slot, sizeof(struct nl_proposer_rec), &rec);
    if (rv == NL_OK) {
        *ret = as_proposer(rec);
    }
    return rv;
}

// Position of the first outcome that is not below `sequence`.
static uint32_t position(const struct nl_proposer_rec *rec, uint64_t sequence) {
    uint32_t low = 0, high = rec->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (rec->done[rec->first + mid].sequence < sequence) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static const struct nl_done *find_done(const struct nl_proposer_rec *rec, uint64_t sequence) {
    uint32_t at = position(rec, sequence);
    bool found = at < rec->count && rec->done[rec->first + at].sequence == sequence;
    return found ? &rec->done[rec->first + at] : NULL;
}

// Forgets outcomes below `below`. Frozen versions still see them: only `first` moves.
static void drop_below(struct nl_state *state, struct nl_proposer_rec *rec, uint64_t below) {
    if (below <= rec->done_below) {
        return;
    }
    uint32_t n = position(rec, below);
    for (uint32_t i = 0; i < n; i++) {
        nl_sum_sub(&state->sum, nl_hash_done(rec, &rec->done[rec->first + i]));
    }
    rec->first += n;
    rec->count -= n;
    rec->done_below = below;
    nl_rehash(state, &rec->head, nl_hash_proposer(rec));
}

static void start_boot(struct nl_state *state, struct nl_proposer_rec *rec, uint64_t boot) {
    drop_below(state, rec, UINT64_MAX);
    // The sequence UINT64_MAX itself.
    for (uint32_t i = 0; i < rec->count; i++) {
        nl_sum_sub(&state->sum, nl_hash_done(rec, &rec->done[rec->first + i]));
    }
    rec->first += rec->count;
    rec->count = 0;
    rec->boot = boot;
    rec->done_below = 0;
    nl_rehash(state, &rec->head, nl_hash_proposer(rec));
}

// Opens a gap at `at`. Entries that a frozen version can see must not move, so that anything but
// an append goes to a new array while a snapshot is taken.
static int make_gap(struct nl_state *state, struct nl_proposer_rec *rec, uint32_t at) {
    bool room = rec->first + rec->count < rec->cap;
    if (room && (at == rec->count || state->snapshot == NULL)) {
        struct nl_done *gap = rec->done + rec->first + at;
        memmove(gap + 1, gap, (rec->count - at) * sizeof *gap);
        return NL_OK;
    }
    uint32_t cap = rec->count < 8 ? 16 : rec->count * 2;
    struct nl_done *done = malloc(cap * sizeof *done);
    if (done == NULL) {
        return NL_ENOMEM;
    }
    if (rec->count > 0) {
        const struct nl_done *from = rec->done + rec->first;
        memcpy(done, from, at * sizeof *done);
        memcpy(done + at + 1, from + at, (rec->count - at) * sizeof *done);
    }
    nl_release(state, rec->done);
    rec->done = done;
    rec->first = 0;
    rec->cap = cap;
    return NL_OK;
}

static int insert(struct nl_state *state, struct nl_proposer_rec *rec, struct nl_done done) {
    uint32_t at = position(rec, done.sequence);
    int rv = make_gap(state, rec, at);
    if (rv != NL_OK) {
        return rv;
    }
    rec->done[rec->first + at] = done;
    rec->count++;
    nl_sum_add(&state->sum, nl_hash_done(rec, &done));
    return NL_OK;
}

int nl_proposer_append(struct nl_state *state, struct nl_proposer_rec *rec, struct nl_done done) {
    return insert(state, rec, done);
}

int nl_dedup_begin(struct nl_apply *a, enum nl_dedup_verdict *ret, struct nl_outcome *ret_outcome) {
    const Nodelink__V1__Command *command = a->command;
    *ret = NL_DEDUP_APPLY;
    if (command->proposer == 0) {
        return NL_OK;
    }
    struct nl_proposer_rec *rec;
    int rv = proposer_edit(a->state, command->proposer, &rec);
    if (rv != NL_OK) {
        return rv;
    }
    if (command->boot < rec->boot) {
        *ret = NL_DEDUP_REFUSED;
        *ret_outcome = (struct nl_outcome){.code = NL_OUTCOME_STALE_BOOT};
        return NL_OK;
    }
    if (command->boot > rec->boot) {
        start_boot(a->state, rec, command->boot);
    }
    if (command->sequence < rec->done_below) {
        *ret = NL_DEDUP_DUPLICATE;
        *ret_outcome = (struct nl_outcome){.code = NL_OUTCOME_STALE};
        return NL_OK;
    }
    const struct nl_done *done = find_done(rec, command->sequence);
    if (done != NULL) {
        *ret = NL_DEDUP_DUPLICATE;
        *ret_outcome = (struct nl_outcome){(enum nl_outcome_code)done->code, done->value};
        return NL_OK;
    }
    if (rec->count >= a->state->limits.outcomes_per_proposer_max) {
        // The acknowledgement counts before the limit does, or a full window would stay full.
        drop_below(a->state, rec, command->ack_below);
    }
    if (rec->count >= a->state->limits.outcomes_per_proposer_max) {
        *ret = NL_DEDUP_REFUSED;
        *ret_outcome = (struct nl_outcome){.code = NL_OUTCOME_INVALID};
    }
    return NL_OK;
}

int nl_dedup_end(struct nl_apply *a) {
    const Nodelink__V1__Command *command = a->command;
    if (command->proposer == 0) {
        return NL_OK;
    }
    struct nl_proposer_rec *rec;
    int rv = proposer_edit(a->state, command->proposer, &rec);
    if (rv != NL_OK) {
        return rv;
    }
    drop_below(a->state, rec, command->ack_below);
    if (command->sequence < rec->done_below) {
        return NL_OK;
    }
    struct nl_done done = {command->sequence, a->outcome.value, (uint32_t)a->outcome.code};
    return insert(a->state, rec, done);
}
