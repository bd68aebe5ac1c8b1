#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "common/base/histogram.h"

enum { N = 20000 };

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void empty_and_small(void **state) {
    (void)state;
    static struct nl_histogram h;
    assert_int_equal(nl_histogram_percentile(&h, 99), 0);
    for (uint64_t v = 1; v <= 60; v++) {
        nl_histogram_add(&h, v);
    }
    assert_int_equal(nl_histogram_percentile(&h, 0), 1);
    assert_int_equal(nl_histogram_percentile(&h, 50), 30);
    assert_int_equal(nl_histogram_percentile(&h, 99), 60);
    assert_int_equal(nl_histogram_percentile(&h, 100), 60);
    assert_int_equal(h.count, 60);
}

// Against sorting: never below the true value, at most 3.2 % above it.
static void close_to_sorted(void **state) {
    (void)state;
    static struct nl_histogram h;
    static uint64_t values[N];
    static const double percents[] = {1, 10, 50, 90, 99, 99.9, 100};
    uint64_t seed = 42;
    for (size_t i = 0; i < N; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = (seed >> 33) % ((uint64_t)1 << (1 + (seed >> 20) % 30));
        nl_histogram_add(&h, values[i]);
    }
    qsort(values, N, sizeof *values, by_value);
    for (size_t i = 0; i < sizeof percents / sizeof *percents; i++) {
        size_t rank = (size_t)((double)N * percents[i] / 100.0 + 0.5);
        uint64_t truth = values[rank - 1];
        uint64_t got = nl_histogram_percentile(&h, percents[i]);
        assert_true(got >= truth);
        assert_true((double)got <= (double)truth * 1.032);
    }
    assert_int_equal(nl_histogram_percentile(&h, 100), values[N - 1]);
}

static void huge_values_count(void **state) {
    (void)state;
    static struct nl_histogram h;
    nl_histogram_add(&h, UINT64_MAX);
    nl_histogram_add(&h, 5);
    assert_int_equal(nl_histogram_percentile(&h, 50), 5);
    assert_int_equal(h.max, UINT64_MAX);
    assert_true(nl_histogram_percentile(&h, 100) >= (uint64_t)1 << 39);
}

static void merging_adds(void **state) {
    (void)state;
    static struct nl_histogram a, b;
    nl_histogram_add(&a, 10);
    nl_histogram_add(&b, 1000);
    nl_histogram_add(&b, 20);
    nl_histogram_merge(&a, &b);
    assert_int_equal(a.count, 3);
    assert_int_equal(a.max, 1000);
    assert_int_equal(nl_histogram_percentile(&a, 50), 20);
}

static void recent_forgets(void **state) {
    (void)state;
    static struct nl_histogram_recent h;
    nl_histogram_recent_add(&h, 5000, 100000);
    nl_histogram_recent_add(&h, 10, 131000);
    assert_int_equal(nl_histogram_recent_percentile(&h, 99), 5000);
    nl_histogram_recent_add(&h, 20, 162000);
    assert_int_equal(nl_histogram_recent_percentile(&h, 99), 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_and_small),   cmocka_unit_test(close_to_sorted),
        cmocka_unit_test(huge_values_count), cmocka_unit_test(merging_adds),
        cmocka_unit_test(recent_forgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
