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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
