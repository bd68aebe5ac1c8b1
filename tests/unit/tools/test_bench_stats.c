#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "tools/bench/stats.h"

enum { SECOND = 1000000 };

static struct nl_bench_stats s;

static json_int_t number(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

static int setup(void **state) {
    (void)state;
    nl_bench_stats_init(&s, 10 * SECOND, 20 * SECOND);
    return 0;
}

// What began before or ended after the interval is not measured.
static void only_the_interval_counts(void **state) {
    (void)state;
    nl_bench_stats_ok(&s, 9 * SECOND, 9 * SECOND + 500);
    nl_bench_stats_ok(&s, 10 * SECOND - 1, 10 * SECOND + 500);
    nl_bench_stats_ok(&s, 10 * SECOND, 10 * SECOND + 100);
    nl_bench_stats_ok(&s, 20 * SECOND - 300, 20 * SECOND);
    nl_bench_stats_ok(&s, 20 * SECOND - 300, 20 * SECOND + 1);
    assert_int_equal(s.latency_us.count, 2);
    assert_int_equal(s.latency_us.max, 300);
}

static void errors_by_code(void **state) {
    (void)state;
    nl_bench_stats_error(&s, 9 * SECOND, NL_RPC_UNAVAILABLE, "in the warm-up");
    nl_bench_stats_error(&s, 11 * SECOND, NL_RPC_UNAVAILABLE, "first");
    nl_bench_stats_error(&s, 11 * SECOND, NL_BENCH_TASK_FAILED, "second");
    nl_bench_stats_error(&s, 21 * SECOND, NL_RPC_DEADLINE_EXCEEDED, "after the end");
    nl_bench_stats_error(&s, 12 * SECOND, 12345, "no such code");
    nl_bench_stats_stop(&s, 20 * SECOND);
    json_t *object = nl_bench_stats_json(&s);
    json_t *codes = json_object_get(object, "errors_by_code");
    assert_int_equal(number(object, "errors"), 4);
    assert_int_equal(number(codes, "UNAVAILABLE"), 1);
    assert_int_equal(number(codes, "TASK_FAILED"), 1);
    assert_int_equal(number(codes, "DEADLINE_EXCEEDED"), 1);
    assert_int_equal(number(codes, "UNKNOWN"), 1);
    assert_int_equal(json_object_size(codes), 4);
    assert_string_equal(s.first_error, "UNAVAILABLE: first");
    json_decref(object);
}

static void rate_and_keys(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        nl_bench_stats_ok(&s, 10 * SECOND + i * 1000, 10 * SECOND + i * 1000 + 1 + i % 50);
    }
    nl_bench_stats_stop(&s, 12 * SECOND);  // ended early
    json_t *object = nl_bench_stats_json(&s);
    assert_int_equal(json_real_value(json_object_get(object, "ops_per_s")), 500);
    assert_int_equal(number(object, "p50_us"), 25);
    assert_int_equal(number(object, "p99_us"), 50);
    assert_int_equal(number(object, "max_us"), 50);
    assert_int_equal(number(object, "errors"), 0);
    assert_int_equal(number(object, "ops"), 1000);
    json_decref(object);
}

static void longest_gap(void **state) {
    (void)state;
    nl_bench_stats_ok(&s, 11 * SECOND, 11 * SECOND + 100);
    nl_bench_stats_ok(&s, 14 * SECOND, 14 * SECOND + 100);
    nl_bench_stats_stop(&s, 25 * SECOND);
    assert_int_equal(s.until_us, 20 * SECOND);
    // From 14.0001 to the end, longer than the three seconds in the middle.
    assert_int_equal(s.longest_gap_us, 6 * SECOND - 100);
}

static void nothing_at_all(void **state) {
    (void)state;
    nl_bench_stats_stop(&s, 5 * SECOND);  // before the warm-up was over
    json_t *object = nl_bench_stats_json(&s);
    assert_int_equal(json_real_value(json_object_get(object, "ops_per_s")), 0);
    assert_int_equal(number(object, "max_us"), 0);
    assert_int_equal(json_real_value(json_object_get(object, "seconds")), 0);
    json_decref(object);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(only_the_interval_counts, setup),
        cmocka_unit_test_setup(errors_by_code, setup),
        cmocka_unit_test_setup(rate_and_keys, setup),
        cmocka_unit_test_setup(longest_gap, setup),
        cmocka_unit_test_setup(nothing_at_all, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
