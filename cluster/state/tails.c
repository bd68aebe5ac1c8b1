// The last output of ended tasks, kept with them up to a bound over all.
//
// What goes first follows from the records alone (the one that ended first, by time and id), so
// that a replica that began from a snapshot drops the same ones.

#include "cluster/state/internal.h"

size_t nl_tail_bytes(const Nodelink__V1__OutputTail *tail) {
    return tail == NULL ? 0 : tail->stdout.len + tail->stderr.len;
}

static bool before(const struct nl_state *state, const struct nl_tail_at *a,
                   const struct nl_tail_at *b) {
    if (a->finished_ms != b->finished_ms) {
        return a->finished_ms < b->finished_ms;
    }
    return strcmp(nl_table_id(&state->tasks, a->slot), nl_table_id(&state->tasks, b->slot)) < 0;
}

static void swap(struct nl_tail_at *a, struct nl_tail_at *b) {
    struct nl_tail_at tmp = *a;
    *a = *b;
    *b = tmp;
}

static void sift_down(const struct nl_state *state, struct nl_tails *t) {
    for (uint32_t i = 0;;) {
        uint32_t least = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < t->count; child++) {
            least = before(state, &t->heap[child], &t->heap[least]) ? child : least;
        }
        if (least == i) {
            return;
        }
        swap(&t->heap[i], &t->heap[least]);
        i = least;
    }
}

int nl_tails_add(struct nl_state *state, const struct nl_task_rec *rec) {
    struct nl_tails *t = &state->tails;
    if (rec->task.tail == NULL) {
        return NL_OK;
    }
    if (t->count == t->cap) {
        uint32_t cap = t->cap == 0 ? 64 : 2 * t->cap;
        struct nl_tail_at *heap = realloc(t->heap, cap * sizeof *heap);
        if (heap == NULL) {
            return NL_ENOMEM;
        }
        t->heap = heap;
        t->cap = cap;
    }
    uint32_t i = t->count++;
    t->heap[i] = (struct nl_tail_at){rec->task.finished_ms, rec->head.slot};
    while (i > 0 && before(state, &t->heap[i], &t->heap[(i - 1) / 2])) {
        swap(&t->heap[i], &t->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    state->counts.tails_bytes += nl_tail_bytes(rec->task.tail);
    return NL_OK;
}

// Takes the top off; its record is still there.
static void pop(struct nl_state *state) {
    struct nl_tails *t = &state->tails;
    const struct nl_task *task = &nl_task_at(state, t->heap[0].slot)->task;
    state->counts.tails_bytes -= nl_tail_bytes(task->tail);
    t->heap[0] = t->heap[--t->count];
    sift_down(state, t);
}

void nl_tails_remove(struct nl_state *state, const struct nl_task_rec *rec) {
    if (rec->task.tail != NULL) {
        assert(state->tails.count > 0 && state->tails.heap[0].slot == rec->head.slot);
        pop(state);
    }
}

int nl_tails_trim(struct nl_apply *a) {
    struct nl_state *state = a->state;
    while (state->counts.tails_bytes > state->limits.tails_bytes_max) {
        struct nl_task_rec *rec;
        int rv = nl_task_edit(state, state->tails.heap[0].slot, &rec);
        if (rv != NL_OK) {
            return rv;
        }
        pop(state);
        nl_release(state, rec->task.tail);
        rec->task.tail = NULL;
        rv = nl_task_commit(a, rec, rec->task.state);
        if (rv != NL_OK) {
            return rv;
        }
    }
    return NL_OK;
}
