// `bench watch`: how fast output reaches its readers, and whether all of it does.
//
// Each task's instant agent makes output at a steady rate; watchers on all addresses follow it.
// Byte i of a task's output is a function of i, so that every byte is checked; chunk k was made
// at a known time, so that its way is measured.
#include <nodelink/v1/control.pb-c.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "tools/bench/bench.h"
#include "tools/bench/fleet.h"
#include "tools/bench/options.h"
#include "tools/commands.h"
#include "tools/format.h"

enum { TIMES = 65536, SEND_BYTES_MAX = 16384, SIZE_MAX_ = 65536, SUBMIT_MS = 10000 };

struct options {
    uint64_t clients, duration_ms, warmup_ms, connections, tasks, rate, size;
};

// clang-format off
static const struct nl_arg ARGS[] = {
    {"clients", 'c', NL_ARG_U64, offsetof(struct options, clients), "N", "10",
     "watchers"},
    NL_BENCH_ARG_DURATION(struct options, "10s"),
    NL_BENCH_ARG_WARMUP(struct options),
    NL_BENCH_ARG_CONNECTIONS(struct options),
    {"tasks", 0, NL_ARG_U64, offsetof(struct options, tasks), "N", "1",
     "tasks that the watchers are spread over"},
    {"rate", 0, NL_ARG_U64, offsetof(struct options, rate), "N", "100",
     "chunks of output per second and task"},
    {"size", 0, NL_ARG_U64, offsetof(struct options, size), "BYTES", "100",
     "of a chunk"},
    {0},
};
// clang-format on

// A reader of a task's output, as its agent sees it.
struct sub {
    uint64_t id, offset, credit;
    struct sub *prev, *next;
};

struct task {
    struct load *load;
    struct nl_fleet_agent *agent;  // NULL: not started yet
    char id[64];
    uint32_t attempt;
    bool accepted, refused;
    uint64_t chunks;           // made so far
    uint64_t times[TIMES];     // when chunk k was made, at k % TIMES
    struct nl_sha256 *sha256;  // owned
    uint8_t digest[32];
    bool finished;
    struct sub *subs;
};

struct watcher {
    struct load *load;
    struct task *task;
    size_t line;
    struct nl_rpc_call *call;
    uint64_t offset;
    bool ended, wrong;
    char reason[128];
};

struct load {
    struct nl_bench bench;
    const struct options *options;
    struct nl_fleet *fleet;
    struct task *tasks;
    struct watcher *watchers;
    uint64_t bytes, events, began_us;
};

static uint8_t byte_at(uint64_t offset) {
    return (uint8_t)(offset * 167 + offset / 251);
}

// ---- the agents' side ------------------------------------------------------

static uint64_t made(const struct task *t) {
    return t->chunks * t->load->options->size;
}

static int send_chunk(struct task *t, struct sub *sub, uint64_t n) {
    uint8_t data[SEND_BYTES_MAX];
    Nodelink__V1__ShellExecuteResponse shell = NODELINK__V1__SHELL_EXECUTE_RESPONSE__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    for (uint64_t i = 0; i < n; i++) {
        data[i] = byte_at(sub->offset + i);
    }
    shell.stdout = (ProtobufCBinaryData){(size_t)n, data};
    response.task_id = t->id;
    response.attempt = t->attempt;
    response.status = NODELINK__V1__TASK_RESPONSE__STATUS__IN_PROGRESS;
    response.response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE;
    response.shell_execute = &shell;
    response.sub = sub->id;
    response.stdout_offset = sub->offset;
    return nl_fleet_send(t->agent, &response);
}

static int send_end(struct task *t, const struct sub *sub) {
    Nodelink__V1__OutputEnd end = NODELINK__V1__OUTPUT_END__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    end.sub = sub->id;
    end.why = NODELINK__V1__OUTPUT_END__WHY__COMPLETE;
    end.stdout_bytes = made(t);
    response.task_id = t->id;
    response.attempt = t->attempt;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_OUTPUT_END;
    response.output_end = &end;
    return nl_fleet_send(t->agent, &response);
}

static void drop_sub(struct task *t, struct sub *sub) {
    DL_DELETE(t->subs, sub);
    free(sub);
}

static void serve_sub(struct task *t, struct sub *sub) {
    while (sub->offset < made(t) && sub->credit > 0) {
        uint64_t n = made(t) - sub->offset;
        n = n < sub->credit ? n : sub->credit;
        n = n < SEND_BYTES_MAX ? n : SEND_BYTES_MAX;
        if (send_chunk(t, sub, n) != NL_OK) {
            return;  // full: the next tick goes on
        }
        sub->offset += n;
        sub->credit -= n;
    }
    if (t->finished && sub->offset == made(t) && send_end(t, sub) == NL_OK) {
        drop_sub(t, sub);
    }
}

static void serve_all(struct task *t) {
    struct sub *sub, *next;
    DL_FOREACH_SAFE (t->subs, sub, next) {
        serve_sub(t, sub);
    }
}

static struct sub *find_sub(struct task *t, uint64_t id) {
    struct sub *sub;
    DL_FOREACH (t->subs, sub) {
        if (sub->id == id) {
            return sub;
        }
    }
    return NULL;
}

static void open_sub(struct task *t, const Nodelink__V1__OutputOpen *open) {
    struct sub *sub = calloc(1, sizeof *sub);
    if (sub == NULL) {
        return;
    }
    sub->id = open->sub;
    sub->offset = open->stdout_offset;
    sub->credit = open->credit;
    DL_APPEND(t->subs, sub);
    serve_sub(t, sub);
}

static void on_output(void *user, struct nl_fleet_agent *agent,
                      const Nodelink__V1__TaskRequest *request) {
    struct load *load = user;
    struct task *t = &load->tasks[nl_fleet_index(agent)];
    struct sub *sub = NULL;
    switch (request->control_case) {
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_OPEN:
            open_sub(t, request->output_open);
            return;
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CREDIT:
            sub = find_sub(t, request->output_credit->sub);
            if (sub != NULL) {
                sub->credit += request->output_credit->bytes;
                serve_sub(t, sub);
            }
            return;
        default:
            sub = find_sub(t, request->output_close->sub);
            if (sub != NULL) {
                drop_sub(t, sub);
            }
            return;
    }
}

static void on_lost(void *user, struct nl_fleet_agent *agent) {
    struct task *t = &((struct load *)user)->tasks[nl_fleet_index(agent)];
    while (t->subs != NULL) {
        drop_sub(t, t->subs);
    }
}

static void on_run(void *user, struct nl_fleet_agent *agent, const char *task_id,
                   uint32_t attempt) {
    struct task *t = &((struct load *)user)->tasks[nl_fleet_index(agent)];
    if (strcmp(t->id, task_id) != 0) {
        nl_fleet_answer(agent, task_id, attempt);  // left over from a run that was cut off
        return;
    }
    t->agent = agent;
    t->attempt = attempt;
    nl_fleet_started(agent, task_id, attempt);
}

static void make_chunk(struct task *t, uint64_t now_us) {
    uint64_t end = made(t) + t->load->options->size;
    uint8_t data[256];
    for (uint64_t i = made(t); i < end;) {
        size_t n = 0;
        while (n < sizeof data && i < end) {
            data[n++] = byte_at(i++);
        }
        nl_sha256_update(t->sha256, data, n);
    }
    t->times[t->chunks % TIMES] = now_us;
    t->chunks++;
}

static void finish(struct task *t) {
    if (t->agent == NULL || t->finished) {
        return;
    }
    t->finished = true;
    nl_sha256_peek(t->sha256, t->digest);
    nl_fleet_finish(t->agent, t->id, t->attempt, made(t), t->digest);
    serve_all(t);
}

static const struct nl_fleet_hooks HOOKS = {.run = on_run, .output = on_output, .lost = on_lost};

// ---- the watchers' side ----------------------------------------------------

static void take_output(struct watcher *w, const Nodelink__V1__WatchTaskEvent *event) {
    struct load *load = w->load;
    struct nl_bench_stats *s = &load->bench.stats;
    uint64_t size = load->options->size, now = nl_clock_mono_us();
    w->wrong |= event->stdout_offset != w->offset || event->gap != NULL;
    for (size_t i = 0; i < event->stdout.len; i++) {
        w->wrong |= event->stdout.data[i] != byte_at(w->offset + i);
    }
    uint64_t first = w->offset / size;
    w->offset = event->stdout_offset + event->stdout.len;
    for (uint64_t k = first; k < w->offset / size; k++) {
        if (k < w->task->chunks && w->task->chunks - k < TIMES) {
            nl_bench_stats_ok(s, w->task->times[k % TIMES], now);
        }
    }
    load->bytes += event->stdout.len;
    load->events++;
}

static void on_event(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct watcher *w = user;
    const Nodelink__V1__WatchTaskEvent *event = (const void *)message;
    (void)call;
    if (event->stdout.len > 0 || event->gap != NULL) {
        take_output(w, event);
    }
    w->ended |= event->end;
    nl_rpc_message_free(message);
}

static void on_watch_closed(struct nl_rpc_call *call, void *user,
                            const struct nl_rpc_status *status) {
    struct watcher *w = user;
    struct nl_bench *b = &w->load->bench;
    char text[160];
    (void)call;
    w->call = NULL;
    if (!w->ended) {
        nl_bench_failed(b, status);
    } else if (w->wrong || w->offset != made(w->task)) {
        snprintf(text, sizeof text, "task %s: %llu of %llu bytes came%s", w->task->id,
                 (unsigned long long)w->offset, (unsigned long long)made(w->task),
                 w->wrong ? ", some of them wrong" : "");
        nl_bench_error(b, NL_BENCH_WRONG_OUTPUT, text);
    } else {
        b->in_flight--;
    }
}

static void watch(struct watcher *w) {
    static const struct nl_rpc_handler HANDLER = {.on_message = on_event,
                                                  .on_closed = on_watch_closed};
    struct nl_bench *b = &w->load->bench;
    struct nl_rpc_call_options options = {.metadata = nl_client_metadata(b->client)};
    Nodelink__V1__WatchTaskRequest request = NODELINK__V1__WATCH_TASK_REQUEST__INIT;
    request.task_id = w->task->id;
    request.output = true;
    nl_bench_begin(b);
    if (nl_rpc_call_start(b->lines[w->line].channel, &nodelink__v1__control_service__descriptor,
                          "WatchTask", &options, &HANDLER, w, &w->call) != NL_OK) {
        nl_bench_error(b, NL_RPC_INTERNAL, "no memory for a call");
        return;
    }
    nl_rpc_call_send(w->call, &request.base);
    nl_rpc_call_half_close(w->call);
}

// ---- the run ---------------------------------------------------------------

static void start(void *user) {
    struct load *load = user;
    load->began_us = nl_clock_mono_us();
    for (uint64_t i = 0; i < load->options->clients; i++) {
        struct watcher *w = &load->watchers[i];
        *w = (struct watcher){.load = load,
                              .task = &load->tasks[i % load->options->tasks],
                              .line = i % load->bench.n_lines};
        watch(w);
    }
}

static void tick(void *user, uint64_t now_us) {
    struct load *load = user;
    uint64_t due = (now_us - load->began_us) * load->options->rate / 1000000;
    for (uint64_t i = 0; i < load->options->tasks; i++) {
        struct task *t = &load->tasks[i];
        if (t->agent == NULL || t->finished) {
            continue;
        }
        if (load->bench.stopped) {
            finish(t);
            continue;
        }
        while (t->chunks < due) {
            make_chunk(t, nl_clock_mono_us());
        }
        serve_all(t);
    }
}

static void progress(void *user, char *out, size_t size) {
    struct load *load = user;
    char bytes[32];
    snprintf(out, size, "; %s came", nl_format_size(bytes, load->bytes));
}

static void on_submitted(void *user, const struct nl_client_error *error, ProtobufCMessage *reply) {
    struct task *t = user;
    t->accepted = error == NULL;
    t->refused = error != NULL;
    if (error != NULL) {
        nl_cli_fail_call(t->load->bench.cli, error, "submit a task to watch");
    }
    nl_rpc_message_free(reply);
}

static bool all_started(void *user) {
    struct load *load = user;
    uint64_t n = 0;
    for (uint64_t i = 0; i < load->options->tasks; i++) {
        const struct task *t = &load->tasks[i];
        n += t->refused || (t->accepted && t->agent != NULL);
    }
    return n == load->options->tasks;
}

static bool submit_all(struct load *load) {
    struct nl_bench *b = &load->bench;
    bool ok = true;
    for (uint64_t i = 0; i < load->options->tasks; i++) {
        struct task *t = &load->tasks[i];
        Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
        Nodelink__V1__SubmitTaskRequest request = NODELINK__V1__SUBMIT_TASK_REQUEST__INIT;
        struct nl_client_error error;
        ProtobufCMessage *reply = NULL;
        t->load = load;
        t->sha256 = nl_sha256_new();
        if (t->sha256 == NULL) {
            return false;
        }
        snprintf(t->id, sizeof t->id, "bench-%s-%llu", b->run_id, (unsigned long long)i);
        spec.agent_id = (char *)nl_fleet_id(load->fleet, i);
        spec.cmd = (char *)"true";
        request.task_id = t->id;
        request.spec = &spec;
        struct nl_client_call call = {
            .method = "SubmitTask", .request = &request.base, .repeat = NL_CLIENT_IDEMPOTENT};
        bool sent = nl_client_wait(b->client, &call, &reply, &error);
        on_submitted(t, sent ? NULL : &error, reply);
        ok = ok && sent;
    }
    return nl_bench_wait(b, all_started, load, SUBMIT_MS) && ok;
}

static int run_load(struct load *load) {
    static const struct nl_bench_load LOAD = {.start = start, .tick = tick, .progress = progress};
    struct nl_bench *b = &load->bench;
    struct nl_fleet_options fleet = {
        .count = load->options->tasks, .prefix = "bench-watched", .hooks = &HOOKS, .user = load};
    int rc = nl_fleet_open(b, &fleet, &load->fleet);
    rc = rc == NL_EXIT_OK ? nl_fleet_connect(load->fleet) : rc;
    if (rc == NL_EXIT_OK && !b->interrupted) {
        rc = submit_all(load) ? NL_EXIT_OK : NL_EXIT_FAILED;
    }
    if (rc == NL_EXIT_OK && !b->interrupted) {
        nl_bench_run(b, &LOAD, load);
        rc = nl_bench_report(
            b, "watch",
            json_pack("{s:I, s:I, s:I, s:I}", "clients", (json_int_t)load->options->clients,
                      "tasks", (json_int_t)load->options->tasks, "bytes", (json_int_t)load->bytes,
                      "events", (json_int_t)load->events));
    }
    for (uint64_t i = 0; load->fleet != NULL && i < load->options->tasks; i++) {
        finish(&load->tasks[i]);
    }
    nl_fleet_close(load->fleet);
    return rc;
}

static int check(const struct nl_cli *cli, const struct options *o) {
    if (o->clients == 0 || o->clients > NL_BENCH_CLIENTS_MAX || o->tasks == 0 ||
        o->tasks > o->clients) {
        return nl_cli_usage(cli, "--clients goes from 1 to %d, --tasks from 1 to --clients",
                            NL_BENCH_CLIENTS_MAX);
    }
    if (o->size == 0 || o->size > SIZE_MAX_ || o->rate == 0 || o->rate > 100000) {
        return nl_cli_usage(cli, "--size goes from 1 to %d, --rate from 1 to 100000", SIZE_MAX_);
    }
    return NL_EXIT_OK;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    (void)operands;
    int rc = check(cli, o);
    if (rc != NL_EXIT_OK) {
        return rc;
    }
    struct load *load = calloc(1, sizeof *load);
    struct task *tasks = calloc(o->tasks, sizeof *tasks);
    struct watcher *watchers = calloc(o->clients, sizeof *watchers);
    rc = NL_EXIT_FAILED;
    if (load != NULL && tasks != NULL && watchers != NULL) {
        struct nl_bench_options bench = {.duration_ms = o->duration_ms,
                                         .warmup_ms = o->warmup_ms,
                                         .connections = o->connections};
        load->options = o;
        load->tasks = tasks;
        load->watchers = watchers;
        rc = nl_bench_open(&load->bench, cli, &bench);
        rc = rc == NL_EXIT_OK ? run_load(load) : rc;
        nl_bench_close(&load->bench);
    }
    for (uint64_t i = 0; tasks != NULL && i < o->tasks; i++) {
        nl_sha256_free(tasks[i].sha256);
    }
    free(watchers);
    free(tasks);
    free(load);
    return rc;
}

const struct nl_command NL_CMD_BENCH_WATCH = {
    .name = "bench watch",
    .operands = "",
    .summary = "how fast output reaches its readers, every byte checked",
    .details =
        "Agents that the program brings along (bench-watched-*) make output; ops are chunks\n"
        "that reached a watcher, latencies those from the making to the watcher.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .run = run,
};
