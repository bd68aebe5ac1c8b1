// `bench submit`: how fast a task is acknowledged.
//
// Each client has one submit in flight. By default the tasks are for agents that never connect:
// what is measured is the write alone; afterwards the tasks are cancelled. With --agents instant
// agents take them, and their starts and results share the log with the submits.
#include <nodelink/v1/control.pb-c.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "tools/bench/bench.h"
#include "tools/bench/fleet.h"
#include "tools/bench/options.h"
#include "tools/bench/submits.h"
#include "tools/commands.h"

enum {
    CALL_MS = 10000,
    PAUSE_US = 20000,  // of a client after an error
    // One agent may have 10,000 tasks waiting.
    TASKS_PER_ABSENT_AGENT = 8000,
    RATE_GUESS = 40000,
    ABSENT_MIN = 16,
    WAIT_MORE_MS = 600000,
};

struct options {
    uint64_t clients, duration_ms, warmup_ms, count, connections, agents;
    bool keep, stream;
};

// clang-format off
static const struct nl_arg ARGS[] = {
    {"clients", 'c', NL_ARG_U64, offsetof(struct options, clients), "N", "1",
     "clients, each with one submit in flight"},
    NL_BENCH_ARG_DURATION(struct options, "10s"),
    NL_BENCH_ARG_WARMUP(struct options),
    NL_BENCH_ARG_COUNT(struct options),
    NL_BENCH_ARG_CONNECTIONS(struct options),
    {"agents", 0, NL_ARG_U64, offsetof(struct options, agents), "N", "0",
     "instant agents that take the tasks; 0: nobody takes them"},
    {"stream", 0, NL_ARG_BOOL, offsetof(struct options, stream), NULL, NULL,
     "on one stream of each connection (SubmitTasks) instead of a call for each"},
    {"keep", 0, NL_ARG_BOOL, offsetof(struct options, keep), NULL, NULL,
     "leave the tasks that nobody took waiting"},
    {0},
};
// clang-format on

struct load;

struct client {
    struct load *load;
    size_t line;
    uint64_t n;  // tasks submitted
    uint64_t began_us, resume_us;
    bool waiting;  // on a stream, for its answer
    char task_id[64];
};

struct load {
    struct nl_bench bench;
    const struct options *options;
    struct nl_fleet *fleet;  // NULL: absent agents
    struct client *clients;
    struct nl_bench_submits *submits;
    size_t absent;
    // The task of job i while they are cancelled.
    size_t cancel_client;
    uint64_t cancel_n;
};

// ---- the load --------------------------------------------------------------

static void name_task(const struct load *load, size_t client, uint64_t n, char *out, size_t size) {
    snprintf(out, size, "bench-%s-%zu-%llu", load->bench.run_id, client, (unsigned long long)n);
}

static void name_absent(void *user, size_t i, char *out, size_t size) {
    (void)user;
    snprintf(out, size, "bench-absent-%zu", i);
}

static void submit(struct client *c);

static void failed(struct client *c, const struct nl_rpc_status *status) {
    struct nl_bench *b = &c->load->bench;
    nl_bench_failed(b, status);
    c->line = (c->line + 1) % b->n_lines;
    c->resume_us = nl_clock_mono_us() + PAUSE_US;
}

static void on_reply(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    struct client *c = user;
    struct nl_bench *b = &c->load->bench;
    if (status->code == NL_RPC_OK && reply != NULL) {
        nl_bench_ok(b, c->began_us);
        submit(c);
    } else {
        failed(c, status);
    }
    nl_rpc_message_free(reply);
}

// ---- on streams ------------------------------------------------------------

// The client that a task is of: its number stands in the name. NULL: none that waits for it.
static struct client *client_of(struct load *load, const char *task_id) {
    size_t prefix = strlen("bench-") + strlen(load->bench.run_id) + 1;
    unsigned long index = strlen(task_id) > prefix ? strtoul(task_id + prefix, NULL, 10) : 0;
    struct client *c = index < load->options->clients ? &load->clients[index] : NULL;
    return c != NULL && c->waiting && strcmp(c->task_id, task_id) == 0 ? c : NULL;
}

static void on_answer(void *user, const char *task_id, const struct nl_rpc_status *status,
                      uint64_t index) {
    struct load *load = user;
    struct client *c = client_of(load, task_id);
    (void)index;
    if (c == NULL) {
        return;
    }
    c->waiting = false;
    if (status->code == NL_RPC_OK) {
        nl_bench_ok(&load->bench, c->began_us);
        submit(c);
    } else {
        failed(c, status);
    }
}

static void on_stream_ended(void *user, size_t line, const struct nl_rpc_status *status) {
    struct load *load = user;
    for (uint64_t i = 0; i < load->options->clients; i++) {
        struct client *c = &load->clients[i];
        if (c->waiting && c->line == line) {
            c->waiting = false;
            failed(c, status);
        }
    }
}

static int send_on_stream(struct client *c, const Nodelink__V1__SubmitTaskRequest *request) {
    c->waiting = true;
    int rv = nl_bench_submits_send(c->load->submits, c->line, request);
    c->waiting = rv == NL_OK;
    return rv;
}

static int send_alone(struct client *c, const Nodelink__V1__SubmitTaskRequest *request) {
    struct nl_bench *b = &c->load->bench;
    struct nl_rpc_call_options options = {.metadata = nl_client_metadata(b->client),
                                          .timeout_ms = CALL_MS};
    return nl_rpc_unary(b->lines[c->line].channel, &nodelink__v1__control_service__descriptor,
                        "SubmitTask", &options, &request->base, on_reply, c, NULL);
}

static void submit(struct client *c) {
    struct load *load = c->load;
    struct nl_bench *b = &load->bench;
    char agent[64];
    if (!nl_bench_wants_more(b)) {
        return;
    }
    size_t index = (size_t)(c - load->clients);
    size_t turn = index + (size_t)c->n;
    if (load->fleet != NULL) {
        snprintf(agent, sizeof agent, "%s", nl_fleet_id(load->fleet, turn % load->options->agents));
    } else {
        name_absent(NULL, turn % load->absent, agent, sizeof agent);
    }
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__SubmitTaskRequest request = NODELINK__V1__SUBMIT_TASK_REQUEST__INIT;
    name_task(load, index, c->n, c->task_id, sizeof c->task_id);
    c->n++;
    spec.agent_id = agent;
    spec.cmd = (char *)"true";
    spec.wait_for_agent_ms = load->options->duration_ms + WAIT_MORE_MS;
    request.task_id = c->task_id;
    request.spec = &spec;
    c->began_us = nl_bench_begin(b);
    int rv = load->options->stream ? send_on_stream(c, &request) : send_alone(c, &request);
    if (rv != NL_OK) {
        failed(c, &(struct nl_rpc_status){NL_RPC_INTERNAL, nl_strerror(rv)});
    }
}

static void start(void *user) {
    struct load *load = user;
    for (uint64_t i = 0; i < load->options->clients; i++) {
        struct client *c = &load->clients[i];
        *c = (struct client){.load = load, .line = i % load->bench.n_lines};
        submit(c);
    }
}

static void tick(void *user, uint64_t now_us) {
    struct load *load = user;
    for (uint64_t i = 0; i < load->options->clients; i++) {
        struct client *c = &load->clients[i];
        if (c->resume_us != 0 && now_us >= c->resume_us) {
            c->resume_us = 0;
            submit(c);
        }
    }
}

// ---- before and after ------------------------------------------------------

static int make_absent(struct load *load) {
    uint64_t tasks = (load->options->duration_ms + load->options->warmup_ms) * RATE_GUESS / 1000;
    if (load->options->count > 0 && load->options->count < tasks) {
        tasks = load->options->count;
    }
    load->absent = ABSENT_MIN + (size_t)(tasks / TASKS_PER_ABSENT_AGENT);
    struct nl_bench_jobs jobs = {.kind = NL_BENCH_CREATE_TOKEN,
                                 .n = load->absent,
                                 .doing = "naming agents",
                                 .name = name_absent,
                                 .user = load};
    return nl_bench_do_all(&load->bench, &jobs);
}

// Jobs come in order: the next task of this client, or the first of the next one.
static void name_next(void *user, size_t i, char *out, size_t size) {
    struct load *load = user;
    (void)i;
    while (load->cancel_n == load->clients[load->cancel_client].n) {
        load->cancel_client++;
        load->cancel_n = 0;
    }
    name_task(load, load->cancel_client, load->cancel_n++, out, size);
}

static void clean_up(struct load *load) {
    struct nl_bench *b = &load->bench;
    struct nl_bench_jobs cancel = {.kind = NL_BENCH_CANCEL_TASK,
                                   .n = (size_t)b->begun,
                                   .doing = "cancelling the tasks",
                                   .cleaning = true,
                                   .name = name_next,
                                   .user = load};
    struct nl_bench_jobs revoke = {.kind = NL_BENCH_REVOKE_TOKEN,
                                   .n = load->absent,
                                   .doing = "revoking tokens",
                                   .cleaning = true,
                                   .name = name_absent,
                                   .user = load};
    if (!load->options->keep) {
        nl_bench_do_all(b, &cancel);
    }
    nl_bench_do_all(b, &revoke);
}

static int run_load(struct load *load) {
    static const struct nl_bench_submits_events EVENTS = {.answered = on_answer,
                                                          .ended = on_stream_ended};
    static const struct nl_bench_load LOAD = {.start = start, .tick = tick};
    struct nl_bench *b = &load->bench;
    struct nl_fleet_options fleet = {.count = load->options->agents, .prefix = "bench-agent"};
    int rc = load->options->agents > 0 ? nl_fleet_open(b, &fleet, &load->fleet) : make_absent(load);
    if (rc == NL_EXIT_OK && load->fleet != NULL) {
        rc = nl_fleet_connect(load->fleet);
    }
    load->submits = nl_bench_submits_new(b, &EVENTS, load);
    if (rc == NL_EXIT_OK && load->submits != NULL && !b->interrupted) {
        nl_bench_run(b, &LOAD, load);
        rc = nl_bench_report(b, "submit",
                             json_pack("{s:b, s:I, s:I}", "stream", (int)load->options->stream,
                                       "clients", (json_int_t)load->options->clients, "agents",
                                       (json_int_t)load->options->agents));
    }
    if (load->options->agents > 0) {
        nl_fleet_close(load->fleet);
    } else {
        clean_up(load);
    }
    return rc;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    (void)operands;
    if (o->clients == 0 || o->clients > NL_BENCH_CLIENTS_MAX || o->agents > NL_BENCH_AGENTS_MAX) {
        return nl_cli_usage(cli, "--clients goes from 1 to %d, --agents up to %d",
                            NL_BENCH_CLIENTS_MAX, NL_BENCH_AGENTS_MAX);
    }
    struct load *load = calloc(1, sizeof *load);
    struct client *clients = calloc(o->clients, sizeof *clients);
    int rc = NL_EXIT_FAILED;
    if (load != NULL && clients != NULL) {
        struct nl_bench_options bench = {.duration_ms = o->duration_ms,
                                         .warmup_ms = o->warmup_ms,
                                         .count = o->count,
                                         .connections = o->connections};
        load->options = o;
        load->clients = clients;
        rc = nl_bench_open(&load->bench, cli, &bench);
        rc = rc == NL_EXIT_OK ? run_load(load) : rc;
        nl_bench_close(&load->bench);
    }
    free(clients);
    if (load != NULL) {
        nl_bench_submits_free(load->submits);
    }
    free(load);
    return rc;
}

const struct nl_command NL_CMD_BENCH_SUBMIT = {
    .name = "bench submit",
    .operands = "",
    .summary = "how fast the cluster acknowledges tasks",
    .details =
        "Tasks for agents that never connect (bench-absent-*), so that the write alone is\n"
        "measured; they are cancelled afterwards. With --agents N the program brings N agents\n"
        "along that answer each task at once. Clients are spread over the addresses given;\n"
        "--addr with one node measures that node.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .run = run,
};
