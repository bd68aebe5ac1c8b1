#include "cluster/raft/histogram.h"

#include <string.h>

enum { WINDOW_MS = 30000 };

static unsigned bucket_of(uint64_t v) {
    if (v < 4) {
        return (unsigned)v;
    }
    unsigned log = 63u - (unsigned)__builtin_clzll(v);
    unsigned bucket = 4 * (log - 1) + (unsigned)((v >> (log - 2)) & 3);
    return bucket < NL_HISTOGRAM_BUCKETS ? bucket : NL_HISTOGRAM_BUCKETS - 1;
}

static uint64_t upper_bound_of(unsigned bucket) {
    if (bucket < 4) {
        return bucket;
    }
    unsigned log = bucket / 4 + 1;
    return ((uint64_t)(4 + bucket % 4 + 1) << (log - 2)) - 1;
}

void nl_histogram_add(struct nl_histogram *h, uint64_t value_us, uint64_t now_ms) {
    if (now_ms - h->window_start_ms >= WINDOW_MS) {
        h->current ^= 1;
        memset(h->buckets[h->current], 0, sizeof h->buckets[0]);
        h->count[h->current] = 0;
        h->window_start_ms = now_ms;
    }
    h->buckets[h->current][bucket_of(value_us)]++;
    h->count[h->current]++;
}

uint64_t nl_histogram_percentile(const struct nl_histogram *h, unsigned percent) {
    uint64_t total = h->count[0] + h->count[1];
    uint64_t want = (total * percent + 99) / 100;
    uint64_t seen = 0;
    if (total == 0) {
        return 0;
    }
    for (unsigned i = 0; i < NL_HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[0][i] + h->buckets[1][i];
        if (seen >= want) {
            return upper_bound_of(i);
        }
    }
    return upper_bound_of(NL_HISTOGRAM_BUCKETS - 1);
}
