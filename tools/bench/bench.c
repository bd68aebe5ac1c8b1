#include "tools/bench/bench.h"

#include <nodelink/v1/control.pb-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "tools/format.h"
#include "tools/interrupt.h"
#include "tools/probe.h"

enum {
    TICK_MS = 10,
    DRAW_US = 200000,
    PROBE_US = 500000,
    PROBE_MS = 1500,
    // A node tells its longest loop turn of the last two seconds: younger answers would hold
    // what was before the interval.
    LAG_WINDOW_US = 2000000,
    DRAIN_MS = 15000,
};

// ---- the line on the terminal ----------------------------------------------

void nl_bench_draw(struct nl_bench *b, const char *text) {
    if (!b->terminal || (*text == '\0' && !b->drawn)) {
        return;
    }
    fprintf(stderr, "\r\033[K%s", text);
    fflush(stderr);
    b->drawn = *text != '\0';
}

static void draw_run(struct nl_bench *b, uint64_t now_us) {
    char line[256], more[96] = "";
    if (!b->terminal || now_us < b->draw_at_us) {
        return;
    }
    b->draw_at_us = now_us + DRAW_US;
    if (b->load->progress != NULL) {
        b->load->progress(b->user, more, sizeof more);
    }
    const struct nl_bench_stats *s = &b->stats;
    if (now_us < s->from_us) {
        snprintf(line, sizeof line, "warming up%s", more);
    } else {
        uint64_t whole = (s->until_us - s->from_us) / 1000000;
        snprintf(line, sizeof line,
                 "%llu of %llu s: %.0f/s, p50 %llu us, p99 %llu us, %llu errors%s",
                 (unsigned long long)((now_us - s->from_us) / 1000000), (unsigned long long)whole,
                 nl_bench_stats_rate(s, now_us),
                 (unsigned long long)nl_histogram_percentile(&s->latency_us, 50),
                 (unsigned long long)nl_histogram_percentile(&s->latency_us, 99),
                 (unsigned long long)s->errors, more);
    }
    nl_bench_draw(b, line);
}

// ---- the nodes -------------------------------------------------------------

static void on_status(void *user, const struct nl_rpc_status *status, ProtobufCMessage *message) {
    struct nl_bench_node *node = user;
    struct nl_bench *b = node->bench;
    const Nodelink__V1__GetStatusReply *reply = (const void *)message;
    node->asked = false;
    b->n_asked--;
    node->answered = status->code == NL_RPC_OK && reply != NULL;
    if (node->answered) {
        bool inside = nl_clock_mono_us() >= b->stats.from_us + LAG_WINDOW_US || b->stopped;
        if (inside && b->load != NULL && reply->loop_lag_us > node->loop_lag_max_us) {
            node->loop_lag_max_us = reply->loop_lag_us;
        }
        node->rss_bytes = reply->rss_bytes;
        node->agents = reply->agents;
        if (node->name == NULL) {
            node->name = strdup(reply->name);
        }
    }
    nl_rpc_message_free(message);
}

static void ask_nodes(struct nl_bench *b) {
    static const Nodelink__V1__GetStatusRequest request = NODELINK__V1__GET_STATUS_REQUEST__INIT;
    struct nl_rpc_call_options options = {.metadata = nl_client_metadata(b->client),
                                          .timeout_ms = PROBE_MS};
    for (size_t i = 0; i < b->n_nodes; i++) {
        struct nl_bench_node *node = &b->nodes[i];
        if (!node->asked &&
            nl_rpc_unary(node->channel, &nodelink__v1__control_service__descriptor, "GetStatus",
                         &options, &request.base, on_status, node, NULL) == NL_OK) {
            node->asked = true;
            b->n_asked++;
        }
    }
}

void nl_bench_ask_nodes(struct nl_bench *b) {
    ask_nodes(b);
    while (b->n_asked > 0) {
        uv_run(b->loop, UV_RUN_ONCE);
    }
}

static int open_node(struct nl_bench *b, const char *address) {
    struct nl_rpc_channel_options options = {
        .tls = b->cli->target.tls.ca_file != NULL ? &b->cli->target.tls : NULL,
        .connect_backoff_ms_max = 1000,
    };
    struct nl_bench_node *node = &b->nodes[b->n_nodes];
    *node = (struct nl_bench_node){.bench = b, .address = strdup(address)};
    if (node->address == NULL ||
        nl_rpc_channel_new(b->rpc, address, &options, &node->channel) != NL_OK) {
        free(node->address);
        return NL_ENOMEM;
    }
    b->n_nodes++;
    return NL_OK;
}

// All nodes of the cluster, those included that no load goes to: the leader works in any case.
static int find_nodes(struct nl_bench *b) {
    struct nl_probes probes = {0};
    int rc = nl_probes_run(b->client, &b->cli->target, true, PROBE_MS, &probes);
    size_t answers = 0;
    b->nodes = calloc(probes.count + 1, sizeof *b->nodes);
    for (size_t i = 0; b->nodes != NULL && rc == NL_OK && i < probes.count; i++) {
        if (probes.items[i].reply != NULL) {
            answers++;
            rc = open_node(b, probes.items[i].address);
        }
    }
    if (rc != NL_OK || b->nodes == NULL) {
        nl_cli_fail(b->cli, &(struct nl_failure){.code = "INTERNAL"}, "out of memory");
        rc = NL_EXIT_FAILED;
    } else if (answers == 0) {
        nl_cli_fail_call(b->cli, &probes.items[0].error, "benchmark the cluster");
        rc = NL_EXIT_UNREACHABLE;
    }
    nl_probes_close(&probes);
    return rc;
}

// ---- open and close --------------------------------------------------------

static void on_interrupt(void *user, unsigned count) {
    struct nl_bench *b = user;
    b->stopped = b->interrupted = true;
    b->abandoned = count > 1;
    nl_bench_draw(b, "");
    fprintf(stderr, count > 1
                        ? "nodelink: left; tokens and tasks named bench-* may be there\n"
                        : "nodelink: stopping and cleaning up; Ctrl-C again leaves at once\n");
}

// Each agent of a benchmark has a connection.
static void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int open_lines(struct nl_bench *b) {
    const struct nl_client_target *target = &b->cli->target;
    size_t each = b->options.connections > 0 ? b->options.connections : 1;
    struct nl_rpc_channel_options options = {
        .tls = target->tls.ca_file != NULL ? &target->tls : NULL,
        .connect_backoff_ms_max = 100,
    };
    b->lines = calloc(each * target->n_addresses, sizeof *b->lines);
    for (size_t i = 0; b->lines != NULL && i < each * target->n_addresses; i++) {
        struct nl_bench_line *line = &b->lines[i];
        line->address = target->addresses[i % target->n_addresses];
        if (nl_rpc_channel_new(b->rpc, line->address, &options, &line->channel) != NL_OK) {
            return NL_ENOMEM;
        }
        b->n_lines++;
    }
    return b->lines != NULL ? NL_OK : NL_ENOMEM;
}

int nl_bench_open(struct nl_bench *b, struct nl_cli *cli, const struct nl_bench_options *options) {
    char id[27];
    *b = (struct nl_bench){.cli = cli, .options = *options};
    b->terminal = isatty(STDERR_FILENO) == 1;
    nl_random_id(id);
    snprintf(b->run_id, sizeof b->run_id, "%s", id + sizeof id - sizeof b->run_id);
    raise_descriptor_limit();
    b->client = nl_cli_client(cli);
    if (b->client == NULL) {
        return NL_EXIT_FAILED;
    }
    b->loop = nl_client_loop(b->client);
    uv_timer_init(b->loop, &b->timer);
    b->timer.data = b;
    b->rpc = nl_client_rpc(b->client);
    if (open_lines(b) != NL_OK) {
        nl_cli_fail(cli, &(struct nl_failure){.code = "INTERNAL"}, "out of memory");
        return NL_EXIT_FAILED;
    }
    b->watching = nl_interrupt_watch(b->loop, on_interrupt, b) == NL_OK;
    return find_nodes(b);
}

void nl_bench_close(struct nl_bench *b) {
    if (b->client == NULL) {
        return;
    }
    for (size_t i = 0; i < b->n_lines; i++) {
        nl_rpc_channel_free(b->lines[i].channel);
    }
    for (size_t i = 0; i < b->n_nodes; i++) {
        nl_rpc_channel_free(b->nodes[i].channel);
        free(b->nodes[i].address);
        free(b->nodes[i].name);
    }
    uv_close((uv_handle_t *)&b->timer, NULL);
    if (b->watching) {
        nl_interrupt_close();
    }
    nl_client_free(b->client);
    free(b->lines);
    free(b->nodes);
}

// ---- the run ---------------------------------------------------------------

bool nl_bench_wants_more(const struct nl_bench *b) {
    return !b->stopped && (b->options.count == 0 || b->begun < b->options.count);
}

uint64_t nl_bench_begin(struct nl_bench *b) {
    b->in_flight++;
    b->begun++;
    return nl_clock_mono_us();
}

void nl_bench_ok(struct nl_bench *b, uint64_t began_us) {
    b->in_flight--;
    nl_bench_stats_ok(&b->stats, began_us, nl_clock_mono_us());
}

void nl_bench_error(struct nl_bench *b, unsigned error, const char *text) {
    b->in_flight--;
    nl_bench_stats_error(&b->stats, nl_clock_mono_us(), error, text);
}

void nl_bench_failed(struct nl_bench *b, const struct nl_rpc_status *status) {
    nl_bench_error(b, status->code != NL_RPC_OK ? status->code : NL_RPC_INTERNAL,
                   status->code != NL_RPC_OK ? status->message : "no reply");
}

static void on_tick(uv_timer_t *timer) {
    struct nl_bench *b = timer->data;
    uint64_t now_us = nl_clock_mono_us();
    if (now_us >= b->stats.until_us) {
        b->stopped = true;
    }
    if (now_us >= b->probe_at_us) {
        b->probe_at_us = now_us + PROBE_US;
        ask_nodes(b);
    }
    if (b->load->tick != NULL) {
        b->load->tick(b->user, now_us);
    }
    draw_run(b, now_us);
}

static void run_until_stopped(struct nl_bench *b) {
    uv_timer_start(&b->timer, on_tick, TICK_MS, TICK_MS);
    b->load->start(b->user);
    while (!b->stopped) {
        uv_run(b->loop, UV_RUN_ONCE);
        if (b->options.count > 0 && b->begun >= b->options.count && b->in_flight == 0) {
            b->stopped = true;
        }
    }
    nl_bench_stats_stop(&b->stats, nl_clock_mono_us());
}

void nl_bench_run(struct nl_bench *b, const struct nl_bench_load *load, void *user) {
    nl_bench_ask_nodes(b);
    for (size_t i = 0; i < b->n_nodes; i++) {
        b->nodes[i].rss_before = b->nodes[i].rss_bytes;
    }
    b->load = load;
    b->user = user;
    uint64_t from = nl_clock_mono_us() + b->options.warmup_ms * 1000;
    nl_bench_stats_init(&b->stats, from, from + b->options.duration_ms * 1000);
    run_until_stopped(b);
    uint64_t deadline = nl_clock_mono_ms() + DRAIN_MS;
    while (b->in_flight > 0 && !b->abandoned && nl_clock_mono_ms() < deadline) {
        uv_run(b->loop, UV_RUN_ONCE);
    }
    for (uint64_t i = b->in_flight; i > 0; i--) {
        nl_bench_stats_error(&b->stats, nl_clock_mono_us(), NL_RPC_DEADLINE_EXCEEDED,
                             "had not ended 15 s after the run");
    }
    uv_timer_stop(&b->timer);
    nl_bench_draw(b, "");
    nl_bench_ask_nodes(b);
}

struct waiting {
    bool late;
};

static void on_late(uv_timer_t *timer) {
    ((struct waiting *)timer->data)->late = true;
}

bool nl_bench_wait(struct nl_bench *b, bool (*condition)(void *user), void *user,
                   uint64_t timeout_ms) {
    struct waiting w = {0};
    b->timer.data = &w;
    uv_update_time(b->loop);
    uv_timer_start(&b->timer, on_late, timeout_ms, 0);
    while (!condition(user) && !w.late && !b->interrupted) {
        uv_run(b->loop, UV_RUN_ONCE);
    }
    uv_timer_stop(&b->timer);
    b->timer.data = b;
    return condition(user);
}

// ---- the report ------------------------------------------------------------

static json_t *nodes_json(const struct nl_bench *b) {
    json_t *list = json_array();
    for (size_t i = 0; i < b->n_nodes; i++) {
        const struct nl_bench_node *n = &b->nodes[i];
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:b, s:I, s:I, s:I}", "address", n->address, "name",
                            n->name != NULL ? n->name : "", "answers", (int)n->answered,
                            "loop_lag_max_us", (json_int_t)n->loop_lag_max_us, "rss_bytes",
                            (json_int_t)n->rss_bytes, "agents", (json_int_t)n->agents));
    }
    return list;
}

static uint64_t worst_lag(const struct nl_bench *b) {
    uint64_t worst = 0;
    for (size_t i = 0; i < b->n_nodes; i++) {
        worst = b->nodes[i].loop_lag_max_us > worst ? b->nodes[i].loop_lag_max_us : worst;
    }
    return worst;
}

static void print_table(const struct nl_bench *b, const char *what, const json_t *more) {
    const struct nl_bench_stats *s = &b->stats;
    const struct nl_histogram *h = &s->latency_us;
    char p50[32], p99[32], max[32];
    printf("%s: %.0f/s, p50 %s, p99 %s, max %s, %llu errors, %llu in %.1f s\n", what,
           nl_bench_stats_rate(s, s->until_us), nl_format_us(p50, nl_histogram_percentile(h, 50)),
           nl_format_us(p99, nl_histogram_percentile(h, 99)), nl_format_us(max, h->max),
           (unsigned long long)s->errors, (unsigned long long)h->count,
           (double)(s->until_us - s->from_us) / 1e6);
    for (unsigned i = 0; i < NL_BENCH_N_ERRORS; i++) {
        if (s->by_code[i] > 0) {
            printf("  %llu x %s\n", (unsigned long long)s->by_code[i], nl_bench_error_name(i));
        }
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)more, key, value) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("  %s: %s\n", key, text != NULL ? text : "?");
        free(text);
    }
    printf("  longest turn of a node's loop: %s\n", nl_format_us(p50, worst_lag(b)));
}

int nl_bench_report(struct nl_bench *b, const char *what, json_t *more) {
    const struct nl_bench_stats *s = &b->stats;
    if (b->cli->json) {
        json_t *object = nl_bench_stats_json(s);
        json_object_set_new(object, "bench", json_string(what));
        json_object_set_new(object, "loop_lag_max_us", json_integer((json_int_t)worst_lag(b)));
        json_object_set_new(object, "nodes", nodes_json(b));
        if (more != NULL) {
            json_object_update(object, more);
        }
        nl_cli_print_json(object);
    } else {
        print_table(b, what, more);
    }
    json_decref(more);
    if (s->errors > 0) {
        nl_cli_fail(b->cli,
                    &(struct nl_failure){.code = "BENCH",
                                         .next = "look at the nodes with nodelink status, and at "
                                                 "their logs"},
                    "%llu operations failed; the first one: %s", (unsigned long long)s->errors,
                    s->first_error);
        return NL_EXIT_FAILED;
    }
    if (b->interrupted) {
        return 130;
    }
    if (s->latency_us.count == 0) {
        nl_cli_fail(b->cli,
                    &(struct nl_failure){.code = "BENCH", .next = "give it a longer --duration"},
                    "nothing was measured: no operation ended in the measured time");
        return NL_EXIT_FAILED;
    }
    return NL_EXIT_OK;
}
