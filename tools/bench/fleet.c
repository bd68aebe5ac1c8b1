#include "tools/bench/fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"

enum {
    TICK_MS = 5,
    CONNECTS_PER_S = 2000,
    WELCOME_MS = 10000,
    BACKOFF_MS = 1000,
    BACKOFF_MS_MAX = 60000,
    ALL_UP_MS_MIN = 30000,
    GONE_MS = 5000,
    PINGS_MISSED_MAX = 3,
    QUIET_US = 200000,
};

// A result that is not acknowledged.
struct result {
    struct result *next;
    uint32_t attempt;
    uint64_t stdout_bytes;
    uint8_t stdout_sha256[32];
    uint64_t at_ms;
    char task_id[];
};

enum agent_state { IDLE, CONNECTING, GREETING, UP };

// IDLE -(due)-> CONNECTING -(headers)-> GREETING -(Welcome)-> UP; the end of the stream -> IDLE
struct nl_fleet_agent {
    struct nl_fleet *fleet;
    char id[48];
    char *token;  // owned
    enum agent_state state;
    size_t address;  // of the next or current connection
    struct nl_rpc_channel *channel;
    struct nl_rpc_call *call;
    uint64_t epoch;
    uint64_t due_us;     // IDLE: connect; CONNECTING, GREETING: give up; UP: ping
    uint64_t began_us;   // connecting
    uint64_t lost_us;    // 0: never was up, or is up
    uint64_t pinged_us;  // 0: no ping is unanswered
    uint64_t ping_us;    // between pings
    uint32_t tries;      // since it was up
    struct result *results;
};

struct nl_fleet {
    struct nl_bench *bench;
    struct nl_fleet_options options;
    struct nl_fleet_hooks hooks;
    struct nl_fleet_agent *agents;
    struct nl_fleet_stats stats;
    char boot_id[27];
    uint8_t of_nothing[32];  // SHA-256
    uv_timer_t timer;
    bool started, closing;
    size_t open_calls;
    size_t unacked;         // results
    uint64_t quiet_us;      // since when there are none
    uint64_t allowance_us;  // when the next new connection may begin
};

const char *nl_fleet_id(const struct nl_fleet *fleet, size_t index) {
    return fleet->agents[index].id;
}

struct nl_fleet_stats *nl_fleet_stats(struct nl_fleet *fleet) {
    return &fleet->stats;
}

size_t nl_fleet_index(const struct nl_fleet_agent *agent) {
    return (size_t)(agent - agent->fleet->agents);
}

// ---- what an agent says ----------------------------------------------------

int nl_fleet_send(struct nl_fleet_agent *agent, Nodelink__V1__TaskResponse *response) {
    response->agent_id = agent->id;
    response->epoch = agent->epoch;
    return agent->call != NULL ? nl_rpc_call_send(agent->call, &response->base) : NL_ECLOSED;
}

static void say_hello(struct nl_fleet_agent *agent) {
    Nodelink__V1__Hello hello = NODELINK__V1__HELLO__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    size_t n = 0;
    for (struct result *r = agent->results; r != NULL; r = r->next) {
        n++;
    }
    Nodelink__V1__TaskRef *refs = calloc(n + 1, sizeof *refs);
    Nodelink__V1__TaskRef **pointers = calloc(n + 1, sizeof *pointers);
    if (refs != NULL && pointers != NULL) {
        size_t i = 0;
        for (struct result *r = agent->results; r != NULL; r = r->next, i++) {
            nodelink__v1__task_ref__init(&refs[i]);
            refs[i].task_id = r->task_id;
            refs[i].attempt = r->attempt;
            refs[i].phase = NODELINK__V1__TASK_REF__PHASE__FINISHED;
            refs[i].started_ms = r->at_ms;
            pointers[i] = &refs[i];
        }
        hello.version = (char *)"bench";
        hello.boot_id = agent->fleet->boot_id;
        hello.journal_id = agent->fleet->boot_id;
        hello.hostname = (char *)"bench";
        hello.os = (char *)"linux";
        hello.last_epoch = agent->epoch;
        hello.n_tasks = n;
        hello.tasks = pointers;
        response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_HELLO;
        response.hello = &hello;
        nl_fleet_send(agent, &response);
    }
    free(refs);
    free(pointers);
}

int nl_fleet_started(struct nl_fleet_agent *agent, const char *task_id, uint32_t attempt) {
    Nodelink__V1__TaskStarted started = NODELINK__V1__TASK_STARTED__INIT;
    Nodelink__V1__ShellExecuteResponse shell = NODELINK__V1__SHELL_EXECUTE_RESPONSE__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    started.started_ms = nl_clock_wall_ms();
    started.pid = 1;
    response.task_id = (char *)task_id;
    response.attempt = attempt;
    response.status = NODELINK__V1__TASK_RESPONSE__STATUS__IN_PROGRESS;
    response.response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE;
    response.shell_execute = &shell;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_STARTED;
    response.started = &started;
    return nl_fleet_send(agent, &response);
}

static int send_result(struct nl_fleet_agent *agent, struct result *r) {
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    Nodelink__V1__ShellExecuteResponse shell = NODELINK__V1__SHELL_EXECUTE_RESPONSE__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    result.started_ms = result.finished_ms = r->at_ms;
    result.stdout_bytes = r->stdout_bytes;
    result.stdout_sha256 = (ProtobufCBinaryData){sizeof r->stdout_sha256, r->stdout_sha256};
    result.stderr_sha256 =
        (ProtobufCBinaryData){sizeof agent->fleet->of_nothing, agent->fleet->of_nothing};
    response.task_id = r->task_id;
    response.attempt = r->attempt;
    response.status = NODELINK__V1__TASK_RESPONSE__STATUS__COMPLETED;
    response.is_final = true;
    response.response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE;
    response.shell_execute = &shell;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT;
    response.result = &result;
    return nl_fleet_send(agent, &response);
}

int nl_fleet_finish(struct nl_fleet_agent *agent, const char *task_id, uint32_t attempt,
                    uint64_t stdout_bytes, const uint8_t stdout_sha256[32]) {
    size_t len = strlen(task_id) + 1;
    struct result *r = calloc(1, sizeof *r + len);
    if (r == NULL) {
        return NL_ENOMEM;
    }
    memcpy(r->task_id, task_id, len);
    memcpy(r->stdout_sha256, stdout_sha256, sizeof r->stdout_sha256);
    r->stdout_bytes = stdout_bytes;
    r->attempt = attempt;
    r->at_ms = nl_clock_wall_ms();
    r->next = agent->results;
    agent->results = r;
    agent->fleet->unacked++;
    agent->fleet->stats.finished++;
    return send_result(agent, r);
}

void nl_fleet_answer(struct nl_fleet_agent *agent, const char *task_id, uint32_t attempt) {
    nl_fleet_finish(agent, task_id, attempt, 0, agent->fleet->of_nothing);
}

static void say_pong(struct nl_fleet_agent *agent, uint64_t nonce) {
    Nodelink__V1__Pong pong = NODELINK__V1__PONG__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    pong.nonce = nonce;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_PONG;
    response.pong = &pong;
    nl_fleet_send(agent, &response);
}

static void say_ping(struct nl_fleet_agent *agent, uint64_t now_us) {
    Nodelink__V1__Ping ping = NODELINK__V1__PING__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    ping.nonce = now_us;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_PING;
    response.ping = &ping;
    if (nl_fleet_send(agent, &response) == NL_OK) {
        agent->pinged_us = now_us;
    }
}

// Tasks that answer at once have no output.
static void no_output(struct nl_fleet_agent *agent, const Nodelink__V1__TaskRequest *request) {
    Nodelink__V1__OutputEnd end = NODELINK__V1__OUTPUT_END__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    end.sub = request->output_open->sub;
    end.why = NODELINK__V1__OUTPUT_END__WHY__COMPLETE;
    response.task_id = request->output_open->task_id;
    response.attempt = request->output_open->attempt;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_OUTPUT_END;
    response.output_end = &end;
    nl_fleet_send(agent, &response);
}

// ---- what it is told -------------------------------------------------------

static void on_welcome(struct nl_fleet_agent *agent, const Nodelink__V1__Welcome *welcome) {
    struct nl_fleet *fleet = agent->fleet;
    uint64_t now = nl_clock_mono_us();
    uint64_t away = agent->lost_us != 0 ? now - agent->lost_us : 0;
    agent->state = UP;
    agent->epoch = welcome->epoch;
    agent->tries = 0;
    agent->lost_us = agent->pinged_us = 0;
    agent->ping_us =
        1000 * (fleet->options.ping_ms > 0 ? fleet->options.ping_ms : welcome->ping_interval_ms);
    agent->ping_us = agent->ping_us > 0 ? agent->ping_us : 10000000;
    // Spread, so that pings of a fleet that connected together don't come together for ever.
    agent->due_us = now + (uint64_t)rand() % agent->ping_us;
    fleet->stats.connected++;
    fleet->stats.last_us = now;
    nl_histogram_add(&fleet->stats.connect_us, now - agent->began_us);
    if (away > 0) {
        nl_histogram_add(&fleet->stats.away_us, away);
    }
    for (struct result *r = agent->results; r != NULL; r = r->next) {
        send_result(agent, r);
    }
    if (fleet->hooks.up != NULL) {
        fleet->hooks.up(fleet->options.user, agent, away);
    }
}

static void on_ack(struct nl_fleet_agent *agent, const Nodelink__V1__ResultAck *ack) {
    for (struct result **at = &agent->results; *at != NULL; at = &(*at)->next) {
        if (strcmp((*at)->task_id, ack->task_id) == 0 && (*at)->attempt == ack->attempt) {
            struct result *r = *at;
            *at = r->next;
            free(r);
            agent->fleet->unacked--;
            agent->fleet->quiet_us = nl_clock_mono_us();
            if (agent->fleet->hooks.acked != NULL) {
                agent->fleet->hooks.acked(agent->fleet->options.user, agent, ack->task_id,
                                          ack->late);
            }
            return;
        }
    }
}

static void on_control(struct nl_fleet_agent *agent, const Nodelink__V1__TaskRequest *request) {
    struct nl_fleet *fleet = agent->fleet;
    switch (request->control_case) {
        case NODELINK__V1__TASK_REQUEST__CONTROL_WELCOME:
            on_welcome(agent, request->welcome);
            return;
        case NODELINK__V1__TASK_REQUEST__CONTROL_PING:
            say_pong(agent, request->ping->nonce);
            return;
        case NODELINK__V1__TASK_REQUEST__CONTROL_PONG:
            if (request->pong->nonce == agent->pinged_us && agent->pinged_us != 0) {
                nl_histogram_add(&fleet->stats.ping_us, nl_clock_mono_us() - agent->pinged_us);
                agent->pinged_us = 0;
            }
            return;
        case NODELINK__V1__TASK_REQUEST__CONTROL_RESULT_ACK:
            on_ack(agent, request->result_ack);
            return;
        case NODELINK__V1__TASK_REQUEST__CONTROL_DRAIN:
            nl_rpc_call_cancel(agent->call);
            return;
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_OPEN:
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CREDIT:
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CLOSE:
            if (fleet->hooks.output != NULL) {
                fleet->hooks.output(fleet->options.user, agent, request);
            } else if (request->control_case == NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_OPEN) {
                no_output(agent, request);
            }
            return;
        default:
            return;
    }
}

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct nl_fleet_agent *agent = user;
    const Nodelink__V1__TaskRequest *request = (const void *)message;
    (void)call;
    if (request->task_case == NODELINK__V1__TASK_REQUEST__TASK_SHELL_EXECUTE) {
        if (agent->fleet->hooks.run != NULL) {
            agent->fleet->hooks.run(agent->fleet->options.user, agent, request->task_id,
                                    request->attempt);
        } else {
            nl_fleet_answer(agent, request->task_id, request->attempt);
        }
    } else if (request->control_case != NODELINK__V1__TASK_REQUEST__CONTROL__NOT_SET) {
        on_control(agent, request);
    }
    nl_rpc_message_free(message);
}

// ---- its stream ------------------------------------------------------------

static void on_headers(struct nl_rpc_call *call, void *user) {
    struct nl_fleet_agent *agent = user;
    const char *protocol = nl_rpc_call_metadata(call, "nodelink-protocol");
    if (protocol == NULL || strcmp(protocol, "1") != 0) {
        nl_rpc_call_cancel(call);  // no nodelink node
        return;
    }
    agent->state = GREETING;
    say_hello(agent);
}

static uint64_t pause_us(const struct nl_fleet_agent *agent) {
    size_t n = agent->fleet->bench->cli->target.n_addresses;
    if (agent->tries < n) {
        return 0;
    }
    double ceiling = BACKOFF_MS;
    for (size_t round = agent->tries / n; round > 1 && ceiling < BACKOFF_MS_MAX; round--) {
        ceiling *= 1.5;
    }
    uint64_t most = (uint64_t)ceiling < BACKOFF_MS_MAX ? (uint64_t)ceiling : BACKOFF_MS_MAX;
    return 1000 * (1 + (uint64_t)rand() % most);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    struct nl_fleet_agent *agent = user;
    struct nl_fleet *fleet = agent->fleet;
    uint64_t now = nl_clock_mono_us();
    bool was_up = agent->state == UP;
    (void)call;
    fleet->open_calls--;
    if (was_up) {
        fleet->stats.connected--;
        fleet->stats.lost++;
        agent->lost_us = now;
    } else {
        fleet->stats.refused++;
        snprintf(fleet->stats.last_refusal, sizeof fleet->stats.last_refusal, "%s: %s",
                 nl_rpc_code_name(status->code), status->message);
    }
    nl_rpc_call_unref(agent->call);
    agent->call = NULL;
    nl_rpc_channel_free(agent->channel);
    agent->channel = NULL;
    agent->state = IDLE;
    agent->address = (agent->address + 1) % fleet->bench->cli->target.n_addresses;
    agent->due_us = now + pause_us(agent);
    agent->tries++;
    if (was_up && fleet->hooks.lost != NULL) {
        fleet->hooks.lost(fleet->options.user, agent);
    }
}

static void open_stream(struct nl_fleet_agent *agent, uint64_t now_us) {
    static const struct nl_rpc_handler HANDLER = {
        .on_headers = on_headers, .on_message = on_message, .on_closed = on_closed};
    struct nl_fleet *fleet = agent->fleet;
    const struct nl_client_target *target = &fleet->bench->cli->target;
    struct nl_rpc_channel_options channel = {.tls =
                                                 target->tls.ca_file != NULL ? &target->tls : NULL};
    struct nl_rpc_metadata metadata[] = {{"agent_id", agent->id},
                                         {"agent_token", agent->token},
                                         {"nodelink-protocol", "1"},
                                         {NULL, NULL}};
    struct nl_rpc_call_options call = {.metadata = metadata};
    agent->due_us = now_us + (uint64_t)WELCOME_MS * 1000;
    if (nl_rpc_channel_new(fleet->bench->rpc, target->addresses[agent->address], &channel,
                           &agent->channel) != NL_OK) {
        return;
    }
    if (nl_rpc_call_start(agent->channel, &nodelink__v1__task_service__descriptor, "StreamTasks",
                          &call, &HANDLER, agent, &agent->call) != NL_OK) {
        nl_rpc_channel_free(agent->channel);
        agent->channel = NULL;
        return;
    }
    nl_rpc_call_ref(agent->call);
    agent->state = CONNECTING;
    agent->began_us = now_us;
    fleet->open_calls++;
}

// ---- time ------------------------------------------------------------------

// First connections are paced, what comes back after a loss is not: its pauses are its own.
static bool may_connect(struct nl_fleet *fleet, const struct nl_fleet_agent *agent,
                        uint64_t now_us) {
    uint64_t per_s =
        fleet->options.connects_per_s > 0 ? fleet->options.connects_per_s : CONNECTS_PER_S;
    if (agent->epoch != 0) {
        return true;
    }
    if (fleet->allowance_us > now_us) {
        return false;
    }
    uint64_t oldest = now_us - (uint64_t)TICK_MS * 2000;
    fleet->allowance_us = fleet->allowance_us > oldest ? fleet->allowance_us : oldest;
    fleet->allowance_us += 1000000 / per_s;
    return true;
}

static void on_due(struct nl_fleet *fleet, struct nl_fleet_agent *agent, uint64_t now_us) {
    switch (agent->state) {
        case IDLE:
            if (!fleet->closing && may_connect(fleet, agent, now_us)) {
                open_stream(agent, now_us);
            }
            return;
        case CONNECTING:
        case GREETING:
            agent->due_us = UINT64_MAX;
            nl_rpc_call_cancel(agent->call);
            return;
        case UP:
            if (agent->pinged_us != 0 &&
                now_us - agent->pinged_us > PINGS_MISSED_MAX * agent->ping_us) {
                agent->due_us = UINT64_MAX;
                nl_rpc_call_cancel(agent->call);
                return;
            }
            agent->due_us = now_us + agent->ping_us;
            if (agent->pinged_us == 0) {
                say_ping(agent, now_us);
            }
            return;
    }
}

static void on_timer(uv_timer_t *timer) {
    struct nl_fleet *fleet = timer->data;
    uint64_t now = nl_clock_mono_us();
    for (size_t i = 0; i < fleet->options.count; i++) {
        struct nl_fleet_agent *agent = &fleet->agents[i];
        if (now >= agent->due_us) {
            on_due(fleet, agent, now);
        }
    }
}

// ---- open, connect, close --------------------------------------------------

static void name_agent(void *user, size_t i, char *out, size_t size) {
    snprintf(out, size, "%s", nl_fleet_id(user, i));
}

static void take_token(void *user, size_t i, const char *token) {
    struct nl_fleet *fleet = user;
    free(fleet->agents[i].token);
    fleet->agents[i].token = token != NULL ? strdup(token) : NULL;
}

int nl_fleet_open(struct nl_bench *bench, const struct nl_fleet_options *options,
                  struct nl_fleet **ret) {
    struct nl_fleet *fleet = calloc(1, sizeof *fleet);
    if (fleet == NULL || (fleet->agents = calloc(options->count, sizeof *fleet->agents)) == NULL) {
        free(fleet);
        nl_cli_fail(bench->cli, &(struct nl_failure){.code = "INTERNAL"}, "out of memory");
        return NL_EXIT_FAILED;
    }
    fleet->bench = bench;
    fleet->options = *options;
    if (options->hooks != NULL) {
        fleet->hooks = *options->hooks;
    }
    nl_random_id(fleet->boot_id);
    nl_sha256_of("", 0, fleet->of_nothing);
    for (size_t i = 0; i < options->count; i++) {
        struct nl_fleet_agent *agent = &fleet->agents[i];
        agent->fleet = fleet;
        agent->address = options->together ? 0 : i % bench->cli->target.n_addresses;
        snprintf(agent->id, sizeof agent->id, "%s-%zu", options->prefix, i);
    }
    uv_timer_init(bench->loop, &fleet->timer);
    fleet->timer.data = fleet;
    *ret = fleet;
    struct nl_bench_jobs jobs = {.kind = NL_BENCH_CREATE_TOKEN,
                                 .n = options->count,
                                 .doing = "making tokens",
                                 .name = name_agent,
                                 .done = take_token,
                                 .user = fleet};
    return nl_bench_do_all(bench, &jobs);
}

static bool all_up(void *user) {
    struct nl_fleet *fleet = user;
    char line[96];
    snprintf(line, sizeof line, "connecting agents: %llu of %zu",
             (unsigned long long)fleet->stats.connected, fleet->options.count);
    if (fleet->stats.connected % 32 == 0) {
        nl_bench_draw(fleet->bench, line);
    }
    return fleet->stats.connected == fleet->options.count;
}

int nl_fleet_connect(struct nl_fleet *fleet) {
    struct nl_bench *b = fleet->bench;
    fleet->started = true;
    fleet->stats.first_us = nl_clock_mono_us();
    uv_timer_start(&fleet->timer, on_timer, 1, TICK_MS);
    bool ok = nl_bench_wait(b, all_up, fleet, ALL_UP_MS_MIN + fleet->options.count * 10);
    nl_bench_draw(b, "");
    if (!ok && !b->interrupted) {
        bool refused = fleet->stats.last_refusal[0] != '\0';
        nl_cli_fail(b->cli,
                    &(struct nl_failure){.code = "UNAVAILABLE",
                                         .next = "nodelink status; a node's limits are agents-max, "
                                                 "connections-max and its descriptors"},
                    "only %llu of %zu agents could connect%s%s",
                    (unsigned long long)fleet->stats.connected, fleet->options.count,
                    refused ? "; the last refusal: " : "", fleet->stats.last_refusal);
        return NL_EXIT_FAILED;
    }
    return NL_EXIT_OK;
}

// Tasks that were acknowledged last may still be on their way here.
static bool settled(void *user) {
    struct nl_fleet *fleet = user;
    return fleet->unacked == 0 && nl_clock_mono_us() - fleet->quiet_us > QUIET_US;
}

static bool all_gone(void *user) {
    return ((struct nl_fleet *)user)->open_calls == 0;
}

static void say_goodbye(struct nl_fleet_agent *agent) {
    Nodelink__V1__Goodbye goodbye = NODELINK__V1__GOODBYE__INIT;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    goodbye.reason = (char *)"the benchmark is over";
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_GOODBYE;
    response.goodbye = &goodbye;
    if (agent->state == UP) {
        nl_fleet_send(agent, &response);
        nl_rpc_call_half_close(agent->call);
    } else {
        nl_rpc_call_cancel(agent->call);
    }
}

static void leave(struct nl_fleet *fleet) {
    fleet->quiet_us = nl_clock_mono_us();
    if (fleet->stats.finished > 0) {
        nl_bench_wait(fleet->bench, settled, fleet, GONE_MS);
    }
    for (size_t i = 0; i < fleet->options.count; i++) {
        if (fleet->agents[i].call != NULL) {
            say_goodbye(&fleet->agents[i]);
        }
    }
    nl_bench_wait(fleet->bench, all_gone, fleet, GONE_MS);
    for (size_t i = 0; i < fleet->options.count; i++) {
        if (fleet->agents[i].call != NULL) {
            nl_rpc_call_cancel(fleet->agents[i].call);
        }
    }
    while (fleet->open_calls > 0) {
        uv_run(fleet->bench->loop, UV_RUN_ONCE);
    }
}

static void on_timer_closed(uv_handle_t *handle) {
    struct nl_fleet *fleet = handle->data;
    for (size_t i = 0; i < fleet->options.count; i++) {
        struct nl_fleet_agent *agent = &fleet->agents[i];
        while (agent->results != NULL) {
            struct result *next = agent->results->next;
            free(agent->results);
            agent->results = next;
        }
        free(agent->token);
    }
    free(fleet->agents);
    free(fleet);
}

void nl_fleet_close(struct nl_fleet *fleet) {
    if (fleet == NULL) {
        return;
    }
    fleet->closing = true;
    leave(fleet);
    struct nl_bench_jobs jobs = {.kind = NL_BENCH_REVOKE_TOKEN,
                                 .n = fleet->options.count,
                                 .doing = "revoking tokens",
                                 .cleaning = true,
                                 .name = name_agent,
                                 .user = fleet};
    nl_bench_do_all(fleet->bench, &jobs);
    uv_close((uv_handle_t *)&fleet->timer, on_timer_closed);
}
