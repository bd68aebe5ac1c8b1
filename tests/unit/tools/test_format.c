#include "tools/format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_sizes(void **state) {
    (void)state;
    char out[32];
    assert_string_equal(nl_format_size(out, 0), "0");
    assert_string_equal(nl_format_size(out, 1023), "1023");
    assert_string_equal(nl_format_size(out, 1024), "1.0KiB");
    assert_string_equal(nl_format_size(out, 1536), "1.5KiB");
    assert_string_equal(nl_format_size(out, 3ull << 30), "3.0GiB");
    assert_string_equal(nl_format_size(out, UINT64_MAX), "15.9EiB");
}

static void test_times(void **state) {
    (void)state;
    char out[32];
    assert_string_equal(nl_format_us(out, 0), "-");
    assert_string_equal(nl_format_us(out, 850), "850us");
    assert_string_equal(nl_format_us(out, 1800), "1.8ms");
    assert_string_equal(nl_format_us(out, 2450000), "2.4s");
    assert_string_equal(nl_format_age(out, UINT64_MAX), "-");
    assert_string_equal(nl_format_age(out, 192000), "3m12s");
    assert_string_equal(nl_format_time(out, 0), "-");
    assert_string_equal(nl_format_time(out, 1000), "1970-01-01T00:00:01Z");
}

static void test_states(void **state) {
    (void)state;
    assert_string_equal(nl_format_task_state(NODELINK__V1__TASK_STATE__TASK_TIMED_OUT),
                        "timed_out");
    assert_string_equal(nl_format_task_state((Nodelink__V1__TaskState)99), "unspecified");
    for (int i = 1; i <= NODELINK__V1__TASK_STATE__TASK_CANCELLED; i++) {
        Nodelink__V1__TaskState s = (Nodelink__V1__TaskState)i;
        assert_int_equal(nl_parse_task_state(nl_format_task_state(s)), s);
    }
    assert_int_equal(nl_parse_task_state("nonsense"), 0);
    assert_false(nl_task_is_terminal(NODELINK__V1__TASK_STATE__TASK_UNKNOWN));
    assert_true(nl_task_is_terminal(NODELINK__V1__TASK_STATE__TASK_COMPLETED));
}

static void test_table(void **state) {
    (void)state;
    static const char *const TITLES[] = {"A", "LONG", "C", NULL};
    struct nl_table table;
    char *text = NULL;
    size_t len = 0;
    nl_table_init(&table, TITLES);
    const char *cells[] = {"1", "x", "end", "\xc3\xa4\xc3\xb6", "a\nb\x1b[2J", ""};
    for (size_t i = 0; i < 6; i++) {
        nl_table_add(&table, "%s", cells[i]);
    }
    FILE *out = open_memstream(&text, &len);
    nl_table_print(&table, out);
    fclose(out);
    assert_string_equal(text,
                        "A   LONG         C\n"
                        "1   x            end\n"
                        "\xc3\xa4\xc3\xb6  a\\nb\\x1b[2J  -\n");
    free(text);
    nl_table_close(&table);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
