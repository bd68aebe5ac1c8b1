#include "tools/bench/stats.h"

#include <stdio.h>

static const char *const OWN_NAMES[] = {"TASK_FAILED", "WRONG_OUTPUT", "STREAM_LOST"};

const char *nl_bench_error_name(unsigned error) {
    if (error < NL_BENCH_TASK_FAILED) {
        return nl_rpc_code_name((enum nl_rpc_code)error);
    }
    return error < NL_BENCH_N_ERRORS ? OWN_NAMES[error - NL_BENCH_TASK_FAILED] : "?";
}

void nl_bench_stats_init(struct nl_bench_stats *s, uint64_t from_us, uint64_t until_us) {
    *s = (struct nl_bench_stats){.from_us = from_us, .until_us = until_us};
}

static void note_gap(struct nl_bench_stats *s, uint64_t now_us) {
    uint64_t since = s->last_ok_us > s->from_us ? s->last_ok_us : s->from_us;
    uint64_t gap = now_us > since ? now_us - since : 0;
    s->longest_gap_us = gap > s->longest_gap_us ? gap : s->longest_gap_us;
}

void nl_bench_stats_ok(struct nl_bench_stats *s, uint64_t began_us, uint64_t now_us) {
    if (began_us < s->from_us || now_us > s->until_us) {
        return;
    }
    note_gap(s, now_us);
    s->last_ok_us = now_us;
    nl_histogram_add(&s->latency_us, now_us - began_us);
}

void nl_bench_stats_error(struct nl_bench_stats *s, uint64_t now_us, unsigned error,
                          const char *text) {
    if (now_us < s->from_us) {
        return;
    }
    s->errors++;
    s->by_code[error < NL_BENCH_N_ERRORS ? error : NL_RPC_UNKNOWN]++;
    if (s->first_error[0] == '\0') {
        snprintf(s->first_error, sizeof s->first_error, "%s: %s", nl_bench_error_name(error), text);
    }
}

void nl_bench_stats_stop(struct nl_bench_stats *s, uint64_t now_us) {
    s->until_us = now_us < s->until_us ? now_us : s->until_us;
    s->until_us = s->until_us > s->from_us ? s->until_us : s->from_us;
    note_gap(s, s->until_us);
}

double nl_bench_stats_rate(const struct nl_bench_stats *s, uint64_t now_us) {
    uint64_t until = now_us < s->until_us ? now_us : s->until_us;
    return until > s->from_us ? (double)s->latency_us.count * 1e6 / (double)(until - s->from_us)
                              : 0;
}

static json_t *number(uint64_t value) {
    return json_integer((json_int_t)(value < INT64_MAX ? value : INT64_MAX));
}

static void set_percentiles(json_t *object, const struct nl_histogram *h) {
    json_object_set_new(object, "p50_us", number(nl_histogram_percentile(h, 50)));
    json_object_set_new(object, "p90_us", number(nl_histogram_percentile(h, 90)));
    json_object_set_new(object, "p99_us", number(nl_histogram_percentile(h, 99)));
    json_object_set_new(object, "p999_us", number(nl_histogram_percentile(h, 99.9)));
    json_object_set_new(object, "max_us", number(h->max));
}

json_t *nl_bench_histogram_json(const struct nl_histogram *h) {
    json_t *object = json_object();
    set_percentiles(object, h);
    json_object_set_new(object, "count", number(h->count));
    return object;
}

json_t *nl_bench_stats_json(const struct nl_bench_stats *s) {
    json_t *object = json_object();
    json_t *codes = json_object();
    json_object_set_new(object, "ops_per_s", json_real(nl_bench_stats_rate(s, s->until_us)));
    set_percentiles(object, &s->latency_us);
    json_object_set_new(object, "errors", number(s->errors));
    json_object_set_new(object, "ops", number(s->latency_us.count));
    json_object_set_new(object, "seconds", json_real((double)(s->until_us - s->from_us) / 1e6));
    json_object_set_new(object, "longest_gap_us", number(s->longest_gap_us));
    for (unsigned i = 0; i < NL_BENCH_N_ERRORS; i++) {
        if (s->by_code[i] > 0) {
            json_object_set_new(codes, nl_bench_error_name(i), number(s->by_code[i]));
        }
    }
    json_object_set_new(object, "errors_by_code", codes);
    return object;
}
