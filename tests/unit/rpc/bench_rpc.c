// How fast common/rpc is, for comparing: bench_rpc [MESSAGES]. Server and client are two processes;
// messages have 100 bytes. Not a test: figures depend on the machine and on what else it does.

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "tests/unit/rpc/fixture.h"

static uint8_t payload[90];

static Nltest__Echo message_of(uint64_t seq) {
    Nltest__Echo echo = fixture_echo("", seq);
    echo.data = (ProtobufCBinaryData){.len = sizeof payload, .data = payload};
    return echo;
}

// ---- server ----------------------------------------------------------------

struct stream {
    uint64_t next, count;
};

static void on_sink_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)call;
    ((struct stream *)user)->count++;
    nl_rpc_message_free(message);
}

static void on_sink_end(struct nl_rpc_call *call, void *user) {
    Nltest__Echo reply = message_of(((struct stream *)user)->count);
    nl_rpc_call_reply(call, &reply.base);
}

static void on_stream_closed(struct nl_rpc_call *call, void *user,
                             const struct nl_rpc_status *status) {
    (void)call;
    (void)status;
    free(user);
}

static void on_collect(struct nl_rpc_call *call, void *user) {
    (void)user;
    static const struct nl_rpc_handler handler = {
        .on_message = on_sink_message, .on_half_close = on_sink_end, .on_closed = on_stream_closed};
    nl_rpc_call_set_handler(call, &handler, calloc(1, sizeof(struct stream)));
}

static void generate(struct nl_rpc_call *call, void *user) {
    struct stream *stream = user;
    for (; stream->next < stream->count; stream->next++) {
        Nltest__Echo echo = message_of(stream->next);
        if (nl_rpc_call_send(call, &echo.base) != NL_OK) {
            return;
        }
    }
    nl_rpc_call_finish(call, NL_RPC_OK, NULL);
}

static void on_generate(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)user;
    static const struct nl_rpc_handler handler = {.on_writable = generate,
                                                  .on_closed = on_stream_closed};
    struct stream *stream = calloc(1, sizeof *stream);
    stream->count = ((Nltest__Echo *)message)->seq;
    nl_rpc_message_free(message);
    nl_rpc_call_set_handler(call, &handler, stream);
    generate(call, stream);
}

static void on_unary(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)user;
    nl_rpc_call_reply(call, message);
    nl_rpc_message_free(message);
}

static void on_echo(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)user;
    nl_rpc_call_send(call, message);
    nl_rpc_message_free(message);
}

static void on_chat_end(struct nl_rpc_call *call, void *user) {
    (void)user;
    nl_rpc_call_finish(call, NL_RPC_OK, NULL);
}

static void on_chat(struct nl_rpc_call *call, void *user) {
    static const struct nl_rpc_handler handler = {.on_message = on_echo,
                                                  .on_half_close = on_chat_end};
    nl_rpc_call_set_handler(call, &handler, user);
}

static int serve(void) {
    static const struct nl_rpc_method methods[] = {
        {.name = "Unary", .kind = NL_RPC_UNARY, .request = on_unary},
        {.name = "Collect", .kind = NL_RPC_CLIENT_STREAM, .stream = on_collect},
        {.name = "Generate", .kind = NL_RPC_SERVER_STREAM, .request = on_generate},
        {.name = "Chat", .kind = NL_RPC_BIDI, .stream = on_chat},
        {0},
    };
    static const struct nl_rpc_service services[] = {
        {.descriptor = &nltest__echo_service__descriptor, .methods = methods}, {0}};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct fixture fx;
    fixture_open(&fx);
    struct nl_rpc_server_options options = {.address = "127.0.0.1:0"};
    if (nl_rpc_server_new(fx.rpc, &options, services, &fx.server, fx.error, sizeof fx.error) !=
        NL_OK) {
        fprintf(stderr, "%s\n", fx.error);
        return EXIT_FAILURE;
    }
    printf("port %u\n", (unsigned)nl_rpc_server_port(fx.server));
    fflush(stdout);
    return uv_run(&fx.loop, UV_RUN_DEFAULT);
}

// ---- client ----------------------------------------------------------------

static void report(const char *what, uint64_t count, uint64_t start_ns) {
    double seconds = (double)(nl_clock_mono_ns() - start_ns) / 1e9;
    printf("%-34s %10.0f /s   %7.2f us each\n", what, (double)count / seconds,
           seconds * 1e6 / (double)count);
    fflush(stdout);
}

static void bench_to_server(struct fixture *fx, uint64_t count) {
    struct probe probe = {0};
    uint64_t start = nl_clock_mono_ns();
    fixture_start(fx, &probe, "Collect");
    for (uint64_t i = 0; i < count;) {
        Nltest__Echo echo = message_of(i);
        if (nl_rpc_call_send(probe.call, &echo.base) == NL_OK) {
            i++;
        } else {
            unsigned before = probe.writables;
            WAIT_FOR(fx, probe.writables > before);
        }
    }
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    report("client -> server, one stream", count, start);
    probe_close(&probe);
}

static void bench_to_client(struct fixture *fx, uint64_t count) {
    struct probe probe = {0};
    uint64_t start = nl_clock_mono_ns();
    fixture_start(fx, &probe, "Generate");
    Nltest__Echo echo = message_of(count);
    nl_rpc_call_send(probe.call, &echo.base);
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    report("server -> client, one stream", probe.received, start);
    probe_close(&probe);
}

static void bench_ping_pong(struct fixture *fx, uint64_t count) {
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    uint64_t start = nl_clock_mono_ns();
    for (uint64_t i = 0; i < count; i++) {
        Nltest__Echo echo = message_of(i);
        nl_rpc_call_send(probe.call, &echo.base);
        WAIT_FOR(fx, probe.received > i);
    }
    report("ping-pong, one outstanding", count, start);
    nl_rpc_call_cancel(probe.call);
    WAIT_FOR(fx, probe.closed);
    probe_close(&probe);
}

struct load {
    struct fixture *fx;
    uint64_t started, finished, count;
};

static void start_unary(struct load *load);

static void on_unary_done(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    struct load *load = user;
    assert_int_equal(status->code, NL_RPC_OK);
    nl_rpc_message_free(reply);
    load->finished++;
    if (load->started < load->count) {
        start_unary(load);
    }
}

static void start_unary(struct load *load) {
    Nltest__Echo echo = message_of(load->started++);
    nl_rpc_unary(load->fx->channel, &nltest__echo_service__descriptor, "Unary", NULL, &echo.base,
                 on_unary_done, load, NULL);
}

static void bench_unary(struct fixture *fx, uint64_t count, unsigned outstanding) {
    struct load load = {.fx = fx, .count = count};
    uint64_t start = nl_clock_mono_ns();
    for (unsigned i = 0; i < outstanding; i++) {
        start_unary(&load);
    }
    WAIT_FOR(fx, load.finished == count);
    char what[64];
    snprintf(what, sizeof what, "unary, %u outstanding", outstanding);
    report(what, count, start);
}

static pid_t spawn_server(char *self, unsigned *ret_port) {
    int out[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    assert_int_equal(pipe(out), 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    char *argv[] = {self, (char *)(uintptr_t) "--serve", NULL};
    assert_int_equal(posix_spawn(&pid, self, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    FILE *lines = fdopen(out[0], "r");
    assert_int_equal(fscanf(lines, "port %u", ret_port), 1);
    fclose(lines);
    close(out[1]);
    return pid;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--serve") == 0) {
        return serve();
    }
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    unsigned port;
    pid_t pid = spawn_server(argv[0], &port);
    struct fixture fx;
    fixture_open(&fx);
    snprintf(fx.target, sizeof fx.target, "127.0.0.1:%u", port);
    fixture_connect(&fx, NULL);
    bench_unary(&fx, 1000, 1);  // warm up
    bench_to_server(&fx, count);
    bench_to_client(&fx, count);
    bench_ping_pong(&fx, count / 50);
    bench_unary(&fx, count / 50, 1);
    bench_unary(&fx, count / 5, 64);
    fixture_close(&fx);
    kill(pid, SIGKILL);
    return waitpid(pid, NULL, 0) == pid ? EXIT_SUCCESS : EXIT_FAILURE;
}
