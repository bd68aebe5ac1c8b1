// Latencies in microseconds over the last half to whole minute. Pure; time is given.
#ifndef NODELINK_CLUSTER_RAFT_HISTOGRAM_H
#define NODELINK_CLUSTER_RAFT_HISTOGRAM_H

#include <stdint.h>

#define NL_HISTOGRAM_BUCKETS 160  // 4 per power of two

struct nl_histogram {
    uint32_t buckets[2][NL_HISTOGRAM_BUCKETS];  // current and previous window
    uint64_t count[2];
    unsigned current;
    uint64_t window_start_ms;
};

void nl_histogram_add(struct nl_histogram *h, uint64_t value_us, uint64_t now_ms);
// Upper bound of the bucket the percentile (0..100) falls in; 0 without values.
uint64_t nl_histogram_percentile(const struct nl_histogram *h, unsigned percent);

#endif
