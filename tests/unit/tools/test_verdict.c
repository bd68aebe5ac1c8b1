#include "tools/verdict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STATE(name) NODELINK__V1__TASK_STATE__TASK_##name
#define KIND(name) NODELINK__V1__TASK_RESULT__KIND__##name

struct row {
    Nodelink__V1__TaskState state;
    int kind;  // -1: no result
    int exit_code, signal;
    bool dispatched, started, by_us;
    const char *outcome;
    int expected;
};

static const struct row ROWS[] = {
    {STATE(COMPLETED), KIND(EXITED), 0, 0, true, true, false, "completed", 0},
    {STATE(FAILED), KIND(EXITED), 7, 0, true, true, false, "failed", 7},
    {STATE(FAILED), KIND(EXITED), 124, 0, true, true, false, "failed", 124},
    {STATE(FAILED), KIND(EXITED), 0, 0, true, true, false, "failed", 1},
    {STATE(FAILED), KIND(SIGNALLED), 0, 9, true, true, false, "failed", 137},
    {STATE(FAILED), KIND(NOT_STARTED), 0, 0, true, false, false, "not_started", 125},
    {STATE(FAILED), KIND(LOST), 0, 0, true, true, false, "unknown", 127},
    // The cluster gave up waiting: never sent means that nothing ran.
    {STATE(FAILED), -1, 0, 0, false, false, false, "not_started", 126},
    {STATE(FAILED), -1, 0, 0, true, false, false, "unknown", 127},
    {STATE(FAILED), -1, 0, 0, true, true, false, "unknown", 127},
    {STATE(TIMED_OUT), KIND(TIMED_OUT), 0, 15, true, true, false, "timed_out", 124},
    {STATE(CANCELLED), KIND(CANCELLED), 0, 15, true, true, true, "cancelled", 130},
    {STATE(CANCELLED), KIND(CANCELLED), 0, 0, true, true, false, "cancelled", 143},
    {STATE(CANCELLED), -1, 0, 0, false, false, false, "cancelled", 125},
    {STATE(UNKNOWN), -1, 0, 0, true, true, false, "unknown", 127},
    {STATE(RUNNING), -1, 0, 0, true, true, false, "unknown", 127},
};

static void test_tasks(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        const struct row *row = &ROWS[i];
        Nodelink__V1__Task task = NODELINK__V1__TASK__INIT;
        Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
        task.state = row->state;
        task.dispatched_ms = row->dispatched ? 1 : 0;
        task.started_ms = row->started ? 2 : 0;
        if (row->kind >= 0) {
            result.kind = (Nodelink__V1__TaskResult__Kind)row->kind;
            result.exit_code = row->exit_code;
            result.signal = row->signal;
            task.has_result = true;
            task.result = &result;
        }
        struct nl_verdict verdict = nl_verdict_of_task(&task, row->by_us);
        if (strcmp(verdict.outcome, row->outcome) != 0 || verdict.exit_code != row->expected) {
            fail_msg("row %zu: %s %d, not %s %d", i, verdict.outcome, verdict.exit_code,
                     row->outcome, row->expected);
        }
    }
    assert_int_equal(nl_verdict_of_task(NULL, false).exit_code, 127);
}

// The last attempt was never begun: what is known of the one before it counts.
static void test_attempts(void **state) {
    (void)state;
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    Nodelink__V1__AttemptRecord first = NODELINK__V1__ATTEMPT_RECORD__INIT;
    Nodelink__V1__AttemptRecord *list[] = {&first};
    Nodelink__V1__AttemptRecords earlier = NODELINK__V1__ATTEMPT_RECORDS__INIT;
    Nodelink__V1__Task task = NODELINK__V1__TASK__INIT;
    earlier.n_attempts = 1;
    earlier.attempts = list;
    task.earlier = &earlier;
    task.attempt = 2;
    task.state = STATE(FAILED);
    first.result = &result;
    result.kind = KIND(EXITED);
    result.exit_code = 9;
    assert_int_equal(nl_verdict_of_task(&task, false).exit_code, 9);
    result.kind = KIND(TIMED_OUT);
    assert_int_equal(nl_verdict_of_task(&task, false).exit_code, 124);
    result.kind = KIND(NOT_STARTED);
    assert_int_equal(nl_verdict_of_task(&task, false).exit_code, 126);
    first.result = NULL;  // it may have run
    assert_int_equal(nl_verdict_of_task(&task, false).exit_code, 127);
    task.dispatched_ms = 1;  // the second one too
    assert_int_equal(nl_verdict_of_task(&task, false).exit_code, 127);
}

static int submit_exit(enum nl_rpc_code code, enum nl_client_outcome outcome) {
    struct nl_client_error error = {.code = code, .outcome = outcome};
    return nl_verdict_of_submit(&error).exit_code;
}

static void test_submits(void **state) {
    (void)state;
    assert_int_equal(submit_exit(NL_RPC_NOT_FOUND, NL_CLIENT_FAILED), 126);
    assert_int_equal(submit_exit(NL_RPC_FAILED_PRECONDITION, NL_CLIENT_FAILED), 126);
    assert_int_equal(submit_exit(NL_RPC_UNAVAILABLE, NL_CLIENT_FAILED), 125);
    assert_int_equal(submit_exit(NL_RPC_ALREADY_EXISTS, NL_CLIENT_FAILED), 125);
    assert_int_equal(submit_exit(NL_RPC_UNAUTHENTICATED, NL_CLIENT_FAILED), 125);
    assert_int_equal(submit_exit(NL_RPC_UNAVAILABLE, NL_CLIENT_UNKNOWN), 127);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_attempts),
        cmocka_unit_test(test_submits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
