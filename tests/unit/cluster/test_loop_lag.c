#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "cluster/internal.h"
#include "common/base/clock.h"

enum { SECOND = 1000000 };

static void windows(void **state) {
    (void)state;
    struct nl_loop_lag lag = {.second = {.length_us = SECOND},
                              .minute = {.length_us = 30 * SECOND}};
    nl_loop_lag_add(&lag, 100, 70);
    nl_loop_lag_add(&lag, 200, 5000);
    nl_loop_lag_add(&lag, 300, 60);
    assert_int_equal(nl_loop_lag_recent(&lag.second), 5000);
    nl_loop_lag_add(&lag, SECOND + 1, 10);
    assert_int_equal(nl_loop_lag_recent(&lag.second), 5000);  // still the second before
    nl_loop_lag_add(&lag, 2 * SECOND + 2, 11);
    assert_int_equal(nl_loop_lag_recent(&lag.second), 11);
    assert_int_equal(nl_loop_lag_recent(&lag.minute), 5000);
    assert_int_equal(lag.max_us, 5000);
    nl_loop_lag_add(&lag, 500ull * SECOND, 3);  // nothing for a long time: old values don't stay
    assert_int_equal(nl_loop_lag_recent(&lag.minute), 3);
    assert_int_equal(lag.max_us, 5000);
}

struct rig {
    uv_prepare_t prepare;
    uv_timer_t timer;
    struct nl_loop_lag lag;
    unsigned fired;
    uint64_t busy_us;  // of the slow callback, as seen from outside
};

static void on_prepare(uv_prepare_t *prepare) {
    struct rig *rig = prepare->data;
    nl_loop_lag_turn(&rig->lag, prepare->loop);
}

static void on_timer(uv_timer_t *timer) {
    struct rig *rig = timer->data;
    uint64_t start = nl_clock_mono_us();
    if (++rig->fired == 3) {
        uv_stop(timer->loop);
    }
    if (rig->fired == 2) {
        while (nl_clock_mono_us() - start < 30000) {
        }
        rig->busy_us = nl_clock_mono_us() - start;
    }
}

// Waiting for a timer is no lag, a callback that takes its time is.
static void real_loop(void **state) {
    (void)state;
    uv_loop_t loop;
    static struct rig rig;
    assert_int_equal(uv_loop_init(&loop), 0);
    uv_prepare_init(&loop, &rig.prepare);
    uv_timer_init(&loop, &rig.timer);
    rig.prepare.data = rig.timer.data = &rig;
    nl_loop_lag_open(&rig.lag, &loop);
    uv_prepare_start(&rig.prepare, on_prepare);
    uv_timer_start(&rig.timer, on_timer, 100, 100);
    uint64_t start = nl_clock_mono_us();
    uv_run(&loop, UV_RUN_DEFAULT);
    uint64_t total_us = nl_clock_mono_us() - start;
    assert_true(rig.lag.max_us >= rig.busy_us);
    // 300 ms went by, of which at least 200 were waiting.
    assert_true(rig.lag.max_us < total_us - 150000);
    uv_close((uv_handle_t *)&rig.prepare, NULL);
    uv_close((uv_handle_t *)&rig.timer, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows),
        cmocka_unit_test(real_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
