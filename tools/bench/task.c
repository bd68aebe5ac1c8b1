// `bench task`: whole tasks, from the submit until the client has seen the end, state and output.
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
#include "tools/format.h"

enum { CALL_MS = 10000, PAUSE_US = 20000, AGENTS_DEFAULT = 16 };

struct options {
    uint64_t clients, duration_ms, warmup_ms, count, connections, agents;
    const char *agent;
    bool stream;
};

// clang-format off
static const struct nl_arg ARGS[] = {
    {"clients", 'c', NL_ARG_U64, offsetof(struct options, clients), "N", "1",
     "clients, each with one task under way"},
    NL_BENCH_ARG_DURATION(struct options, "10s"),
    NL_BENCH_ARG_WARMUP(struct options),
    NL_BENCH_ARG_COUNT(struct options),
    NL_BENCH_ARG_CONNECTIONS(struct options),
    {"agents", 0, NL_ARG_U64, offsetof(struct options, agents), "N", NULL,
     "instant agents to bring along (default 16)"},
    {"agent", 0, NL_ARG_STRING, offsetof(struct options, agent), "ID", NULL,
     "run CMD on this agent instead"},
    {"stream", 0, NL_ARG_BOOL, offsetof(struct options, stream), NULL, NULL,
     "submit on one stream of each connection (SubmitTasks); instant agents say when\n"
     "a task's result was recorded, so that nothing is watched"},
    {0},
};
// clang-format on

struct load;

// submitting -> watching -> done, again. With --stream and instant agents: submitting -> done, when
// it is accepted and its result is recorded, whichever comes first.
struct client {
    struct load *load;
    size_t line;
    uint64_t n;
    uint64_t began_us, accepted_us, resume_us;
    uint64_t index;  // of the accepted submit
    char task_id[64];
    bool waiting, accepted, recorded;  // with --stream: for the two
    struct nl_rpc_call *watch;
    Nodelink__V1__TaskState state;
    bool has_result, ended;
    uint64_t want[2], got[2];  // bytes of stdout and stderr
    char reason[128];
};

struct load {
    struct nl_bench bench;
    const struct options *options;
    const struct nl_operands *operands;
    struct nl_fleet *fleet;  // NULL: a named agent
    struct nl_bench_submits *submits;
    struct client *clients;
    struct nl_histogram submit_us;
};

static void submit(struct client *c);

static void again_later(struct client *c) {
    c->line = (c->line + 1) % c->load->bench.n_lines;
    c->resume_us = nl_clock_mono_us() + PAUSE_US;
}

// ---- watching --------------------------------------------------------------

static void on_event(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct client *c = user;
    const Nodelink__V1__WatchTaskEvent *event = (const void *)message;
    (void)call;
    c->got[0] += event->stdout.len;
    c->got[1] += event->stderr.len;
    if (event->task != NULL) {
        c->state = event->task->state;
        snprintf(c->reason, sizeof c->reason, "%s", event->task->reason);
        c->has_result = event->task->has_result && event->task->result != NULL;
        if (c->has_result) {
            c->want[0] = event->task->result->stdout_bytes;
            c->want[1] = event->task->result->stderr_bytes;
        }
    }
    c->ended |= event->end;
    nl_rpc_message_free(message);
}

static void succeeded(struct client *c) {
    struct load *load = c->load;
    if (c->began_us >= load->bench.stats.from_us) {
        nl_histogram_add(&load->submit_us, c->accepted_us - c->began_us);
    }
    nl_bench_ok(&load->bench, c->began_us);
    submit(c);
}

static void judge(struct client *c) {
    struct nl_bench *b = &c->load->bench;
    char text[256];
    if (c->state != NODELINK__V1__TASK_STATE__TASK_COMPLETED) {
        snprintf(text, sizeof text, "task %s: %s %s", c->task_id, nl_format_task_state(c->state),
                 c->reason);
        nl_bench_error(b, NL_BENCH_TASK_FAILED, text);
    } else if (!c->has_result || c->want[0] != c->got[0] || c->want[1] != c->got[1]) {
        snprintf(text, sizeof text, "task %s: its output did not come whole", c->task_id);
        nl_bench_error(b, NL_BENCH_WRONG_OUTPUT, text);
    } else {
        succeeded(c);
        return;
    }
    submit(c);
}

static void on_watch_closed(struct nl_rpc_call *call, void *user,
                            const struct nl_rpc_status *status) {
    struct client *c = user;
    (void)call;
    c->watch = NULL;
    if (c->ended) {
        judge(c);
    } else {
        nl_bench_failed(&c->load->bench, status);
        again_later(c);
    }
}

static void watch(struct client *c) {
    static const struct nl_rpc_handler HANDLER = {.on_message = on_event,
                                                  .on_closed = on_watch_closed};
    struct nl_bench *b = &c->load->bench;
    struct nl_rpc_call_options options = {.metadata = nl_client_metadata(b->client)};
    Nodelink__V1__WatchTaskRequest request = NODELINK__V1__WATCH_TASK_REQUEST__INIT;
    request.task_id = c->task_id;
    request.output = true;
    request.stale = true;  // as `run` does
    request.min_index = c->index;
    c->ended = c->has_result = false;
    c->state = NODELINK__V1__TASK_STATE__TASK_STATE_UNSPECIFIED;
    memset(c->got, 0, sizeof c->got);
    if (nl_rpc_call_start(b->lines[c->line].channel, &nodelink__v1__control_service__descriptor,
                          "WatchTask", &options, &HANDLER, c, &c->watch) != NL_OK) {
        nl_bench_error(b, NL_RPC_INTERNAL, "no memory for a call");
        again_later(c);
        return;
    }
    nl_rpc_call_send(c->watch, &request.base);
    nl_rpc_call_half_close(c->watch);
}

// ---- submitting ------------------------------------------------------------

static void on_reply(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    struct client *c = user;
    if (status->code == NL_RPC_OK && reply != NULL) {
        const Nodelink__V1__SubmitTaskReply *accepted = (const void *)reply;
        c->accepted_us = nl_clock_mono_us();
        c->index = accepted->header != NULL ? accepted->header->index : 0;
        watch(c);
    } else {
        nl_bench_failed(&c->load->bench, status);
        again_later(c);
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

static void check_whole(struct client *c) {
    if (c->accepted && c->recorded) {
        c->waiting = false;
        succeeded(c);
    }
}

static void on_answer(void *user, const char *task_id, const struct nl_rpc_status *status,
                      uint64_t index) {
    struct load *load = user;
    struct client *c = client_of(load, task_id);
    if (c == NULL) {
        return;
    }
    c->accepted = true;
    c->accepted_us = nl_clock_mono_us();
    c->index = index;
    if (status->code != NL_RPC_OK) {
        c->waiting = false;
        nl_bench_failed(&load->bench, status);
        again_later(c);
    } else if (load->fleet != NULL) {
        check_whole(c);
    } else {
        c->waiting = false;
        watch(c);
    }
}

static void on_acked(void *user, struct nl_fleet_agent *agent, const char *task_id, bool late) {
    struct client *c = client_of(user, task_id);
    (void)agent;
    if (c != NULL && late) {
        c->waiting = false;
        nl_bench_error(&c->load->bench, NL_BENCH_TASK_FAILED, "a result came late");
        again_later(c);
    } else if (c != NULL) {
        c->recorded = true;
        check_whole(c);
    }
}

static void on_stream_ended(void *user, size_t line, const struct nl_rpc_status *status) {
    struct load *load = user;
    for (uint64_t i = 0; i < load->options->clients; i++) {
        struct client *c = &load->clients[i];
        if (c->waiting && c->line == line) {
            c->waiting = false;
            nl_bench_failed(&load->bench, status);
            again_later(c);
        }
    }
}

static int send_on_stream(struct client *c, const Nodelink__V1__SubmitTaskRequest *request) {
    c->waiting = true;
    c->accepted = c->recorded = false;
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

// ---- both ------------------------------------------------------------------

static void fill_spec(const struct client *c, Nodelink__V1__TaskSpec *spec) {
    const struct load *load = c->load;
    const struct nl_operands *command = load->operands;
    size_t index = (size_t)(c - load->clients);
    if (load->fleet != NULL) {
        spec->agent_id =
            (char *)nl_fleet_id(load->fleet, (index + (size_t)c->n) % load->options->agents);
        spec->cmd = (char *)"true";
        return;
    }
    spec->agent_id = (char *)load->options->agent;
    // As `run` does: one argument is for the shell, several are executed as they are.
    if (command->n_command == 1) {
        spec->cmd = command->command[0];
    } else {
        spec->argv = command->command;
        spec->n_argv = command->n_command;
    }
}

static void submit(struct client *c) {
    struct nl_bench *b = &c->load->bench;
    if (!nl_bench_wants_more(b)) {
        return;
    }
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__SubmitTaskRequest request = NODELINK__V1__SUBMIT_TASK_REQUEST__INIT;
    snprintf(c->task_id, sizeof c->task_id, "bench-%s-%zu-%llu", b->run_id,
             (size_t)(c - c->load->clients), (unsigned long long)c->n);
    fill_spec(c, &spec);
    c->n++;
    request.task_id = c->task_id;
    request.spec = &spec;
    c->began_us = nl_bench_begin(b);
    int rv = c->load->options->stream ? send_on_stream(c, &request) : send_alone(c, &request);
    if (rv != NL_OK) {
        nl_bench_error(b, NL_RPC_INTERNAL, nl_strerror(rv));
        again_later(c);
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

// ---- the subcommand --------------------------------------------------------

static int run_load(struct load *load) {
    static const struct nl_bench_submits_events EVENTS = {.answered = on_answer,
                                                          .ended = on_stream_ended};
    static const struct nl_fleet_hooks HOOKS = {.acked = on_acked};
    static const struct nl_bench_load LOAD = {.start = start, .tick = tick};
    struct nl_bench *b = &load->bench;
    struct nl_fleet_options fleet = {.count = load->options->agents,
                                     .prefix = "bench-agent",
                                     .hooks = load->options->stream ? &HOOKS : NULL,
                                     .user = load};
    load->submits = nl_bench_submits_new(b, &EVENTS, load);
    int rc = load->submits != NULL ? NL_EXIT_OK : NL_EXIT_FAILED;
    if (rc == NL_EXIT_OK && load->options->agent == NULL) {
        rc = nl_fleet_open(b, &fleet, &load->fleet);
        rc = rc == NL_EXIT_OK ? nl_fleet_connect(load->fleet) : rc;
    }
    if (rc == NL_EXIT_OK && !b->interrupted) {
        nl_bench_run(b, &LOAD, load);
        rc = nl_bench_report(b, "task",
                             json_pack("{s:b, s:I, s:o}", "stream", (int)load->options->stream,
                                       "clients", (json_int_t)load->options->clients, "submit",
                                       nl_bench_histogram_json(&load->submit_us)));
    }
    nl_fleet_close(load->fleet);
    return rc;
}

static int check(const struct nl_cli *cli, const struct options *o,
                 const struct nl_operands *operands) {
    if (o->clients == 0 || o->clients > NL_BENCH_CLIENTS_MAX || o->agents > NL_BENCH_AGENTS_MAX) {
        return nl_cli_usage(cli, "--clients goes from 1 to %d, --agents up to %d",
                            NL_BENCH_CLIENTS_MAX, NL_BENCH_AGENTS_MAX);
    }
    if (o->agent != NULL && o->agents > 0) {
        return nl_cli_usage(cli, "either --agent ID or --agents N");
    }
    if (o->agent != NULL && operands->n_command == 0) {
        return nl_cli_usage(cli, "give the command to run: --agent %s -- CMD", o->agent);
    }
    if (o->agent == NULL && operands->n_command > 0) {
        return nl_cli_usage(cli, "instant agents run no command; name an agent with --agent ID");
    }
    return NL_EXIT_OK;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    struct options o = *(const struct options *)options;
    int rc = check(cli, &o, operands);
    if (rc != NL_EXIT_OK) {
        return rc;
    }
    o.agents = o.agents > 0 ? o.agents : AGENTS_DEFAULT;
    struct load *load = calloc(1, sizeof *load);
    struct client *clients = calloc(o.clients, sizeof *clients);
    rc = NL_EXIT_FAILED;
    if (load != NULL && clients != NULL) {
        struct nl_bench_options bench = {.duration_ms = o.duration_ms,
                                         .warmup_ms = o.warmup_ms,
                                         .count = o.count,
                                         .connections = o.connections};
        load->options = &o;
        load->operands = operands;
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

const struct nl_command NL_CMD_BENCH_TASK = {
    .name = "bench task",
    .operands = "",
    .summary = "how fast whole tasks are: submit, run, result and output at the client",
    .details =
        "On agents that the program brings along (bench-agent-*) and that answer at once, or\n"
        "on a real one: nodelink bench task --agent web1 -- true\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .takes_command = true,
    .run = run,
};
