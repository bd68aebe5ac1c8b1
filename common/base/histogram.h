// Latencies (or any unsigned numbers), counted in buckets at most 3 % wide, so that a percentile
// costs a scan and no sorting. Pure; time is given. Not thread-safe.
#ifndef NODELINK_COMMON_BASE_HISTOGRAM_H
#define NODELINK_COMMON_BASE_HISTOGRAM_H

#include <stdint.h>

// Values below 64 exactly, then 32 per power of two up to 2^40 (12 days in microseconds).
#define NL_HISTOGRAM_BUCKETS (64 + 34 * 32)

// Zeroed: empty.
struct nl_histogram {
    uint32_t buckets[NL_HISTOGRAM_BUCKETS];
    uint64_t count;
    uint64_t max;
};

void nl_histogram_add(struct nl_histogram *h, uint64_t value);
void nl_histogram_merge(struct nl_histogram *to, const struct nl_histogram *from);
// Upper bound of the bucket the percentile (0..100) falls in, at most the maximum; 0 without
// values.
uint64_t nl_histogram_percentile(const struct nl_histogram *h, double percent);

// The values of the last half to whole minute.
struct nl_histogram_recent {
    struct nl_histogram windows[2];
    unsigned current;
    uint64_t window_start_ms;
};

void nl_histogram_recent_add(struct nl_histogram_recent *h, uint64_t value, uint64_t now_ms);
uint64_t nl_histogram_recent_percentile(const struct nl_histogram_recent *h, double percent);

#endif
