// Deadlines of tasks, and where the tail of a result is.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/link/fixture.h"

#define RUNNING NODELINK__V1__TASK_REF__PHASE__RUNNING
#define FINISHED NODELINK__V1__TASK_REF__PHASE__FINISHED

// ---- deadlines -----------------------------------------------------------------

static void a_deadline_to_finish_is_a_timeout(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell_within(&f, 1, "t1", 1, 0, 0, 5000);
    fx_shell_within(&f, 1, "t2", 1, 3000, 0, 5000);
    fx_shell_within(&f, 1, "t3", 1, 7000, 100, 5000);
    fx_shell_within(&f, 1, "t4", 1, 7000, 0, 0);
    fx_expect(&f,
              "sup run t1/1 timeout=5000\nsup run t2/1 timeout=3000\nsup run t3/1 timeout=5000\n"
              "sup run t4/1 timeout=7000\n");
    // To another supervisor, which never got them: what is left counts.
    fx_sup_down(&f);
    fx_advance_alive(&f, 1, 3000);
    fx_forget(&f);
    fx_attach(&f, 0);
    fx_expect(&f,
              "sup attach\nsup run t1/1 timeout=2000\nsup run t2/1 timeout=2000\n"
              "1: final t3 failure exit=-1 not-started 'not started by its deadline'\n"
              "sup run t4/1 timeout=7000\n");
    fx_close(&f);
}

static void what_was_not_started_in_time_never_is(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_sup_down(&f);
    fx_shell_within(&f, 1, "t", 1, 0, 500, 0);
    fx_advance(&f, 600);
    fx_forget(&f);
    fx_attach(&f, 0);
    fx_expect(&f,
              "sup attach\n1: final t failure exit=-1 not-started 'not started by its deadline'\n");
    fx_shell_within(&f, 1, "t", 1, 0, 500, 0);  // sent again: answered, not run
    fx_expect(&f, "1: final t failure exit=-1 not-started 'not started by its deadline'\n");
    fx_ack(&f, 1, "t");
    fx_close(&f);
}

// ---- tails ---------------------------------------------------------------------

static void a_result_says_where_its_tail_is(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_sup_spool(&f, "t", 30, 100, 0);
    fx_sup_task(&f, "t", FINISHED, 100);
    assert_int_equal(f.tail_base, 30);
    assert_int_equal(f.tail_end, 100);
    fx_shell(&f, 1, "u", 1);
    fx_sup_task(&f, "u", FINISHED, 0);
    assert_int_equal(f.tail_end, 0);
    fx_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_deadline_to_finish_is_a_timeout),
        cmocka_unit_test(what_was_not_started_in_time_never_is),
        cmocka_unit_test(a_result_says_where_its_tail_is),
    };
    return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
