// What a benchmark counts: latencies of operations, errors by code, the longest time without a
// success. Pure; time is given, in microseconds of the monotonic clock.
#ifndef NODELINK_TOOLS_BENCH_STATS_H
#define NODELINK_TOOLS_BENCH_STATS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/histogram.h"
#include "common/rpc/rpc.h"

// gRPC's codes, and what can be wrong with a call that gRPC finds well.
enum nl_bench_error {
    NL_BENCH_TASK_FAILED = NL_RPC_UNAUTHENTICATED + 1,  // it ran, and did not end well
    NL_BENCH_WRONG_OUTPUT,                              // bytes are missing or not what was written
    NL_BENCH_STREAM_LOST,                               // an agent's stream broke
    NL_BENCH_N_ERRORS,
};
const char *nl_bench_error_name(unsigned error);

struct nl_bench_stats {
    struct nl_histogram latency_us;  // of successes that ended inside the interval
    uint64_t from_us, until_us;      // the measured interval: warm-up and what comes after are out
    uint64_t last_ok_us;             // 0: none yet
    uint64_t longest_gap_us;
    uint64_t errors;  // since from_us, those after until_us included
    uint64_t by_code[NL_BENCH_N_ERRORS];
    char first_error[256];
};

void nl_bench_stats_init(struct nl_bench_stats *s, uint64_t from_us, uint64_t until_us);
void nl_bench_stats_ok(struct nl_bench_stats *s, uint64_t began_us, uint64_t now_us);
void nl_bench_stats_error(struct nl_bench_stats *s, uint64_t now_us, unsigned error,
                          const char *text);
// The run ended, maybe before its time.
void nl_bench_stats_stop(struct nl_bench_stats *s, uint64_t now_us);
double nl_bench_stats_rate(const struct nl_bench_stats *s, uint64_t now_us);  // per second
// {"ops_per_s","p50_us","p99_us","max_us","errors", ...}; NULL: no memory.
json_t *nl_bench_stats_json(const struct nl_bench_stats *s);
// {"p50_us","p90_us","p99_us","p999_us","max_us","count"} of any histogram.
json_t *nl_bench_histogram_json(const struct nl_histogram *h);

#endif
