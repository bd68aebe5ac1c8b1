#include "common/base/clock.h"

#include <assert.h>
#include <time.h>

static uint64_t read_ns(clockid_t id) {
    struct timespec ts;
    int rv = clock_gettime(id, &ts);
    assert(rv == 0);  // both clocks exist on every Linux
    (void)rv;
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t nl_clock_mono_ns(void) {
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t nl_clock_mono_us(void) {
    return read_ns(CLOCK_MONOTONIC) / 1000u;
}

uint64_t nl_clock_mono_ms(void) {
    return read_ns(CLOCK_MONOTONIC) / 1000000u;
}

uint64_t nl_clock_wall_ms(void) {
    return read_ns(CLOCK_REALTIME) / 1000000u;
}
