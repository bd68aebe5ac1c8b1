// Subscriptions: offsets, credit, fairness, ends, and what the supervisor is told of readers.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/link/subs.h"
#include "tests/unit/link/fixture.h"

#define RUNNING NODELINK__V1__TASK_REF__PHASE__RUNNING
#define FINISHED NODELINK__V1__TASK_REF__PHASE__FINISHED

static void with_task(struct fixture *f, const char *id, uint64_t stdout_end) {
    fx_shell(f, 1, id, 1);
    fx_sup_task(f, id, RUNNING, stdout_end);
    fx_forget(f);
}

static void start(struct fixture *f) {
    fx_init(f, "a:1 b:1");
    fx_up(f, 1);
    with_task(f, "t", 1000);
}

static void expect_chunk(struct fixture *f, uint64_t offset, uint32_t len) {
    struct nl_link_output output;
    assert_true(nl_link_core_output_next(f->core, &output));
    assert_int_equal(output.stream, 0);
    assert_int_equal(output.offset, offset);
    assert_int_equal(output.len, len);
    assert_string_equal(output.spool_dir, "spool/x");
}

static void expect_nothing(struct fixture *f) {
    struct nl_link_output output;
    assert_false(nl_link_core_output_next(f->core, &output));
}

static void follows_growth_within_credit(void **state) {
    (void)state;
    struct fixture f;
    start(&f);
    fx_open(&f, 1, 9, "t", 100, 600);
    fx_expect(&f, "output\n");
    expect_chunk(&f, 100, 600);
    uint8_t data[600] = {0};
    struct nl_link_output_frame frame;
    nl_link_core_output_frame(f.core, data, &frame);
    assert_int_equal(frame.response.sub, 9);
    assert_int_equal(frame.response.stdout_offset, 100);
    assert_int_equal(frame.response.shell_execute->stdout.len, 600);
    assert_int_equal(frame.response.epoch, 1);
    expect_chunk(&f, 100, 600);  // asking changes nothing
    fx_output_sent(&f);
    expect_nothing(&f);  // no credit left
    fx_credit(&f, 1, 9, 1000);
    expect_chunk(&f, 700, 300);
    fx_output_sent(&f);
    expect_nothing(&f);
    fx_sup_spool(&f, "t", 0, 1500, 0);
    expect_chunk(&f, 1000, 500);
    fx_output_sent(&f);
    fx_forget(&f);
    fx_sup_task(&f, "t", FINISHED, 1700);
    expect_chunk(&f, 1500, 200);
    fx_forget(&f);
    fx_output_sent(&f);
    fx_expect(&f, "1: end sub=9 complete base=0 total=1700\n");
    fx_close(&f);
}

static void big_output_goes_in_chunks(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    with_task(&f, "t", 800000);
    fx_open(&f, 1, 1, "t", 0, UINT64_MAX);
    uint64_t at = 0;
    struct nl_link_output output;
    while (nl_link_core_output_next(f.core, &output)) {
        assert_int_equal(output.offset, at);
        assert_in_range(output.len, 1, NL_LINK_CHUNK_BYTES_MAX);
        at += output.len;
        fx_output_sent(&f);
    }
    assert_int_equal(at, 800000);
    fx_credit(&f, 1, 1, UINT64_MAX);  // over the top: no wrap
    fx_close(&f);
}

static void readers_take_turns(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    with_task(&f, "big", 10000000);
    with_task(&f, "small", 10);
    fx_open(&f, 1, 1, "big", 0, UINT64_MAX);
    fx_open(&f, 1, 2, "small", 0, UINT64_MAX);
    expect_chunk(&f, 0, NL_LINK_CHUNK_BYTES_MAX);
    fx_output_sent(&f);
    expect_chunk(&f, 0, 10);
    fx_output_sent(&f);
    expect_chunk(&f, NL_LINK_CHUNK_BYTES_MAX, NL_LINK_CHUNK_BYTES_MAX);
    fx_close(&f);
}

static void ends(void **state) {
    (void)state;
    struct fixture f;
    start(&f);
    fx_open(&f, 1, 1, "unknown", 0, 10);
    fx_expect(&f, "1: end sub=1 gone base=0 total=0\n");
    fx_sup_spool(&f, "t", 500, 1000, 0);
    fx_open(&f, 1, 2, "t", 499, 10);
    fx_expect(&f, "1: end sub=2 gap base=500 total=1000\n");
    fx_open(&f, 1, 3, "t", 500, 10);
    fx_expect(&f, "output\n");
    fx_open(&f, 1, 3, "t", 500, 10);  // the number is taken: ignored
    fx_expect(&f, "");
    struct nl_link_event event = {.type = NL_LINK_OUTPUT_FAILED};
    event.output_failed.message = "input/output error";
    fx_step(&f, &event);
    fx_expect(&f, "1: end sub=3 error base=500 total=1000\n");
    fx_open(&f, 1, 4, "t", 500, 10);
    event.output_failed.gone = true;
    fx_forget(&f);
    fx_step(&f, &event);
    fx_expect(&f, "1: end sub=4 gone base=500 total=1000\n");
    expect_nothing(&f);
    fx_close(&f);
}

static void readers_are_limited(void **state) {
    (void)state;
    struct fixture f;
    const struct nl_link_core_options options = {.agent_id = "agent-1",
                                                 .version = "1",
                                                 .hostname = "h",
                                                 .os = "o",
                                                 .subs_max = 2,
                                                 .backoff_start_ms = 1000,
                                                 .backoff_factor_percent = 150,
                                                 .backoff_cap_ms = 60000,
                                                 .connect_ms = 3000};
    fx_init_with(&f, "a:1", &options);
    fx_up(&f, 1);
    with_task(&f, "t", 0);
    fx_open(&f, 1, 1, "t", 0, 10);
    fx_open(&f, 1, 2, "t", 0, 10);
    fx_forget(&f);
    fx_open(&f, 1, 3, "t", 0, 10);
    fx_expect(&f, "1: end sub=3 error base=0 total=0\n");
    fx_close(&f);
}

// The supervisor may drop what nobody needs, and only that.
static void release(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_up(&f, 1);
    with_task(&f, "t", 1000000);
    fx_open(&f, 1, 1, "t", 0, 600000);
    fx_open(&f, 1, 2, "t", 0, 600000);
    fx_forget(&f);
    struct nl_link_output output;
    while (nl_link_core_output_next(f.core, &output)) {
        fx_output_sent(&f);
    }
    fx_forget(&f);
    fx_credit(&f, 1, 1, 500000);  // reader 1 has taken them, reader 2 has not
    assert_null(strstr(f.transcript, "release"));
    fx_forget(&f);
    fx_credit(&f, 1, 2, 400000);
    assert_non_null(strstr(f.transcript, "sup release t 400000\n"));
    fx_closed(&f, 1, 14, "gone");  // the readers come again elsewhere: kept for a while
    fx_advance(&f, 29000);
    assert_null(strstr(f.transcript, "no-reader"));
    fx_advance(&f, 2000);
    assert_non_null(strstr(f.transcript, "sup release t 400000 no-reader\n"));
    fx_close(&f);
}

// A reader of a spool that may be dropped under it waits for the supervisor's word.
static void fence(void **state) {
    (void)state;
    struct fixture f;
    start(&f);
    fx_advance_alive(&f, 1, 32000);
    assert_non_null(strstr(f.transcript, "sup release t 0 no-reader\n"));
    fx_sup_spool(&f, "t", 0, 1000, 1);
    fx_forget(&f);
    fx_open(&f, 1, 1, "t", 0, 5000);
    fx_expect(&f, "sup release t 0\n");
    expect_nothing(&f);
    fx_sup_spool(&f, "t", 0, 2000, 1);  // said before it knew of the reader
    expect_nothing(&f);
    fx_sup_spool(&f, "t", 700, 2000, 2);
    fx_expect(&f, "1: end sub=1 gap base=700 total=2000\n");
    fx_open(&f, 1, 2, "t", 700, 5000);
    expect_chunk(&f, 700, 1300);
    fx_close(&f);
}

static void fence_after_a_new_attach(void **state) {
    (void)state;
    struct fixture f;
    start(&f);
    fx_open(&f, 1, 1, "t", 0, 5000);
    expect_chunk(&f, 0, 1000);
    fx_sup_down(&f);
    fx_forget(&f);
    fx_attach(&f, 1);
    fx_sup_task(&f, "t", RUNNING, 1000);
    assert_non_null(strstr(f.transcript, "sup release t 0\n"));
    expect_nothing(&f);
    fx_sup_spool(&f, "t", 0, 1000, 1);
    expect_chunk(&f, 0, 1000);
    fx_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_growth_within_credit),
        cmocka_unit_test(big_output_goes_in_chunks),
        cmocka_unit_test(readers_take_turns),
        cmocka_unit_test(ends),
        cmocka_unit_test(readers_are_limited),
        cmocka_unit_test(release),
        cmocka_unit_test(fence),
        cmocka_unit_test(fence_after_a_new_attach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
