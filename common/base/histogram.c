#include "common/base/histogram.h"

#include <string.h>

enum { EXACT = 64, PER_OCTAVE = 32, FIRST_OCTAVE = 6, WINDOW_MS = 30000 };

static unsigned bucket_of(uint64_t v) {
    if (v < EXACT) {
        return (unsigned)v;
    }
    unsigned log = 63u - (unsigned)__builtin_clzll(v);
    unsigned within = (unsigned)(v >> (log - 5)) - PER_OCTAVE;
    unsigned bucket = EXACT + (log - FIRST_OCTAVE) * PER_OCTAVE + within;
    return bucket < NL_HISTOGRAM_BUCKETS ? bucket : NL_HISTOGRAM_BUCKETS - 1;
}

static uint64_t upper_bound_of(unsigned bucket) {
    if (bucket < EXACT) {
        return bucket;
    }
    unsigned log = (bucket - EXACT) / PER_OCTAVE + FIRST_OCTAVE;
    uint64_t within = (bucket - EXACT) % PER_OCTAVE;
    return ((PER_OCTAVE + within + 1) << (log - 5)) - 1;
}

void nl_histogram_add(struct nl_histogram *h, uint64_t value) {
    h->buckets[bucket_of(value)]++;
    h->count++;
    h->max = value > h->max ? value : h->max;
}

void nl_histogram_merge(struct nl_histogram *to, const struct nl_histogram *from) {
    for (unsigned i = 0; i < NL_HISTOGRAM_BUCKETS; i++) {
        to->buckets[i] += from->buckets[i];
    }
    to->count += from->count;
    to->max = from->max > to->max ? from->max : to->max;
}

// The rank of a percentile, from 1: the smallest whole number not below count * percent / 100.
static uint64_t rank_of(uint64_t count, double percent) {
    double exact = (double)count * percent / 100.0;
    uint64_t rank = (uint64_t)exact;
    rank += (double)rank < exact;
    return rank > 0 ? rank : 1;
}

static uint64_t percentile(const struct nl_histogram *a, const struct nl_histogram *b,
                           double percent) {
    uint64_t count = a->count + b->count;
    uint64_t max = a->max > b->max ? a->max : b->max;
    uint64_t seen = 0;
    if (count == 0) {
        return 0;
    }
    uint64_t rank = rank_of(count, percent);
    for (unsigned i = 0; i < NL_HISTOGRAM_BUCKETS; i++) {
        seen += (uint64_t)a->buckets[i] + b->buckets[i];
        if (seen >= rank) {
            return upper_bound_of(i) < max ? upper_bound_of(i) : max;
        }
    }
    return max;
}

uint64_t nl_histogram_percentile(const struct nl_histogram *h, double percent) {
    static const struct nl_histogram none;
    return percentile(h, &none, percent);
}

void nl_histogram_recent_add(struct nl_histogram_recent *h, uint64_t value, uint64_t now_ms) {
    if (now_ms - h->window_start_ms >= WINDOW_MS) {
        h->current ^= 1;
        memset(&h->windows[h->current], 0, sizeof h->windows[0]);
        h->window_start_ms = now_ms;
    }
    nl_histogram_add(&h->windows[h->current], value);
}

uint64_t nl_histogram_recent_percentile(const struct nl_histogram_recent *h, double percent) {
    return percentile(&h->windows[0], &h->windows[1], percent);
}
