// How long the loop thread was away from its queue of events: libuv's time in a turn, less the
// time it waited in it. A timer's delay would miss most stalls that are shorter than its period.

#include "cluster/internal.h"
#include "common/base/clock.h"

enum { SECOND_US = 1000000 };

void nl_loop_lag_open(struct nl_loop_lag *lag, uv_loop_t *loop) {
    uv_loop_configure(loop, UV_METRICS_IDLE_TIME);
    *lag =
        (struct nl_loop_lag){.turn_us = nl_clock_mono_us(), .idle_ns = uv_metrics_idle_time(loop)};
    lag->second = (struct nl_loop_lag_window){.length_us = SECOND_US, .start_us = lag->turn_us};
    lag->minute =
        (struct nl_loop_lag_window){.length_us = 30 * SECOND_US, .start_us = lag->turn_us};
}

static void window_add(struct nl_loop_lag_window *w, uint64_t now_us, uint64_t turn_us) {
    if (now_us - w->start_us >= w->length_us) {
        // Nothing was added for longer than a window: the one before was empty, too.
        bool adjacent = now_us - w->start_us < 2 * w->length_us;
        w->max_us[1] = adjacent ? w->max_us[0] : 0;
        w->max_us[0] = 0;
        w->start_us = now_us;
    }
    w->max_us[0] = turn_us > w->max_us[0] ? turn_us : w->max_us[0];
}

void nl_loop_lag_add(struct nl_loop_lag *lag, uint64_t now_us, uint64_t turn_us) {
    window_add(&lag->second, now_us, turn_us);
    window_add(&lag->minute, now_us, turn_us);
    lag->max_us = turn_us > lag->max_us ? turn_us : lag->max_us;
}

void nl_loop_lag_turn(struct nl_loop_lag *lag, uv_loop_t *loop) {
    uint64_t now_us = nl_clock_mono_us();
    uint64_t idle_ns = uv_metrics_idle_time(loop);
    uint64_t waited_us = (idle_ns - lag->idle_ns) / 1000;
    uint64_t turn_us = now_us - lag->turn_us;
    nl_loop_lag_add(lag, now_us, turn_us > waited_us ? turn_us - waited_us : 0);
    lag->turn_us = now_us;
    lag->idle_ns = idle_ns;
}

uint64_t nl_loop_lag_recent(const struct nl_loop_lag_window *window) {
    return window->max_us[0] > window->max_us[1] ? window->max_us[0] : window->max_us[1];
}
