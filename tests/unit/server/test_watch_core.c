// A reader's place in a task's output: nothing twice, nothing skipped without a word.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "server/watch_core.h"

static struct nl_watch_core w;
static struct nl_task task;
static Nodelink__V1__TaskResult result;
static uint8_t digest[32];

static void begin(uint64_t out, uint64_t err, bool no_follow) {
    uint64_t offset[2] = {out, err};
    nl_watch_core_init(&w, true, no_follow, offset);
    memset(&task, 0, sizeof task);
    task.state = NL_TASK_RUNNING;
    task.dispatched_ms = 1;
    nl_watch_core_task(&w, &task, false);
}

static void end_task(uint64_t out, uint64_t err) {
    nodelink__v1__task_result__init(&result);
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    result.stdout_bytes = out;
    result.stderr_bytes = err;
    result.stdout_sha256 = result.stderr_sha256 = (ProtobufCBinaryData){32, digest};
    task.state = NL_TASK_COMPLETED;
    task.result = &result;
    nl_watch_core_task(&w, &task, false);
}

static void ends(enum nl_output_why why) {
    struct nl_output_end end = {.why = why, .message = "why"};
    struct nl_watch_gap gap;
    assert_false(nl_watch_core_ended(&w, 0, &end, &gap));
}

static enum nl_watch_chunk chunk(uint64_t offset, size_t len, uint64_t *ret_from, size_t *ret_len) {
    static const uint8_t bytes[1000];
    const uint8_t *data = bytes;
    enum nl_watch_chunk verdict = nl_watch_core_chunk(&w, 0, NL_STDOUT, &offset, &data, &len);
    *ret_from = offset;
    *ret_len = len;
    if (verdict == NL_WATCH_NEW) {
        assert_true(data >= bytes && data + len <= bytes + sizeof bytes);
    }
    return verdict;
}

static void chunks_are_cut_to_what_is_new(void **state) {
    (void)state;
    const struct {
        uint64_t at, offset;
        size_t len;
        enum nl_watch_chunk verdict;
        uint64_t from;
        size_t new_len;
    } cases[] = {
        {0, 0, 10, NL_WATCH_NEW, 0, 10},  {10, 10, 10, NL_WATCH_NEW, 10, 10},
        {10, 5, 10, NL_WATCH_NEW, 10, 5}, {10, 0, 11, NL_WATCH_NEW, 10, 1},
        {10, 0, 10, NL_WATCH_OLD, 0, 0},  {10, 3, 4, NL_WATCH_OLD, 0, 0},
        {10, 11, 1, NL_WATCH_HOLE, 0, 0}, {10, 1000, 5, NL_WATCH_HOLE, 0, 0},
        {0, 0, 0, NL_WATCH_OLD, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t from;
        size_t len;
        begin(cases[i].at, 0, false);
        assert_int_equal(chunk(cases[i].offset, cases[i].len, &from, &len), cases[i].verdict);
        if (cases[i].verdict == NL_WATCH_NEW) {
            assert_int_equal(from, cases[i].from);
            assert_int_equal(len, cases[i].new_len);
            assert_int_equal(w.next[NL_STDOUT], from + len);
        } else {
            assert_int_equal(w.next[NL_STDOUT], cases[i].at);
        }
    }
}

// Whatever is thrown at it, what counts as delivered is one contiguous run.
static void random_sources_leave_no_hole(void **state) {
    (void)state;
    uint32_t seed = 1;
    uint64_t delivered = 0;
    begin(0, 0, false);
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint64_t offset = delivered + (seed >> 16) % 60;
        offset = offset > 30 ? offset - 30 : 0;
        uint64_t from;
        size_t len;
        if (chunk(offset, (seed >> 8) % 50, &from, &len) == NL_WATCH_NEW) {
            assert_int_equal(from, delivered);
            delivered += len;
        }
        assert_int_equal(w.next[NL_STDOUT], delivered);
    }
    assert_true(delivered > 1000);
}

static void a_live_task_is_read_to_its_totals(void **state) {
    (void)state;
    uint64_t from;
    size_t len;
    begin(0, 0, false);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_OPEN);
    nl_watch_core_opened(&w, 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    chunk(0, 10, &from, &len);
    end_task(20, 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    chunk(10, 10, &from, &len);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);  // without waiting for its word
}

static void complete_before_the_result_waits_for_it(void **state) {
    (void)state;
    uint64_t from;
    size_t len;
    begin(0, 0, false);
    nl_watch_core_opened(&w, 0);
    chunk(0, 5, &from, &len);
    ends(NL_OUTPUT_COMPLETE);
    assert_int_equal(nl_watch_core_next(&w, 100000), NL_WATCH_WAIT);
    end_task(7, 0);  // the source lied or lagged: the totals decide
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_OPEN);
    nl_watch_core_opened(&w, 0);
    chunk(5, 2, &from, &len);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

static void a_broken_source_is_opened_again_with_patience(void **state) {
    (void)state;
    uint64_t from;
    size_t len;
    begin(0, 0, false);
    nl_watch_core_opened(&w, 0);
    chunk(0, 10, &from, &len);
    ends(NL_OUTPUT_BROKEN);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    assert_int_equal(nl_watch_core_deadline(&w), 50);
    assert_int_equal(nl_watch_core_next(&w, 50), NL_WATCH_OPEN);
    for (int i = 0; i < 100; i++) {
        ends(NL_OUTPUT_BROKEN);
        assert_true(nl_watch_core_deadline(&w) <= 1000);
    }
    assert_int_equal(nl_watch_core_next(&w, 1000), NL_WATCH_OPEN);  // a live task: for ever
    nl_watch_core_agent_changed(&w);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_OPEN);
    assert_int_equal(w.next[NL_STDOUT], 10);
}

static void an_ended_task_that_nobody_can_read_ends_with_a_gap(void **state) {
    (void)state;
    struct nl_watch_gap gap;
    begin(4, 0, false);
    end_task(10, 3);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(nl_watch_core_next(&w, 1000), NL_WATCH_OPEN);
        ends(NL_OUTPUT_BROKEN);
    }
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_GAP_END);
    nl_watch_core_rest(&w, &gap);
    assert_int_equal(gap.from[0], 4);
    assert_int_equal(gap.to[0], 10);
    assert_int_equal(gap.from[1], 0);
    assert_int_equal(gap.to[1], 3);
}

static void a_gap_is_said_and_reading_goes_on_behind_it(void **state) {
    (void)state;
    struct nl_output_end end = {.why = NL_OUTPUT_GAP, .base = {100, 0}, .message = ""};
    struct nl_watch_gap gap;
    begin(10, 5, false);
    nl_watch_core_opened(&w, 0);
    assert_true(nl_watch_core_ended(&w, 0, &end, &gap));
    assert_int_equal(gap.from[0], 10);
    assert_int_equal(gap.to[0], 100);
    assert_int_equal(gap.from[1], gap.to[1]);
    assert_int_equal(w.next[0], 100);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_OPEN);
    nl_watch_core_opened(&w, 0);
    assert_false(nl_watch_core_ended(&w, 0, &end, &gap));  // again, but there is none: no loop
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
}

static void gone_waits_for_the_end_of_the_task(void **state) {
    (void)state;
    begin(3, 0, false);
    nl_watch_core_opened(&w, 0);
    ends(NL_OUTPUT_GONE);
    assert_int_equal(nl_watch_core_next(&w, 100000), NL_WATCH_WAIT);
    end_task(3, 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);  // all was delivered after all
    end_task(5, 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_GAP_END);
}

static void an_agent_away_is_waited_for_until_it_is_lost(void **state) {
    (void)state;
    begin(0, 0, false);
    end_task(5, 0);
    nl_watch_core_not_opened(&w, 0, NL_EAGAIN);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    assert_int_equal(nl_watch_core_next(&w, 1000), NL_WATCH_OPEN);
    nl_watch_core_task(&w, &task, true);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_GAP_END);
    nl_watch_core_agent_changed(&w);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_OPEN);
}

static void no_follow_ends_with_what_is_there(void **state) {
    (void)state;
    begin(0, 0, true);
    nl_watch_core_opened(&w, 1000);
    assert_int_equal(nl_watch_core_next(&w, 1299), NL_WATCH_WAIT);
    assert_int_equal(nl_watch_core_next(&w, 1300), NL_WATCH_END);
    begin(0, 0, true);
    nl_watch_core_not_opened(&w, 0, NL_EAGAIN);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_UNAVAILABLE);
    begin(0, 0, true);
    task.state = NL_TASK_DISPATCHED;
    nl_watch_core_task(&w, &task, false);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

static void without_output_only_the_state_counts(void **state) {
    (void)state;
    uint64_t offset[2] = {0, 0};
    nl_watch_core_init(&w, false, false, offset);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    memset(&task, 0, sizeof task);
    end_task(5, 5);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

static void a_task_that_never_went_out_has_no_output(void **state) {
    (void)state;
    begin(0, 0, false);
    task.dispatched_ms = 0;
    task.state = NL_TASK_CANCELLED;
    nl_watch_core_task(&w, &task, false);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

// ---- tails -----------------------------------------------------------------

static void end_with_tail(uint64_t out, uint64_t err, uint64_t out_kept, uint64_t err_kept) {
    static Nodelink__V1__OutputTail tail;
    nodelink__v1__output_tail__init(&tail);
    tail.stdout_offset = out - out_kept;
    tail.stderr_offset = err - err_kept;
    task.tail = &tail;
    end_task(out, err);
}

static void a_tail_that_has_it_all_needs_no_agent(void **state) {
    (void)state;
    begin(0, 0, false);
    end_with_tail(10, 4, 10, 4);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_TAIL);
    uint64_t from;
    size_t len;
    assert_int_equal(chunk(0, 10, &from, &len), NL_WATCH_NEW);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_TAIL);  // of stderr
    begin(90, 4, true);                                          // from an offset within it
    end_with_tail(100, 4, 20, 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_TAIL);
    assert_int_equal(chunk(80, 20, &from, &len), NL_WATCH_NEW);
    assert_int_equal(from, 90);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

static void a_tail_is_what_is_left_when_the_agent_is_gone(void **state) {
    (void)state;
    begin(5, 0, false);
    end_with_tail(100, 3, 20, 3);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_OPEN);  // the agent has more than that
    nl_watch_core_not_opened(&w, 0, NL_EAGAIN);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    nl_watch_core_task(&w, &task, true);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_TAIL_GAP);
    struct nl_watch_gap gap;
    nl_watch_core_to_tail(&w, &gap);
    assert_int_equal(gap.from[NL_STDOUT], 5);
    assert_int_equal(gap.to[NL_STDOUT], 80);
    assert_int_equal(gap.from[NL_STDERR], gap.to[NL_STDERR]);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_TAIL);
    nl_watch_core_no_tail(&w);  // it turned out to be broken
    nl_watch_core_task(&w, &task, true);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_GAP_END);
    nl_watch_core_rest(&w, &gap);
    assert_int_equal(gap.from[NL_STDOUT], 80);
    assert_int_equal(gap.to[NL_STDOUT], 100);
}

// The agent is there, but dropped what it had of the output.
static void a_gap_ends_where_the_tail_begins(void **state) {
    (void)state;
    begin(5, 0, false);
    end_with_tail(100, 3, 20, 3);
    nl_watch_core_opened(&w, 0);
    struct nl_output_end end = {.why = NL_OUTPUT_GAP, .base = {100, 3}, .message = ""};
    struct nl_watch_gap gap;
    assert_true(nl_watch_core_ended(&w, 0, &end, &gap));
    assert_int_equal(gap.from[NL_STDOUT], 5);
    assert_int_equal(gap.to[NL_STDOUT], 80);
    assert_int_equal(gap.to[NL_STDERR], 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_TAIL);
    begin(85, 0, false);  // asked before the end of the task was known here
    nl_watch_core_opened(&w, 0);
    end_with_tail(100, 3, 20, 3);
    assert_false(nl_watch_core_ended(&w, 0, &end, &gap));
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_TAIL);
}

// ---- attempts --------------------------------------------------------------

static Nodelink__V1__AttemptRecord first;
static Nodelink__V1__AttemptRecord *first_list[] = {&first};
static Nodelink__V1__AttemptRecords earlier;
static Nodelink__V1__TaskResult first_result;

// The attempt has ended with 5 bytes of stdout, another one was begun.
static void retried(void) {
    nodelink__v1__task_result__init(&first_result);
    first_result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    first_result.stdout_bytes = 5;
    first_result.stdout_sha256 = first_result.stderr_sha256 = (ProtobufCBinaryData){32, digest};
    nodelink__v1__attempt_record__init(&first);
    nodelink__v1__attempt_records__init(&earlier);
    first.attempt = 1;
    first.state = NL_TASK_FAILED;
    first.result = &first_result;
    earlier.n_attempts = 1;
    earlier.attempts = first_list;
    task.earlier = &earlier;
    task.attempt = 2;
    task.state = NL_TASK_DISPATCHED;
    nl_watch_core_task(&w, &task, false);
}

static void begin_attempt(uint32_t attempt, bool only) {
    begin(0, 0, false);
    w.attempt = attempt;
    w.only_attempt = only;
    task.attempt = 1;
    nl_watch_core_task(&w, &task, false);
}

static void a_reader_goes_on_with_the_next_attempt(void **state) {
    (void)state;
    begin_attempt(0, false);
    assert_int_equal(w.attempt, 1);
    nl_watch_core_opened(&w, 0);
    uint64_t from;
    size_t len;
    chunk(0, 3, &from, &len);
    retried();
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);  // two bytes of the first are due
    chunk(3, 2, &from, &len);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_NEXT);
    nl_watch_core_advance(&w);
    nl_watch_core_task(&w, &task, false);
    assert_int_equal(w.attempt, 2);
    assert_int_equal(w.next[NL_STDOUT], 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    end_task(0, 0);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

static void one_attempt_only(void **state) {
    (void)state;
    begin_attempt(1, true);
    retried();
    nl_watch_core_opened(&w, 0);
    uint64_t from;
    size_t len;
    chunk(0, 5, &from, &len);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

static void a_lost_attempt_ends_with_a_gap_and_then_the_next_comes(void **state) {
    (void)state;
    begin_attempt(1, false);
    retried();
    first.result = NULL;
    nl_watch_core_task(&w, &task, false);
    nl_watch_core_opened(&w, 0);
    ends(NL_OUTPUT_GONE);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_GAP_END);
    assert_true(w.followed);
}

static void an_attempt_that_never_comes(void **state) {
    (void)state;
    begin_attempt(2, false);
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_WAIT);
    end_task(7, 0);  // the first one was enough
    assert_int_equal(nl_watch_core_next(&w, 0), NL_WATCH_END);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_are_cut_to_what_is_new),
        cmocka_unit_test(random_sources_leave_no_hole),
        cmocka_unit_test(a_live_task_is_read_to_its_totals),
        cmocka_unit_test(complete_before_the_result_waits_for_it),
        cmocka_unit_test(a_broken_source_is_opened_again_with_patience),
        cmocka_unit_test(an_ended_task_that_nobody_can_read_ends_with_a_gap),
        cmocka_unit_test(a_gap_is_said_and_reading_goes_on_behind_it),
        cmocka_unit_test(gone_waits_for_the_end_of_the_task),
        cmocka_unit_test(an_agent_away_is_waited_for_until_it_is_lost),
        cmocka_unit_test(no_follow_ends_with_what_is_there),
        cmocka_unit_test(without_output_only_the_state_counts),
        cmocka_unit_test(a_task_that_never_went_out_has_no_output),
        cmocka_unit_test(a_tail_that_has_it_all_needs_no_agent),
        cmocka_unit_test(a_tail_is_what_is_left_when_the_agent_is_gone),
        cmocka_unit_test(a_gap_ends_where_the_tail_begins),
        cmocka_unit_test(a_reader_goes_on_with_the_next_attempt),
        cmocka_unit_test(one_attempt_only),
        cmocka_unit_test(a_lost_attempt_ends_with_a_gap_and_then_the_next_comes),
        cmocka_unit_test(an_attempt_that_never_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
