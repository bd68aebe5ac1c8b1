// Attempts, deadlines, late results and tails of output.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/unit/state/fixture.h"

#define KIND(name) NODELINK__V1__TASK_RESULT__KIND__##name
#define RETRY(name) NODELINK__V1__RETRY_ON__RETRY_ON_##name

static struct fx fx;

static const struct nl_task *task_of(const char *id) {
    const struct nl_task *task = nl_state_task(fx.state, id);
    assert_non_null(task);
    return task;
}

static Nodelink__V1__TaskSpec spec_of(uint32_t attempts) {
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    spec.agent_id = (char *)"a";
    spec.cmd = (char *)"true";
    spec.attempts = attempts;
    return spec;
}

// A connected agent a, and its task t that may have so many attempts.
static void open_with(uint32_t attempts) {
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    Nodelink__V1__TaskSpec spec = spec_of(attempts);
    fx_expect(fx_submit_spec(&fx, "t", &spec), NL_OUTCOME_OK);
}

static void expect_task(enum nl_task_state state, uint32_t attempt) {
    assert_string_equal(nl_task_state_name(task_of("t")->state), nl_task_state_name(state));
    assert_int_equal(task_of("t")->attempt, attempt);
}

// ---- attempts ------------------------------------------------------------------

static void test_one_attempt_unless_asked_for(void **unused) {
    (void)unused;
    for (uint32_t attempts = 0; attempts < 2; attempts++) {
        open_with(attempts);
        fx_finish(&fx, "t", "a", 1, KIND(EXITED), 1);
        expect_task(NL_TASK_FAILED, 1);
        assert_null(task_of("t")->earlier);
        fx_close(&fx);
    }
}

static void test_each_attempt_has_its_number_and_its_record(void **unused) {
    (void)unused;
    open_with(3);
    uint64_t order = task_of("t")->order;
    fx_start(&fx, "t", "a", 1);
    fx_finish(&fx, "t", "a", 1, KIND(EXITED), 7);
    expect_task(NL_TASK_DISPATCHED, 2);
    assert_int_equal(task_of("t")->started_ms, 0);
    assert_int_equal(task_of("t")->epoch, 1);
    assert_null(task_of("t")->result);
    assert_true(task_of("t")->order > order);
    // What is said of the first one changes nothing of the second.
    fx_expect(fx_start(&fx, "t", "a", 1), NL_OUTCOME_STALE);
    fx.attempt = 2;
    fx_finish(&fx, "t", "a", 1, KIND(SIGNALLED), 9);
    expect_task(NL_TASK_DISPATCHED, 3);
    fx.attempt = 3;
    fx_finish(&fx, "t", "a", 1, KIND(EXITED), 3);
    expect_task(NL_TASK_FAILED, 3);
    assert_string_equal(task_of("t")->reason, "exit code 3");
    const Nodelink__V1__AttemptRecords *earlier = task_of("t")->earlier;
    assert_int_equal(earlier->n_attempts, 2);
    assert_int_equal(earlier->attempts[0]->result->exit_code, 7);
    assert_true(earlier->attempts[0]->started_ms != 0);
    assert_string_equal(earlier->attempts[0]->reason, "exit code 7");
    assert_int_equal(earlier->attempts[1]->result->signal, 9);
    assert_int_equal(nl_state_agent(fx.state, "a")->tasks_finished, 1);
    fx_close(&fx);
}

static void test_success_ends_it(void **unused) {
    (void)unused;
    open_with(3);
    fx_finish(&fx, "t", "a", 1, KIND(EXITED), 1);
    fx.attempt = 2;
    fx_finish(&fx, "t", "a", 1, KIND(EXITED), 0);
    expect_task(NL_TASK_COMPLETED, 2);
    fx_close(&fx);
}

// Every end against every wish.
static void test_only_what_was_asked_for_is_retried(void **unused) {
    (void)unused;
    static const struct {
        Nodelink__V1__TaskResult__Kind kind;
        Nodelink__V1__RetryOn why;  // 0: never
    } ends[] = {
        {KIND(EXITED), RETRY(EXIT)},       {KIND(SIGNALLED), RETRY(SIGNAL)},
        {KIND(TIMED_OUT), RETRY(TIMEOUT)}, {KIND(NOT_STARTED), RETRY(NOT_STARTED)},
        {KIND(LOST), RETRY(LOST)},         {KIND(CANCELLED), 0},
    };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        for (int wish = 0; wish <= RETRY(LOST); wish++) {  // 0: all
            fx_open(&fx, NULL);
            fx_agent(&fx, "a");
            Nodelink__V1__TaskSpec spec = spec_of(2);
            Nodelink__V1__RetryOn on = (Nodelink__V1__RetryOn)wish;
            spec.n_retry_on = wish != 0;
            spec.retry_on = &on;
            fx_expect(fx_submit_spec(&fx, "t", &spec), NL_OUTCOME_OK);
            fx_finish(&fx, "t", "a", 1, ends[i].kind, 1);
            bool again = ends[i].why != 0 && (wish == 0 || on == ends[i].why);
            assert_int_equal(task_of("t")->attempt, again ? 2 : 1);
            assert_int_equal(task_of("t")->state == NL_TASK_DISPATCHED, again);
            fx_close(&fx);
        }
    }
}

static void test_a_cancelled_task_is_not_retried(void **unused) {
    (void)unused;
    open_with(3);
    fx_start(&fx, "t", "a", 1);
    fx_cancel(&fx, "t", "no");
    fx_finish(&fx, "t", "a", 1, KIND(SIGNALLED), 15);
    expect_task(NL_TASK_FAILED, 1);
    fx_close(&fx);
}

static void test_a_stock_agent_gets_one(void **unused) {
    (void)unused;
    fx_open(&fx, NULL);
    fx_node_up(&fx, 1, 1);
    fx_token(&fx, "a", 1);
    fx_register(&fx, (struct fx_hello){.agent = "a", .stock = true});
    Nodelink__V1__TaskSpec spec = spec_of(3);
    fx_submit_spec(&fx, "t", &spec);
    fx_finish(&fx, "t", "a", 1, KIND(EXITED), 1);
    expect_task(NL_TASK_FAILED, 1);
    fx_close(&fx);
}

// The next one waits for the agent, if the task may wait; it is not sent to nobody.
static void test_a_lost_agent(void **unused) {
    (void)unused;
    for (int waits = 0; waits < 2; waits++) {
        fx_open(&fx, NULL);
        fx_agent(&fx, "a");
        Nodelink__V1__TaskSpec spec = spec_of(2);
        spec.wait_for_agent_ms = waits ? 1000 : 0;
        fx_submit_spec(&fx, "t", &spec);
        fx_start(&fx, "t", "a", 1);
        fx_disconnect(&fx, "a", 1);
        fx_unreachable(&fx, "a", 1);
        expect_task(NL_TASK_UNKNOWN, 1);
        fx_lost(&fx, "a", 1);
        expect_task(waits ? NL_TASK_PENDING : NL_TASK_FAILED, waits ? 2 : 1);
        if (waits) {
            // Back with the first one still running: that is nobody's any more, and the second
            // one may be sent.
            fx_register(&fx, (struct fx_hello){.agent = "a",
                                               .listed = "t",
                                               .phase = NODELINK__V1__TASK_REF__PHASE__RUNNING});
            expect_task(NL_TASK_DISPATCHED, 2);
            // Its result is late, and kept as that.
            fx_expect(fx_finish(&fx, "t", "a", 2, KIND(EXITED), 0), NL_OUTCOME_LATE);
            expect_task(NL_TASK_DISPATCHED, 2);
            assert_int_equal(task_of("t")->late_results, 1);
            assert_int_equal(task_of("t")->late_attempt, 1);
            fx_expect(fx_finish(&fx, "t", "a", 2, KIND(EXITED), 0), NL_OUTCOME_EXISTED);
            assert_int_equal(task_of("t")->late_results, 1);
        }
        fx_close(&fx);
    }
}

// One registration costs one attempt at most, and each of the agent's tasks is judged once.
static void test_a_replaced_journal_costs_one_attempt(void **unused) {
    (void)unused;
    open_with(3);
    Nodelink__V1__TaskSpec spec = spec_of(3);
    fx_submit_spec(&fx, "u", &spec);
    fx_register(&fx, (struct fx_hello){.agent = "a", .journal = "another"});
    expect_task(NL_TASK_DISPATCHED, 2);
    assert_int_equal(task_of("u")->attempt, 2);
    assert_int_equal(task_of("t")->epoch, 2);
    fx_close(&fx);
}

static void test_bad_wishes_are_refused(void **unused) {
    (void)unused;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    Nodelink__V1__RetryOn on = RETRY(EXIT), bad = (Nodelink__V1__RetryOn)6;
    Nodelink__V1__TaskSpec spec = spec_of(NL_STATE_ATTEMPTS_MAX + 1);
    fx_expect(fx_submit_spec(&fx, "t1", &spec), NL_OUTCOME_INVALID);
    spec = spec_of(1);
    spec.n_retry_on = 1;
    spec.retry_on = &on;
    fx_expect(fx_submit_spec(&fx, "t2", &spec), NL_OUTCOME_INVALID);
    spec = spec_of(2);
    spec.n_retry_on = 1;
    spec.retry_on = &bad;
    fx_expect(fx_submit_spec(&fx, "t3", &spec), NL_OUTCOME_INVALID);
    spec = spec_of(NL_STATE_ATTEMPTS_MAX);
    fx_expect(fx_submit_spec(&fx, "t4", &spec), NL_OUTCOME_OK);
    for (uint32_t i = 1; i <= NL_STATE_ATTEMPTS_MAX; i++) {
        fx.attempt = i;
        fx_expect(fx_finish(&fx, "t4", "a", 1, KIND(EXITED), 1), NL_OUTCOME_OK);
    }
    assert_int_equal(task_of("t4")->state, NL_TASK_FAILED);
    assert_int_equal(task_of("t4")->earlier->n_attempts, NL_STATE_ATTEMPTS_MAX - 1);
    fx_close(&fx);
}

// ---- deadlines -----------------------------------------------------------------

static void test_the_earlier_deadline_counts(void **unused) {
    (void)unused;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    Nodelink__V1__TaskSpec spec = spec_of(1);
    spec.start_within_ms = 100;
    spec.finish_by_ms = 5000;
    spec.finish_within_ms = UINT64_MAX;
    fx_submit_spec(&fx, "t", &spec);
    uint64_t created = task_of("t")->created_ms;
    assert_int_equal(nl_task_start_deadline_ms(task_of("t")), created + 100);
    assert_int_equal(nl_task_finish_deadline_ms(task_of("t")), 5000);
    spec.start_by_ms = created + 50;
    fx_submit_spec(&fx, "u", &spec);
    assert_int_equal(nl_task_start_deadline_ms(task_of("u")), created + 50);
    fx_submit(&fx, "v", "a", "true", 0);
    assert_int_equal(nl_task_start_deadline_ms(task_of("v")), 0);
    assert_int_equal(nl_task_finish_deadline_ms(task_of("v")), 0);
    fx_close(&fx);
}

static void test_a_deadline_that_has_passed_is_refused_once_only(void **unused) {
    (void)unused;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    Nodelink__V1__TaskSpec spec = spec_of(1);
    spec.start_by_ms = nl_state_clock_ms(fx.state);
    fx_expect(fx_submit_spec(&fx, "t", &spec), NL_OUTCOME_TOO_LATE);
    assert_null(nl_state_task(fx.state, "t"));
    spec.start_by_ms += 100;
    fx_expect(fx_submit_spec(&fx, "t", &spec), NL_OUTCOME_OK);
    for (int i = 0; i < 20; i++) {
        fx_noop(&fx);
    }
    // Asked for again under its id it is the same task, whatever the time (P8).
    fx_expect(fx_submit_spec(&fx, "t", &spec), NL_OUTCOME_EXISTED);
    fx_close(&fx);
}

static void test_no_attempt_after_a_deadline(void **unused) {
    (void)unused;
    for (int what = 0; what < 2; what++) {
        fx_open(&fx, NULL);
        fx_agent(&fx, "a");
        Nodelink__V1__TaskSpec spec = spec_of(3);
        *(what == 0 ? &spec.start_within_ms : &spec.finish_within_ms) = 25;
        fx_submit_spec(&fx, "t", &spec);
        fx_finish(&fx, "t", "a", 1, KIND(EXITED), 1);  // 10 ms
        expect_task(NL_TASK_DISPATCHED, 2);
        fx_noop(&fx);
        fx.attempt = 2;
        fx_finish(&fx, "t", "a", 1, KIND(TIMED_OUT), 1);  // 30 ms
        expect_task(NL_TASK_TIMED_OUT, 2);
        assert_string_equal(task_of("t")->reason, what == 0 ? "exceeded its timeout"
                                                            : "exceeded its timeout or its time to "
                                                              "finish");
        fx_close(&fx);
    }
}

// ---- late results --------------------------------------------------------------

static void test_the_first_late_result_is_kept(void **unused) {
    (void)unused;
    for (uint32_t rules = 0; rules <= NL_STATE_RULES; rules++) {
        open_with(1);
        fx_start(&fx, "t", "a", 1);
        fx_disconnect(&fx, "a", 1);
        fx_lost(&fx, "a", 1);
        expect_task(NL_TASK_FAILED, 1);
        fx.rules = rules;
        fx_expect(fx_finish(&fx, "t", "a", 1, KIND(EXITED), 4), NL_OUTCOME_LATE);
        fx_expect(fx_finish(&fx, "t", "a", 1, KIND(EXITED), 5), NL_OUTCOME_LATE);
        expect_task(NL_TASK_FAILED, 1);  // P3
        assert_string_equal(task_of("t")->reason, "agent disconnected");
        assert_null(task_of("t")->result);
        assert_int_equal(task_of("t")->late_results, 2);
        if (rules == 0) {  // so a log of the first version comes to the state it came to then
            assert_null(task_of("t")->late_result);
        } else {
            assert_int_equal(task_of("t")->late_result->exit_code, 4);
            fx_expect(fx_finish(&fx, "t", "a", 1, KIND(EXITED), 4), NL_OUTCOME_EXISTED);
            assert_int_equal(task_of("t")->late_results, 2);
        }
        fx_close(&fx);
    }
}

// ---- tails ---------------------------------------------------------------------

static uint64_t tails(void) {
    struct nl_state_counts counts;
    nl_state_counts(fx.state, &counts);
    return counts.tails_bytes;
}

static void finish_with_tail(const char *id, const char *tail) {
    fx.tail = tail;
    fx_submit(&fx, id, "a", "true", 0);
    fx_finish(&fx, id, "a", 1, KIND(EXITED), 0);
}

static void test_tails_are_kept_up_to_their_bound(void **unused) {
    (void)unused;
    const struct nl_state_limits limits = {.tails_bytes_max = 10};
    fx_open(&fx, &limits);
    fx_agent(&fx, "a");
    finish_with_tail("t1", "1234");
    finish_with_tail("t2", "");
    finish_with_tail("t3", "123456");
    assert_int_equal(tails(), 10);
    assert_memory_equal(task_of("t1")->tail->stdout.data, "1234", 4);
    assert_null(task_of("t2")->tail);
    finish_with_tail("t4", "1");
    assert_null(task_of("t1")->tail);
    assert_non_null(task_of("t3")->tail);
    assert_int_equal(tails(), 7);
    fx_prune(&fx, 0, 1, 10);
    assert_int_equal(tails(), 1);
    finish_with_tail("t5", "more than all of the bound");
    assert_null(task_of("t5")->tail);
    assert_int_equal(tails(), 0);
    fx_close(&fx);
}

// What goes next must not depend on whether a replica began from a snapshot.
static void test_a_restored_state_drops_the_same_tails(void **unused) {
    (void)unused;
    const struct nl_state_limits limits = {.tails_bytes_max = 12};
    uint8_t hash[2][NL_STATE_HASH_LEN];
    for (int restored = 0; restored < 2; restored++) {
        fx_open(&fx, &limits);
        fx_agent(&fx, "a");
        fx.proposer = 0;
        for (int i = 0; i < 9; i++) {
            char id[8];
            fx.time_ms = 0;  // all end at the same time: the id decides
            snprintf(id, sizeof id, "t%d", i * 4 % 9);
            finish_with_tail(id, "1234");
            if (restored && i == 7) {
                size_t len;
                uint8_t *data = fx_snapshot(fx.state, &len);
                assert_int_equal(nl_state_restore(fx.state, data, len), NL_OK);
                free(data);
            }
        }
        assert_int_equal(tails(), 12);
        nl_state_hash(fx.state, hash[restored]);
        fx_close(&fx);
    }
    assert_memory_equal(hash[0], hash[1], sizeof hash[0]);
}

static void test_a_tail_beyond_its_own_bound_is_left_out(void **unused) {
    (void)unused;
    char *large = malloc(NL_STATE_TAIL_MAX + 2);
    assert_non_null(large);
    memset(large, 'x', NL_STATE_TAIL_MAX + 1);
    large[NL_STATE_TAIL_MAX + 1] = '\0';
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    finish_with_tail("t", large);
    expect_task(NL_TASK_COMPLETED, 1);
    assert_null(task_of("t")->tail);
    large[NL_STATE_TAIL_MAX] = '\0';
    finish_with_tail("u", large);
    assert_int_equal(tails(), NL_STATE_TAIL_MAX);
    fx_close(&fx);
    free(large);
}

static void test_only_the_end_of_a_task_keeps_its_tail(void **unused) {
    (void)unused;
    open_with(2);
    fx.tail = "first";
    fx_finish(&fx, "t", "a", 1, KIND(EXITED), 1);
    assert_null(task_of("t")->tail);
    fx.attempt = 2;
    fx.tail = "second";
    fx_finish(&fx, "t", "a", 1, KIND(EXITED), 1);
    assert_memory_equal(task_of("t")->tail->stdout.data, "second", 6);
    fx_close(&fx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_attempt_unless_asked_for),
        cmocka_unit_test(test_each_attempt_has_its_number_and_its_record),
        cmocka_unit_test(test_success_ends_it),
        cmocka_unit_test(test_only_what_was_asked_for_is_retried),
        cmocka_unit_test(test_a_cancelled_task_is_not_retried),
        cmocka_unit_test(test_a_stock_agent_gets_one),
        cmocka_unit_test(test_a_lost_agent),
        cmocka_unit_test(test_a_replaced_journal_costs_one_attempt),
        cmocka_unit_test(test_bad_wishes_are_refused),
        cmocka_unit_test(test_the_earlier_deadline_counts),
        cmocka_unit_test(test_a_deadline_that_has_passed_is_refused_once_only),
        cmocka_unit_test(test_no_attempt_after_a_deadline),
        cmocka_unit_test(test_the_first_late_result_is_kept),
        cmocka_unit_test(test_tails_are_kept_up_to_their_bound),
        cmocka_unit_test(test_a_restored_state_drops_the_same_tails),
        cmocka_unit_test(test_a_tail_beyond_its_own_bound_is_left_out),
        cmocka_unit_test(test_only_the_end_of_a_task_keeps_its_tail),
    };
    return cmocka_run_group_tests_name("attempts", tests, NULL, NULL);
}
