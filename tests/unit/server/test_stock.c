// What stock agents push: kept within bounds, and what their final response means.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "server/messages.h"
#include "server/stock.h"
#include "server/tail.h"

static uint8_t block[64 * 1024];

static void totals_and_digests_are_of_everything_seen(void **state) {
    (void)state;
    struct nl_stock *stock = nl_stock_new();
    assert_int_equal(nl_stock_begin(stock, "t", "a", 1), NL_OK);
    struct nl_stock_task *task = nl_stock_find(stock, "t");
    nl_stock_append(stock, task, 0, (const uint8_t *)"hello ", 6);
    nl_stock_append(stock, task, 0, (const uint8_t *)"world", 5);
    Nodelink__V1__TaskResponse frame = NODELINK__V1__TASK_RESPONSE__INIT;
    Nodelink__V1__TaskResult result;
    uint8_t digests[2][32], want[32];
    frame.status = NODELINK__V1__TASK_RESPONSE__STATUS__COMPLETED;
    nl_stock_result(task, &frame, digests, &result);
    nl_sha256_of("hello world", 11, want);
    assert_int_equal(result.stdout_bytes, 11);
    assert_memory_equal(result.stdout_sha256.data, want, 32);
    assert_int_equal(result.stderr_bytes, 0);
    nl_stock_free(stock);
}

static void a_stream_keeps_its_newest_bytes(void **state) {
    (void)state;
    struct nl_stock *stock = nl_stock_new();
    nl_stock_begin(stock, "t", "a", 1);
    struct nl_stock_task *task = nl_stock_find(stock, "t");
    for (int i = 0; i < 64; i++) {  // 4 MiB
        memset(block, i, sizeof block);
        nl_stock_append(stock, task, 1, block, sizeof block);
    }
    uint64_t base = nl_stock_base(task, 1), total = nl_stock_total(task, 1);
    size_t len = 0;
    assert_int_equal(total, 64 * sizeof block);
    assert_in_range(total - base, NL_STOCK_STREAM_MAX, 2 * NL_STOCK_STREAM_MAX);
    for (uint64_t at = base; at < total; at += 1000) {
        assert_int_equal(*nl_stock_bytes(task, 1, at, &len), at / sizeof block);
        assert_int_equal(len, total - at);
    }
    nl_stock_free(stock);
}

static int gone;

static void on_changed(struct nl_stock_listener *listener) {
    (void)listener;
}

static void on_gone(struct nl_stock_listener *listener) {
    (void)listener;
    gone++;
}

static void ended_tasks_make_room_first(void **state) {
    (void)state;
    struct nl_stock *stock = nl_stock_new();
    struct nl_stock_listener listener = {.changed = on_changed, .gone = on_gone};
    char id[16];
    gone = 0;
    for (int i = 0; i < 40; i++) {  // 2 MiB each: more than the total
        snprintf(id, sizeof id, "t%d", i);
        nl_stock_begin(stock, id, "a", 1);
        struct nl_stock_task *task = nl_stock_find(stock, id);
        if (i == 5) {
            nl_stock_listen(task, &listener);
        }
        for (int k = 0; k < 32; k++) {
            nl_stock_append(stock, task, 0, block, sizeof block);
        }
        if (i == 5) {
            nl_stock_end(stock, task, true);
        }
    }
    assert_null(nl_stock_find(stock, "t5"));
    assert_int_equal(gone, 1);
    assert_non_null(nl_stock_find(stock, "t39"));
    nl_stock_free(stock);
}

static void an_agents_end_ends_its_tasks(void **state) {
    (void)state;
    struct nl_stock *stock = nl_stock_new();
    bool complete = true;
    nl_stock_begin(stock, "t1", "a", 1);
    nl_stock_begin(stock, "t2", "a", 2);
    nl_stock_agent_gone(stock, "a", 1);
    assert_true(nl_stock_ended(nl_stock_find(stock, "t1"), &complete));
    assert_false(complete);
    assert_false(nl_stock_ended(nl_stock_find(stock, "t2"), &complete));
    nl_stock_free(stock);
}

static void final_responses_are_read_as_they_are_meant(void **state) {
    (void)state;
    const struct {
        int status, exit_code;
        bool cancelled;
        Nodelink__V1__TaskResult__Kind kind;
    } cases[] = {
        {1, 0, false, NODELINK__V1__TASK_RESULT__KIND__EXITED},
        {2, 3, false, NODELINK__V1__TASK_RESULT__KIND__EXITED},
        {2, -15, false, NODELINK__V1__TASK_RESULT__KIND__EXITED},
        {2, 0, false, NODELINK__V1__TASK_RESULT__KIND__LOST},
        {0, 0, false, NODELINK__V1__TASK_RESULT__KIND__LOST},
        {2, 143, true, NODELINK__V1__TASK_RESULT__KIND__CANCELLED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Nodelink__V1__TaskResponse frame = NODELINK__V1__TASK_RESPONSE__INIT;
        Nodelink__V1__ShellExecuteResponse shell = NODELINK__V1__SHELL_EXECUTE_RESPONSE__INIT;
        Nodelink__V1__TaskResult result;
        uint8_t digests[2][32];
        frame.status = cases[i].status;
        frame.cancelled = cases[i].cancelled;
        frame.response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE;
        frame.shell_execute = &shell;
        shell.exit_code = cases[i].exit_code;
        nl_stock_result(NULL, &frame, digests, &result);
        assert_int_equal(result.kind, cases[i].kind);
        assert_int_equal(result.exit_code, cases[i].exit_code);
        assert_int_equal(result.stdout_sha256.len, 0);
    }
}

// What the cluster keeps with the result, and what a reader gets of it.
static void the_tail_is_the_last_bytes(void **state) {
    (void)state;
    const struct {
        size_t out, err, out_kept, err_kept;
    } rows[] = {
        {0, 0, 0, 0},
        {10, 20, 10, 20},
        {100000, 10, 65526, 10},
        {100000, 100000, 32768, 32768},
        {10, 100000, 10, 32768},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct nl_stock *stock = nl_stock_new();
        struct nl_tail_made made;
        struct nl_tail tail;
        static uint8_t out[100000], err[100000];
        for (size_t k = 0; k < sizeof out; k++) {
            out[k] = (uint8_t)(k >> 8);
            err[k] = (uint8_t)(k >> 5);
        }
        assert_int_equal(nl_stock_begin(stock, "t", "a", 1), NL_OK);
        struct nl_stock_task *task = nl_stock_find(stock, "t");
        nl_stock_append(stock, task, 0, out, rows[i].out);
        nl_stock_append(stock, task, 1, err, rows[i].err);
        assert_int_equal(nl_tail_of_stock(task, &made), NL_OK);
        assert_int_equal(nl_tail_open(&made.message, &tail), NL_OK);
        assert_int_equal(tail.len[NL_STDOUT], rows[i].out_kept);
        assert_int_equal(tail.len[NL_STDERR], rows[i].err_kept);
        assert_int_equal(tail.offset[NL_STDOUT], rows[i].out - rows[i].out_kept);
        assert_memory_equal(tail.data[NL_STDOUT], out + tail.offset[NL_STDOUT],
                            tail.len[NL_STDOUT]);
        assert_memory_equal(tail.data[NL_STDERR], err + tail.offset[NL_STDERR],
                            tail.len[NL_STDERR]);
        nl_tail_close(&tail);
        nl_tail_made_close(&made);
        nl_stock_free(stock);
    }
}

static void a_broken_tail_is_noticed(void **state) {
    (void)state;
    Nodelink__V1__OutputTail message = NODELINK__V1__OUTPUT_TAIL__INIT;
    struct nl_tail tail;
    message.stdout = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "xxxxx"};
    message.stdout_size = 1000;
    assert_int_equal(nl_tail_open(&message, &tail), NL_ECORRUPT);
    message.stdout_size = UINT32_MAX;  // no memory is asked for
    assert_int_equal(nl_tail_open(&message, &tail), NL_ECORRUPT);
    message.stdout_size = 0;
    assert_int_equal(nl_tail_open(&message, &tail), NL_OK);
    nl_tail_close(&tail);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(totals_and_digests_are_of_everything_seen),
        cmocka_unit_test(a_stream_keeps_its_newest_bytes),
        cmocka_unit_test(ended_tasks_make_room_first),
        cmocka_unit_test(an_agents_end_ends_its_tasks),
        cmocka_unit_test(final_responses_are_read_as_they_are_meant),
        cmocka_unit_test(the_tail_is_the_last_bytes),
        cmocka_unit_test(a_broken_tail_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
