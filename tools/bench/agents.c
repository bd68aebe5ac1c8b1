// `bench agents`: connects many agents, holds them, measures pings, memory, and how long they are
// away when a node dies.
#include <nodelink/v1/control.pb-c.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/fs.h"
#include "tools/bench/bench.h"
#include "tools/bench/fleet.h"
#include "tools/bench/options.h"
#include "tools/commands.h"

enum { CALL_MS = 2000, PAUSE_US = 50000 };

struct options {
    uint64_t agents, hold_ms, rate, ping_ms, node_pid;
    bool check, first;
};

// clang-format off
static const struct nl_arg ARGS[] = {
    {"agents", 'n', NL_ARG_U64, offsetof(struct options, agents), "N", "100",
     "how many"},
    {"hold", 0, NL_ARG_SECONDS, offsetof(struct options, hold_ms), "S", "10s",
     "how long to hold them; a number is seconds"},
    {"duration", 0, NL_ARG_SECONDS, offsetof(struct options, hold_ms), "S", NULL,
     "the same"},
    {"rate", 0, NL_ARG_U64, offsetof(struct options, rate), "N", "2000",
     "new connections per second"},
    {"ping", 0, NL_ARG_DURATION, offsetof(struct options, ping_ms), "DURATION", NULL,
     "between an agent's pings (default: what the node asks for)"},
    {"node-pid", 0, NL_ARG_U64, offsetof(struct options, node_pid), "PID", NULL,
     "measure the memory of this process instead of asking the nodes"},
    {"check", 0, NL_ARG_BOOL, offsetof(struct options, check), NULL, NULL,
     "an agent that comes back has to finish a task before it counts as back"},
    {"first", 0, NL_ARG_BOOL, offsetof(struct options, first), NULL, NULL,
     "connect all of them to the first address, so that they have to move when it dies"},
    {0},
};
// clang-format on

// What has to be known of an agent that was away, with --check.
struct checked {
    struct load *load;
    uint64_t lost_us;    // 0: not away
    uint64_t resume_us;  // try again then; 0: not waiting
    bool asked;
    uint64_t n;
    size_t line;
    char task_id[64];
};

struct load {
    struct nl_bench bench;
    const struct options *options;
    struct nl_fleet *fleet;
    struct checked *checked;
    struct nl_histogram usable_us;
    size_t away;  // with --check: not yet usable again
    uint64_t memory_before;
};

// ---- memory ----------------------------------------------------------------

// Resident bytes of a process; 0: not known.
static uint64_t memory_of(uint64_t pid) {
    char path[64];
    char *text = NULL;
    size_t len = 0;
    unsigned long long kb = 0;
    snprintf(path, sizeof path, "/proc/%llu/status", (unsigned long long)pid);
    if (nl_fs_read(path, 64 * 1024, &text, &len) != NL_OK) {
        return 0;
    }
    const char *line = strstr(text, "VmRSS:");
    if (line == NULL || sscanf(line + strlen("VmRSS:"), "%llu", &kb) != 1) {
        kb = 0;
    }
    free(text);
    return (uint64_t)kb * 1024;
}

static uint64_t memory_of_nodes(const struct nl_bench *b) {
    uint64_t sum = 0;
    for (size_t i = 0; i < b->n_nodes; i++) {
        sum += b->nodes[i].rss_bytes;
    }
    return sum;
}

// ---- is it usable again? ---------------------------------------------------

static void try_task(struct checked *k);

static void on_reply(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    struct checked *k = user;
    k->asked = false;
    if (status->code != NL_RPC_OK && k->lost_us != 0) {
        k->line = (k->line + 1) % k->load->bench.n_lines;
        k->resume_us = nl_clock_mono_us() + PAUSE_US;
    }
    nl_rpc_message_free(reply);
}

// Under the same id until it is acknowledged: what was lost with a node is asked for again.
static void try_task(struct checked *k) {
    struct nl_bench *b = &k->load->bench;
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__SubmitTaskRequest request = NODELINK__V1__SUBMIT_TASK_REQUEST__INIT;
    struct nl_rpc_call_options options = {.metadata = nl_client_metadata(b->client),
                                          .timeout_ms = CALL_MS};
    spec.agent_id = (char *)nl_fleet_id(k->load->fleet, (size_t)(k - k->load->checked));
    spec.cmd = (char *)"true";
    request.task_id = k->task_id;
    request.spec = &spec;
    k->resume_us = 0;
    k->asked = nl_rpc_unary(b->lines[k->line].channel, &nodelink__v1__control_service__descriptor,
                            "SubmitTask", &options, &request.base, on_reply, k, NULL) == NL_OK;
}

static void on_lost(void *user, struct nl_fleet_agent *agent) {
    struct load *load = user;
    struct checked *k = &load->checked[nl_fleet_index(agent)];
    if (load->options->check && !load->bench.stopped && k->lost_us == 0) {
        k->lost_us = nl_clock_mono_us();
        load->away++;
    }
}

static void on_up(void *user, struct nl_fleet_agent *agent, uint64_t away_us) {
    struct load *load = user;
    size_t index = nl_fleet_index(agent);
    struct checked *k = &load->checked[index];
    if (away_us == 0 || k->lost_us == 0) {
        return;
    }
    snprintf(k->task_id, sizeof k->task_id, "bench-%s-%zu-%llu", load->bench.run_id, index,
             (unsigned long long)k->n++);
    if (!k->asked) {
        try_task(k);
    } else {
        k->resume_us = nl_clock_mono_us() + PAUSE_US;
    }
}

static void on_run(void *user, struct nl_fleet_agent *agent, const char *task_id,
                   uint32_t attempt) {
    struct load *load = user;
    struct checked *k = &load->checked[nl_fleet_index(agent)];
    if (k->lost_us != 0 && strcmp(task_id, k->task_id) == 0) {
        nl_histogram_add(&load->usable_us, nl_clock_mono_us() - k->lost_us);
        k->lost_us = 0;
        load->away--;
    }
    nl_fleet_answer(agent, task_id, attempt);
}

static const struct nl_fleet_hooks HOOKS = {.run = on_run, .lost = on_lost, .up = on_up};

// ---- holding ---------------------------------------------------------------

static void start(void *user) {
    (void)user;
}

static void tick(void *user, uint64_t now_us) {
    struct load *load = user;
    for (size_t i = 0; load->away > 0 && i < load->options->agents; i++) {
        struct checked *k = &load->checked[i];
        if (k->resume_us != 0 && now_us >= k->resume_us && !k->asked) {
            try_task(k);
        }
    }
}

static void progress(void *user, char *out, size_t size) {
    struct load *load = user;
    const struct nl_fleet_stats *s = nl_fleet_stats(load->fleet);
    snprintf(out, size, "; %llu connected, %llu streams lost", (unsigned long long)s->connected,
             (unsigned long long)s->lost);
}

// What is common to all benchmarks is here: rate of connecting, round trip of pings.
static void fill_stats(struct load *load) {
    struct nl_fleet_stats *f = nl_fleet_stats(load->fleet);
    struct nl_bench_stats *s = &load->bench.stats;
    s->latency_us = f->ping_us;
    s->longest_gap_us = 0;  // pings come when they are due
    for (uint64_t i = f->connected; i < load->options->agents; i++) {
        nl_bench_stats_error(s, nl_clock_mono_us(), NL_BENCH_STREAM_LOST,
                             "an agent was not connected in the end");
    }
    if (load->away > 0 && f->connected == load->options->agents) {
        nl_bench_stats_error(s, nl_clock_mono_us(), NL_BENCH_TASK_FAILED,
                             "an agent that came back got no task");
    }
}

static json_t *extras(struct load *load, double connects_per_s, uint64_t memory) {
    const struct nl_fleet_stats *f = nl_fleet_stats(load->fleet);
    uint64_t grown = memory > load->memory_before ? memory - load->memory_before : 0;
    bool known = memory > 0 && load->memory_before > 0;
    json_t *object = json_pack(
        "{s:I, s:I, s:f, s:I, s:o, s:o, s:o}", "agents", (json_int_t)load->options->agents,
        "connected", (json_int_t)f->connected, "ops_per_s", connects_per_s, "streams_lost",
        (json_int_t)f->lost, "connect", nl_bench_histogram_json(&f->connect_us), "ping",
        nl_bench_histogram_json(&f->ping_us), "away", nl_bench_histogram_json(&f->away_us));
    json_object_set_new(
        object, "rss_per_agent_bytes",
        known ? json_integer((json_int_t)(grown / load->options->agents)) : json_null());
    if (load->options->check) {
        json_object_set_new(object, "usable", nl_bench_histogram_json(&load->usable_us));
    }
    return object;
}

static uint64_t memory_now(const struct load *load) {
    return load->options->node_pid > 0 ? memory_of(load->options->node_pid)
                                       : memory_of_nodes(&load->bench);
}

static int run_load(struct load *load) {
    static const struct nl_bench_load LOAD = {.start = start, .tick = tick, .progress = progress};
    struct nl_bench *b = &load->bench;
    struct nl_fleet_options fleet = {.count = load->options->agents,
                                     .prefix = "bench-agent",
                                     .connects_per_s = load->options->rate,
                                     .ping_ms = load->options->ping_ms,
                                     .together = load->options->first,
                                     .hooks = &HOOKS,
                                     .user = load};
    int rc = nl_fleet_open(b, &fleet, &load->fleet);
    nl_bench_ask_nodes(b);
    load->memory_before = memory_now(load);
    rc = rc == NL_EXIT_OK ? nl_fleet_connect(load->fleet) : rc;
    if (rc == NL_EXIT_OK && !b->interrupted) {
        const struct nl_fleet_stats *f = nl_fleet_stats(load->fleet);
        uint64_t took_us = f->last_us > f->first_us ? f->last_us - f->first_us : 1;
        nl_bench_run(b, &LOAD, load);
        fill_stats(load);
        rc = nl_bench_report(
            b, "agents",
            extras(load, (double)load->options->agents * 1e6 / (double)took_us, memory_now(load)));
    }
    b->stopped = true;
    nl_fleet_close(load->fleet);
    return rc;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    (void)operands;
    if (o->agents == 0 || o->agents > NL_BENCH_AGENTS_MAX || o->rate == 0) {
        return nl_cli_usage(cli, "--agents goes from 1 to %d, --rate from 1", NL_BENCH_AGENTS_MAX);
    }
    struct load *load = calloc(1, sizeof *load);
    struct checked *checked = calloc(o->agents, sizeof *checked);
    int rc = NL_EXIT_FAILED;
    if (load != NULL && checked != NULL) {
        struct nl_bench_options bench = {.duration_ms = o->hold_ms};
        load->options = o;
        load->checked = checked;
        for (uint64_t i = 0; i < o->agents; i++) {
            checked[i].load = load;
        }
        rc = nl_bench_open(&load->bench, cli, &bench);
        rc = rc == NL_EXIT_OK ? run_load(load) : rc;
        nl_bench_close(&load->bench);
    }
    free(checked);
    free(load);
    return rc;
}

const struct nl_command NL_CMD_BENCH_AGENTS = {
    .name = "bench agents",
    .operands = "",
    .summary = "connect many idle agents: rate, pings, memory, time away when a node dies",
    .details =
        "The agents (bench-agent-*) are spread over the addresses given. p50_us and the like\n"
        "are round trips of pings, ops_per_s is the rate of connecting; `away` is the time from\n"
        "the loss of an agent's stream to its next welcome, `usable` that to its next task.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .run = run,
};
