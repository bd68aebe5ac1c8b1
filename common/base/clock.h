// Clocks. Liveness and timeouts use the monotonic clock; the wall clock is for stamps
// that people read.
#ifndef NODELINK_COMMON_BASE_CLOCK_H
#define NODELINK_COMMON_BASE_CLOCK_H

#include <stdint.h>

uint64_t nl_clock_mono_ns(void);
uint64_t nl_clock_mono_us(void);
uint64_t nl_clock_mono_ms(void);
uint64_t nl_clock_wall_ms(void);

#endif
