#include "cluster/propose_core.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/err.h"

enum {
    PENDING_MAX = 16384,
    BYTES_MAX = 64 * 1024 * 1024,
    WINDOW_MAX = 32768,
    RESEND_MS = 2000,
    RESEND_MS_MAX = 16000,
};

struct item {
    uint64_t sequence;
    uint8_t *command;  // owned
    size_t len;
    bool sent;
    bool maybe_logged;  // by a send whose end is not known
    bool was_maybe;     // the same before the latest send
    bool filling;       // answered; holds a Noop
    uint64_t batch;     // the latest send
    uint64_t resend_at_ms;
    uint32_t resend_ms;
    uint64_t deadline_ms;
    nl_core_done done;
    void *user;
};

struct answer {
    struct nl_core_result result;
    struct answer *prev, *next;
};

struct nl_propose_core {
    struct nl_core_options options;
    struct item **slots;  // ring, by sequence
    uint64_t slots_mask;
    uint64_t base;         // lowest sequence whose outcome isn't known
    uint64_t next;         // sequence of the next proposal
    uint64_t first_ready;  // none below it is READY
    uint32_t pending, open, ready;
    size_t bytes;
    uint64_t batches;
    uint64_t next_deadline_ms;
    bool busy;  // the latest refusal was for lack of room
    struct answer *answers;
};

static struct item **slot(const struct nl_propose_core *core, uint64_t sequence) {
    return &core->slots[sequence & core->slots_mask];
}

static struct item *item_of(const struct nl_propose_core *core, uint64_t sequence) {
    return sequence < core->base || sequence >= core->next ? NULL : *slot(core, sequence);
}

static uint64_t power_of_two(uint64_t at_least) {
    uint64_t n = 64;
    while (n < at_least) {
        n *= 2;
    }
    return n;
}

int nl_core_new(const struct nl_core_options *options, struct nl_propose_core **ret) {
    struct nl_propose_core *core = calloc(1, sizeof *core);
    if (core == NULL) {
        return NL_ENOMEM;
    }
    core->options = *options;
    struct nl_core_options *o = &core->options;
    o->pending_max = o->pending_max > 0 ? o->pending_max : PENDING_MAX;
    o->bytes_max = o->bytes_max > 0 ? o->bytes_max : BYTES_MAX;
    o->window_max = o->window_max > 0 ? o->window_max : WINDOW_MAX;
    o->resend_ms = o->resend_ms > 0 ? o->resend_ms : RESEND_MS;
    uint64_t slots = power_of_two(o->window_max);
    core->slots = calloc(slots, sizeof *core->slots);
    if (core->slots == NULL) {
        free(core);
        return NL_ENOMEM;
    }
    core->slots_mask = slots - 1;
    core->base = core->next = core->first_ready = 1;
    core->next_deadline_ms = UINT64_MAX;
    *ret = core;
    return NL_OK;
}

static void item_free(struct item *item) {
    free(item->command);
    free(item);
}

void nl_core_free(struct nl_propose_core *core) {
    struct answer *answer, *next;
    if (core == NULL) {
        return;
    }
    for (uint64_t s = core->base; s < core->next; s++) {
        if (item_of(core, s) != NULL) {
            item_free(item_of(core, s));
        }
    }
    DL_FOREACH_SAFE (core->answers, answer, next) {
        free(answer);
    }
    free(core->slots);
    free(core);
}

uint64_t nl_core_next_sequence(const struct nl_propose_core *core) {
    return core->next;
}

uint64_t nl_core_ack_below(const struct nl_propose_core *core) {
    return core->base;
}

uint32_t nl_core_pending(const struct nl_propose_core *core) {
    return core->pending;
}

uint32_t nl_core_open(const struct nl_propose_core *core) {
    return core->open;
}

bool nl_core_has_ready(const struct nl_propose_core *core) {
    return core->ready > 0;
}

int nl_core_add(struct nl_propose_core *core, uint8_t *command, size_t len, uint64_t deadline_ms,
                nl_core_done done, void *user) {
    if (core->pending >= core->options.pending_max ||
        core->next - core->base >= core->options.window_max ||
        (core->bytes > 0 && core->bytes + len > core->options.bytes_max)) {
        return NL_EFULL;
    }
    struct item *item = calloc(1, sizeof *item);
    if (item == NULL) {
        return NL_ENOMEM;
    }
    item->sequence = core->next++;
    item->command = command;
    item->len = len;
    item->deadline_ms = deadline_ms;
    item->resend_ms = core->options.resend_ms;
    item->done = done;
    item->user = user;
    *slot(core, item->sequence) = item;
    core->pending++;
    core->open++;
    core->ready++;
    core->bytes += len;
    if (deadline_ms < core->next_deadline_ms) {
        core->next_deadline_ms = deadline_ms;
    }
    return NL_OK;
}

// ---- sending -----------------------------------------------------------------

bool nl_core_take(struct nl_propose_core *core, uint64_t now_ms, nl_core_give give, void *user,
                  struct nl_core_batch *ret) {
    struct nl_core_batch batch = {.id = core->batches + 1};
    uint64_t s = core->first_ready > core->base ? core->first_ready : core->base;
    for (; core->ready > 0 && s < core->next; s++) {
        struct item *item = item_of(core, s);
        if (item == NULL || item->sent) {
            continue;
        }
        if (!give(user, item->command, item->len)) {
            break;
        }
        item->sent = true;
        item->was_maybe = item->maybe_logged;
        item->maybe_logged = true;
        item->batch = batch.id;
        item->resend_at_ms = now_ms + item->resend_ms;
        core->ready--;
        batch.first = batch.count == 0 ? s : batch.first;
        batch.last = s;
        batch.count++;
        batch.bytes += item->len;
    }
    core->first_ready = s;
    if (batch.count == 0) {
        return false;
    }
    core->batches++;
    *ret = batch;
    return true;
}

static void make_ready(struct nl_propose_core *core, struct item *item) {
    item->sent = false;
    core->ready++;
    if (item->sequence < core->first_ready) {
        core->first_ready = item->sequence;
    }
}

void nl_core_verdict(struct nl_propose_core *core, const struct nl_core_batch *batch,
                     enum nl_core_verdict verdict) {
    core->busy = verdict == NL_CORE_BUSY;
    for (uint64_t s = batch->first; s <= batch->last; s++) {
        struct item *item = item_of(core, s);
        // Sent again since, or its sequence is open under a later send: not this batch's word.
        if (item == NULL || !item->sent || item->batch != batch->id) {
            continue;
        }
        if (verdict != NL_CORE_LOST) {
            item->maybe_logged = item->was_maybe;
        }
        make_ready(core, item);
    }
}

void nl_core_resend(struct nl_propose_core *core) {
    for (uint64_t s = core->base; s < core->next; s++) {
        struct item *item = item_of(core, s);
        if (item != NULL && item->sent) {
            make_ready(core, item);
        }
    }
}

// ---- ends --------------------------------------------------------------------

static void answer(struct nl_propose_core *core, struct item *item, int result,
                   struct nl_outcome outcome, uint64_t index, uint64_t term) {
    struct answer *a = calloc(1, sizeof *a);
    // The caller waits for this word and an item is a hundred bytes: nothing sensible is left to
    // do for a process that has not even those.
    assert(a != NULL);
    a->result = (struct nl_core_result){item->done, item->user, result, outcome, index, term};
    DL_APPEND(core->answers, a);
    core->pending--;
    core->bytes -= item->len;
    item->done = NULL;
}

static void drop(struct nl_propose_core *core, struct item *item) {
    *slot(core, item->sequence) = NULL;
    core->open--;
    core->ready -= !item->sent;
    item_free(item);
    while (core->base < core->next && *slot(core, core->base) == NULL) {
        core->base++;
    }
}

void nl_core_outcome(struct nl_propose_core *core, uint64_t sequence, struct nl_outcome outcome,
                     uint64_t index, uint64_t term) {
    struct item *item = item_of(core, sequence);
    if (item == NULL) {
        return;
    }
    if (!item->filling) {
        answer(core, item, NL_OK, outcome, index, term);
    }
    drop(core, item);
}

static void fill(struct nl_propose_core *core, struct item *item) {
    uint8_t *noop;
    size_t len;
    item->filling = true;
    // Without memory for the Noop the command itself goes on filling its sequence: its outcome is
    // as unknown to the caller as it was.
    if (core->options.make_noop(core->options.user, item->sequence, &noop, &len) == NL_OK) {
        free(item->command);
        item->command = noop;
        item->len = len;
    }
}

static void expire(struct nl_propose_core *core, struct item *item, bool leader_known) {
    struct nl_outcome none = {0};
    if (item->maybe_logged) {
        answer(core, item, NL_EUNKNOWN, none, 0, 0);
        fill(core, item);
        return;
    }
    int why = core->busy ? NL_EFULL : leader_known ? NL_ETIMEOUT : NL_ENOQUORUM;
    answer(core, item, why, none, 0, 0);
    drop(core, item);
}

static void check_deadlines(struct nl_propose_core *core, uint64_t now_ms, bool leader_known) {
    core->next_deadline_ms = UINT64_MAX;
    for (uint64_t s = core->base; s < core->next; s++) {
        struct item *item = item_of(core, s);
        if (item == NULL || item->filling) {
            continue;
        }
        if (item->deadline_ms <= now_ms) {
            expire(core, item, leader_known);
        } else if (item->deadline_ms < core->next_deadline_ms) {
            core->next_deadline_ms = item->deadline_ms;
        }
    }
}

static void check_silence(struct nl_propose_core *core, uint64_t now_ms) {
    for (uint64_t s = core->base; s < core->next; s++) {
        struct item *item = item_of(core, s);
        if (item != NULL && item->sent && item->resend_at_ms <= now_ms) {
            item->resend_ms =
                item->resend_ms * 2 < RESEND_MS_MAX ? item->resend_ms * 2 : RESEND_MS_MAX;
            make_ready(core, item);
        }
    }
}

void nl_core_tick(struct nl_propose_core *core, uint64_t now_ms, bool leader_known) {
    if (now_ms >= core->next_deadline_ms) {
        check_deadlines(core, now_ms, leader_known);
    }
    check_silence(core, now_ms);
}

void nl_core_cancel(struct nl_propose_core *core) {
    struct nl_outcome none = {0};
    for (uint64_t s = core->base; s < core->next; s++) {
        struct item *item = item_of(core, s);
        if (item == NULL) {
            continue;
        }
        if (!item->filling) {
            answer(core, item, item->maybe_logged ? NL_EUNKNOWN : NL_ECANCELED, none, 0, 0);
        }
        drop(core, item);
    }
}

bool nl_core_next_result(struct nl_propose_core *core, struct nl_core_result *ret) {
    struct answer *a = core->answers;
    if (a == NULL) {
        return false;
    }
    DL_DELETE(core->answers, a);
    *ret = a->result;
    free(a);
    return true;
}
