// The proposal machine, step by step: each script is a list of events and of what must be seen.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "cluster/propose_core.h"
#include "common/base/err.h"

// The scripts leave out the zeros at the end of a step.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

enum op {
    END,
    ADD,      // a: deadline, b: expected result
    TAKE,     // as batch number a; b: how many commands; c: of them Noops
    REFUSED,  // batch a
    BUSY,     // batch a
    LOST,     // batch a
    RESEND,   // another leader
    OUTCOME,  // of sequence a
    TICK,     // time a; b: leader known
    CANCEL,
    ANSWER,  // proposal a got result b
    NO_ANSWER,
    ACK,      // ack_below is a
    PENDING,  // a wait, b are open
};

struct step {
    enum op op;
    long long a, b, c;
};

struct taken {
    unsigned commands, noops;
    uint64_t last;
};

static bool give(void *user, const uint8_t *command, size_t len) {
    struct taken *t = user;
    uint64_t sequence;
    assert_int_equal(len, 9);
    memcpy(&sequence, command + 1, 8);
    assert_true(t->commands == 0 || sequence > t->last);  // in order
    t->last = sequence;
    t->commands++;
    t->noops += command[0] == 'n';
    return true;
}

static uint8_t *command_of(char kind, uint64_t sequence) {
    uint8_t *c = malloc(9);
    assert_non_null(c);
    c[0] = (uint8_t)kind;
    memcpy(c + 1, &sequence, 8);
    return c;
}

static int make_noop(void *user, uint64_t sequence, uint8_t **ret, size_t *ret_len) {
    (void)user;
    *ret = command_of('n', sequence);
    *ret_len = 9;
    return NL_OK;
}

static void done(void *user, int result, struct nl_outcome outcome, uint64_t index, uint64_t term) {
    (void)user;
    (void)result;
    (void)outcome;
    (void)index;
    (void)term;
}

static void add(struct nl_propose_core *core, const struct step *s) {
    uint64_t sequence = nl_core_next_sequence(core);
    uint8_t *command = command_of('c', sequence);
    int rv = nl_core_add(core, command, 9, (uint64_t)s->a, done, (void *)(uintptr_t)sequence);
    assert_int_equal(rv, s->b);
    if (rv != NL_OK) {
        free(command);
    }
}

static void expect_answer(struct nl_propose_core *core, const struct step *s) {
    struct nl_core_result r;
    assert_true(nl_core_next_result(core, &r));
    assert_int_equal((uintptr_t)r.user, s->a);
    assert_int_equal(r.result, s->b);
    assert_ptr_equal(r.done, done);
}

static void run_step(struct nl_propose_core *core, const struct step *s, uint64_t *now,
                     struct nl_core_batch batches[8]) {
    struct nl_core_result r;
    struct taken taken = {0};
    struct nl_outcome ok = {.code = NL_OUTCOME_OK};
    switch (s->op) {
        case ADD:
            add(core, s);
            break;
        case TAKE:
            assert_int_equal(nl_core_take(core, *now, give, &taken, &batches[s->a]), s->b > 0);
            assert_int_equal(taken.commands, s->b);
            assert_int_equal(taken.noops, s->c);
            break;
        case REFUSED:
            nl_core_verdict(core, &batches[s->a], NL_CORE_REFUSED);
            break;
        case BUSY:
            nl_core_verdict(core, &batches[s->a], NL_CORE_BUSY);
            break;
        case LOST:
            nl_core_verdict(core, &batches[s->a], NL_CORE_LOST);
            break;
        case RESEND:
            nl_core_resend(core);
            break;
        case OUTCOME:
            nl_core_outcome(core, (uint64_t)s->a, ok, 7, 3);
            break;
        case TICK:
            *now = (uint64_t)s->a;
            nl_core_tick(core, *now, s->b != 0);
            break;
        case CANCEL:
            nl_core_cancel(core);
            break;
        case ANSWER:
            expect_answer(core, s);
            break;
        case NO_ANSWER:
            assert_false(nl_core_next_result(core, &r));
            break;
        case ACK:
            assert_int_equal(nl_core_ack_below(core), s->a);
            break;
        case PENDING:
            assert_int_equal(nl_core_pending(core), s->a);
            assert_int_equal(nl_core_open(core), s->b);
            break;
        case END:
            break;
    }
}

static void run(const struct step *script) {
    struct nl_core_options options = {
        .make_noop = make_noop, .pending_max = 4, .window_max = 8, .resend_ms = 1000};
    struct nl_propose_core *core;
    struct nl_core_batch batches[8];
    uint64_t now = 0;
    assert_int_equal(nl_core_new(&options, &core), NL_OK);
    for (const struct step *s = script; s->op != END; s++) {
        run_step(core, s, &now, batches);
    }
    nl_core_free(core);
}

#define SCRIPT(name, ...)                                         \
    static void name(void **state) {                              \
        (void)state;                                              \
        static const struct step script[] = {__VA_ARGS__, {END}}; \
        run(script);                                              \
    }

SCRIPT(outcome_answers, {ADD, 5000}, {ADD, 5000}, {TAKE, 0, 2}, {TAKE, 1, 0}, {NO_ANSWER},
       {OUTCOME, 2}, {ANSWER, 2, NL_OK}, {ACK, 1}, {OUTCOME, 1}, {ANSWER, 1, NL_OK}, {ACK, 3},
       {PENDING, 0, 0}, {OUTCOME, 1}, {NO_ANSWER})

SCRIPT(refused_is_sent_again, {ADD, 5000}, {TAKE, 0, 1}, {REFUSED, 0}, {TAKE, 1, 1}, {OUTCOME, 1},
       {ANSWER, 1, NL_OK})

// Nothing was ever logged: the caller may be sure of it, and the sequence is free at once.
SCRIPT(refused_until_deadline, {ADD, 5000}, {TAKE, 0, 1}, {REFUSED, 0}, {TICK, 5000, 1},
       {ANSWER, 1, NL_ETIMEOUT}, {PENDING, 0, 0}, {ACK, 2}, {TAKE, 1, 0})
SCRIPT(no_leader_until_deadline, {ADD, 5000}, {TICK, 4999, 0}, {NO_ANSWER}, {TICK, 5000, 0},
       {ANSWER, 1, NL_ENOQUORUM}, {ACK, 2})
SCRIPT(busy_until_deadline, {ADD, 5000}, {TAKE, 0, 1}, {BUSY, 0}, {TICK, 5000, 1},
       {ANSWER, 1, NL_EFULL}, {PENDING, 0, 0})

// One lost send leaves a doubt that no later refusal takes away.
SCRIPT(lost_then_refused, {ADD, 5000}, {TAKE, 0, 1}, {LOST, 0}, {TAKE, 1, 1}, {REFUSED, 1},
       {TICK, 5000, 1}, {ANSWER, 1, NL_EUNKNOWN})

// The answer was "unknown"; the sequence is filled until it is known to be settled.
SCRIPT(unknown_is_filled, {ADD, 900}, {ADD, 9000}, {TAKE, 0, 2}, {TICK, 900, 1},
       {ANSWER, 1, NL_EUNKNOWN}, {ACK, 1}, {PENDING, 1, 2}, {OUTCOME, 2}, {ANSWER, 2, NL_OK},
       {ACK, 1}, {TICK, 1000, 1}, {TAKE, 1, 1, 1}, {NO_ANSWER}, {OUTCOME, 1}, {NO_ANSWER}, {ACK, 3},
       {PENDING, 0, 0})
SCRIPT(late_outcome_of_unknown, {ADD, 900}, {TAKE, 0, 1}, {TICK, 900, 1}, {ANSWER, 1, NL_EUNKNOWN},
       {OUTCOME, 1}, {NO_ANSWER}, {ACK, 2}, {PENDING, 0, 0}, {TICK, 1000, 1}, {TAKE, 1, 0})
SCRIPT(fill_survives_leader_changes, {ADD, 900}, {TAKE, 0, 1}, {TICK, 900, 1},
       {ANSWER, 1, NL_EUNKNOWN}, {RESEND}, {TAKE, 1, 1, 1}, {REFUSED, 1}, {TAKE, 2, 1, 1},
       {LOST, 2}, {TICK, 100000, 0}, {NO_ANSWER}, {TAKE, 3, 1, 1}, {OUTCOME, 1}, {ACK, 2})

SCRIPT(leader_change_sends_all_again, {ADD, 5000}, {ADD, 5000}, {TAKE, 0, 2}, {ADD, 5000}, {RESEND},
       {TAKE, 1, 3}, {OUTCOME, 1}, {OUTCOME, 2}, {OUTCOME, 3}, {ANSWER, 1, NL_OK},
       {ANSWER, 2, NL_OK}, {ANSWER, 3, NL_OK}, {PENDING, 0, 0})
// The word about an older send of a proposal that was sent again counts for nothing.
SCRIPT(stale_verdict, {ADD, 5000}, {TAKE, 0, 1}, {RESEND}, {TAKE, 1, 1}, {REFUSED, 0}, {TAKE, 2, 0},
       {LOST, 0}, {TAKE, 2, 0}, {REFUSED, 1}, {TAKE, 2, 1}, {TICK, 5000, 1},
       {ANSWER, 1, NL_EUNKNOWN})
SCRIPT(silence_sends_again_slower_each_time, {ADD, 60000}, {TAKE, 0, 1}, {TICK, 999, 1},
       {TAKE, 1, 0}, {TICK, 1000, 1}, {TAKE, 1, 1}, {TICK, 2999, 1}, {TAKE, 2, 0}, {TICK, 3000, 1},
       {TAKE, 2, 1}, {TICK, 6999, 1}, {TAKE, 3, 0}, {TICK, 7000, 1}, {TAKE, 3, 1})
SCRIPT(order_is_kept_when_sent_again, {ADD, 5000}, {TAKE, 0, 1}, {ADD, 5000}, {TAKE, 1, 1},
       {ADD, 5000}, {LOST, 1}, {LOST, 0}, {TAKE, 2, 3})

SCRIPT(bounded, {ADD, 5000}, {ADD, 5000}, {ADD, 5000}, {ADD, 5000}, {ADD, 5000, NL_EFULL},
       {TAKE, 0, 4}, {OUTCOME, 2}, {ANSWER, 2, NL_OK}, {ADD, 5000}, {ADD, 5000, NL_EFULL})
// One that stays open holds the window: the state machine's memory of outcomes is bounded too.
SCRIPT(window, {ADD, 5000}, {ADD, 5000}, {ADD, 5000}, {ADD, 5000}, {TAKE, 0, 4}, {OUTCOME, 2},
       {OUTCOME, 3}, {OUTCOME, 4}, {ADD, 5000}, {ADD, 5000}, {ADD, 5000}, {TAKE, 1, 3},
       {OUTCOME, 5}, {OUTCOME, 6}, {OUTCOME, 7}, {ADD, 5000}, {ADD, 5000, NL_EFULL}, {OUTCOME, 1},
       {ADD, 5000})
SCRIPT(cancel_tells_what_may_be, {ADD, 900}, {ADD, 5000}, {TAKE, 0, 2}, {TICK, 900, 1},
       {ANSWER, 1, NL_EUNKNOWN}, {ADD, 5000}, {CANCEL}, {ANSWER, 2, NL_EUNKNOWN},
       {ANSWER, 3, NL_ECANCELED}, {NO_ANSWER}, {PENDING, 0, 0})

// Random events against a model of one log: each proposal is answered once, NL_OK only when it is
// in the log, "not done" only when it never gets there.
struct model {
    unsigned answers[4096];
    int results[4096];
    bool logged[4096];
};

static bool give_all(void *user, const uint8_t *command, size_t len) {
    struct nl_core_batch *unused = user;
    (void)unused;
    (void)command;
    (void)len;
    return rand() % 8 != 0;
}

static void drain(struct nl_propose_core *core, struct model *m) {
    struct nl_core_result r;
    while (nl_core_next_result(core, &r)) {
        uintptr_t sequence = (uintptr_t)r.user;
        m->answers[sequence]++;
        m->results[sequence] = r.result;
    }
}

static void log_batch(struct nl_propose_core *core, const struct nl_core_batch *batch,
                      struct model *m) {
    struct nl_outcome ok = {.code = NL_OUTCOME_OK};
    for (uint64_t s = batch->first; s <= batch->last; s++) {
        m->logged[s] = true;
        nl_core_outcome(core, s, ok, s, 1);
    }
}

static void random_run(unsigned seed) {
    struct nl_core_options options = {.make_noop = make_noop, .resend_ms = 50};
    struct nl_propose_core *core;
    struct nl_core_batch batch;
    static struct model m;
    uint64_t now = 0;
    srand(seed);
    memset(&m, 0, sizeof m);
    assert_int_equal(nl_core_new(&options, &core), NL_OK);
    for (int i = 0; i < 3000; i++) {
        uint64_t sequence = nl_core_next_sequence(core);
        if (sequence < 4096 && rand() % 2 == 0) {
            assert_int_equal(
                nl_core_add(core, command_of('c', sequence), 9, now + (uint64_t)(rand() % 100),
                            done, (void *)(uintptr_t)sequence),
                NL_OK);
        }
        if (nl_core_take(core, now, give_all, NULL, &batch)) {
            // A batch is contiguous here or its verdicts skip what it doesn't hold.
            int dice = rand() % 4;
            if (dice == 0) {
                nl_core_verdict(core, &batch, NL_CORE_REFUSED);
            } else if (dice == 1) {
                nl_core_verdict(core, &batch, NL_CORE_LOST);
            } else if (dice == 2 && batch.count == batch.last - batch.first + 1) {
                log_batch(core, &batch, &m);
            } else if (rand() % 4 == 0) {
                nl_core_resend(core);
            }
        }
        now += (uint64_t)(rand() % 5);
        nl_core_tick(core, now, true);
        drain(core, &m);
    }
    nl_core_cancel(core);
    drain(core, &m);
    for (uint64_t s = 1; s < nl_core_next_sequence(core); s++) {
        assert_int_equal(m.answers[s], 1);
        if (m.results[s] == NL_OK) {
            assert_true(m.logged[s]);
        } else if (m.results[s] != NL_EUNKNOWN) {
            assert_false(m.logged[s]);
        }
    }
    nl_core_free(core);
}

static void random_events(void **state) {
    (void)state;
    for (unsigned seed = 1; seed <= 100; seed++) {
        random_run(seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outcome_answers),
        cmocka_unit_test(refused_is_sent_again),
        cmocka_unit_test(refused_until_deadline),
        cmocka_unit_test(no_leader_until_deadline),
        cmocka_unit_test(busy_until_deadline),
        cmocka_unit_test(lost_then_refused),
        cmocka_unit_test(unknown_is_filled),
        cmocka_unit_test(late_outcome_of_unknown),
        cmocka_unit_test(fill_survives_leader_changes),
        cmocka_unit_test(leader_change_sends_all_again),
        cmocka_unit_test(stale_verdict),
        cmocka_unit_test(silence_sends_again_slower_each_time),
        cmocka_unit_test(order_is_kept_when_sent_again),
        cmocka_unit_test(bounded),
        cmocka_unit_test(window),
        cmocka_unit_test(cancel_tells_what_may_be),
        cmocka_unit_test(random_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
