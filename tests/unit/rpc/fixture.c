#include "tests/unit/rpc/fixture.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/clock.h"

#define WAIT_MS_MAX 30000

// ---- EchoService -----------------------------------------------------------

Nltest__Echo fixture_echo(const char *text, uint64_t seq) {
    Nltest__Echo echo = NLTEST__ECHO__INIT;
    echo.text = (char *)(uintptr_t)text;
    echo.seq = seq;
    return echo;
}

static void drop(struct nl_rpc_call **call) {
    if (*call != NULL) {
        nl_rpc_call_unref(*call);
        *call = NULL;
    }
}

static void on_unary(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct fixture *fx = user;
    Nltest__Echo *echo = (Nltest__Echo *)message;
    if (strcmp(echo->text, "fail") == 0) {
        nl_rpc_call_finish(call, NL_RPC_FAILED_PRECONDITION, "as asked");
    } else if (strcmp(echo->text, "later") == 0) {
        drop(&fx->later);
        nl_rpc_call_ref(call);
        fx->later = call;
    } else {
        // Of a service that nobody has; a test watches it.
        if (strcmp(echo->text, "serving") == 0 || strcmp(echo->text, "not serving") == 0) {
            nl_rpc_server_set_health(fx->server, "toggle", echo->text[0] == 's');
        }
        nl_rpc_call_reply(call, message);
    }
    nl_rpc_message_free(message);
}

struct collect {
    uint64_t count;
};

static void on_collect_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct collect *collect = user;
    if (((Nltest__Echo *)message)->seq != collect->count) {
        nl_rpc_call_finish(call, NL_RPC_INTERNAL, "out of order");
    }
    collect->count++;
    nl_rpc_message_free(message);
}

static void on_collect_end(struct nl_rpc_call *call, void *user) {
    struct collect *collect = user;
    Nltest__Echo reply = fixture_echo("", collect->count);
    nl_rpc_call_reply(call, &reply.base);
}

static void on_collect_closed(struct nl_rpc_call *call, void *user,
                              const struct nl_rpc_status *status) {
    (void)call;
    (void)status;
    free(user);
}

static void on_collect(struct nl_rpc_call *call, void *user) {
    (void)user;
    static const struct nl_rpc_handler handler = {.on_message = on_collect_message,
                                                  .on_half_close = on_collect_end,
                                                  .on_closed = on_collect_closed};
    nl_rpc_call_set_handler(call, &handler, calloc(1, sizeof(struct collect)));
}

struct generate {
    uint64_t next, count;
};

static void generate_some(struct nl_rpc_call *call, void *user) {
    struct generate *generate = user;
    while (generate->next < generate->count) {
        Nltest__Echo echo = fixture_echo("", generate->next);
        int rc = nl_rpc_call_send(call, &echo.base);
        if (rc != NL_OK) {
            assert_true(rc == NL_EFULL || rc == NL_ECLOSED);
            return;
        }
        generate->next++;
    }
    nl_rpc_call_finish(call, NL_RPC_OK, NULL);
}

static void on_generate(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)user;
    static const struct nl_rpc_handler handler = {.on_writable = generate_some,
                                                  .on_closed = on_collect_closed};
    struct generate *generate = calloc(1, sizeof *generate);
    generate->count = ((Nltest__Echo *)message)->seq;
    nl_rpc_message_free(message);
    nl_rpc_call_set_handler(call, &handler, generate);
    generate_some(call, generate);
}

static void on_chat_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct fixture *fx = user;
    fx->chat_received++;
    if (strcmp(((Nltest__Echo *)message)->text, "quiet") != 0) {
        nl_rpc_call_send(call, message);
    }
    nl_rpc_message_free(message);
}

static void on_chat_end(struct nl_rpc_call *call, void *user) {
    ((struct fixture *)user)->chat_half_closes++;
    nl_rpc_call_finish(call, NL_RPC_OK, "");
}

static void on_chat_closed(struct nl_rpc_call *call, void *user,
                           const struct nl_rpc_status *status) {
    struct fixture *fx = user;
    fx->chat_code = status->code;
    fx->chats_open--;
    fx->chats_closed++;
    assert_true(nl_rpc_call_is_closed(call));
}

static void on_chat(struct nl_rpc_call *call, void *user) {
    static const struct nl_rpc_handler handler = {
        .on_message = on_chat_message, .on_half_close = on_chat_end, .on_closed = on_chat_closed};
    struct fixture *fx = user;
    nl_rpc_call_set_handler(call, &handler, fx);
    drop(&fx->chat);
    nl_rpc_call_ref(call);
    fx->chat = call;
    fx->chats_open++;
    if (fx->hold_chat) {
        nl_rpc_call_pause(call);
    }
    const char *word = nl_rpc_call_metadata(call, "word");
    struct nl_rpc_metadata metadata[] = {{"word", word != NULL ? word : "none"}, {0}};
    nl_rpc_call_send_headers(call, metadata);
}

static bool on_authorize(struct nl_rpc_call *call, void *user) {
    if (((struct fixture *)user)->deny) {
        nl_rpc_call_finish(call, NL_RPC_UNAUTHENTICATED, "no");
        return false;
    }
    return true;
}

static const struct nl_rpc_method methods[] = {
    {.name = "Unary", .kind = NL_RPC_UNARY, .request = on_unary},
    {.name = "Collect", .kind = NL_RPC_CLIENT_STREAM, .stream = on_collect},
    {.name = "Generate", .kind = NL_RPC_SERVER_STREAM, .request = on_generate},
    {.name = "Chat", .kind = NL_RPC_BIDI, .stream = on_chat},
    {0},
};
static struct nl_rpc_service services[2];

struct nl_rpc_service fixture_echo_service(struct fixture *fx) {
    return (struct nl_rpc_service){.descriptor = &nltest__echo_service__descriptor,
                                   .methods = methods,
                                   .user = fx,
                                   .authorize = on_authorize};
}

// ---- loop ------------------------------------------------------------------

static void on_tick(uv_timer_t *timer) {
    (void)timer;
}

void fixture_expect_before(struct fixture *fx, uint64_t *ret_deadline_ms) {
    (void)fx;
    *ret_deadline_ms = nl_clock_mono_ms() + WAIT_MS_MAX;
}

void fixture_turn(struct fixture *fx, uint64_t deadline_ms, const char *what) {
    if (nl_clock_mono_ms() > deadline_ms) {
        fail_msg("not within %d ms: %s", WAIT_MS_MAX, what);
    }
    uv_run(&fx->loop, UV_RUN_ONCE);
}

void fixture_open(struct fixture *fx) {
    memset(fx, 0, sizeof *fx);
    assert_int_equal(uv_loop_init(&fx->loop), 0);
    uv_timer_init(&fx->loop, &fx->tick);
    uv_timer_start(&fx->tick, on_tick, 20, 20);
    const char *pollers = getenv("RPC_TEST_POLLERS");
    if (pollers != NULL) {
        assert_int_equal(nl_rpc_new_with_pollers(&fx->loop, (unsigned)atoi(pollers), &fx->rpc),
                         NL_OK);
    } else {
        assert_int_equal(nl_rpc_new(&fx->loop, &fx->rpc), NL_OK);
    }
}

int fixture_serve(struct fixture *fx, struct nl_rpc_server_options options) {
    services[0] = fixture_echo_service(fx);
    if (options.address == NULL) {
        options.address = "127.0.0.1:0";
    }
    int rc =
        nl_rpc_server_new(fx->rpc, &options, services, &fx->server, fx->error, sizeof fx->error);
    if (rc == NL_OK) {
        snprintf(fx->target, sizeof fx->target, "127.0.0.1:%u",
                 (unsigned)nl_rpc_server_port(fx->server));
    }
    return rc;
}

void fixture_connect(struct fixture *fx, const struct nl_rpc_channel_options *options) {
    assert_int_equal(nl_rpc_channel_new(fx->rpc, fx->target, options, &fx->channel), NL_OK);
}

void fixture_disconnect(struct fixture *fx) {
    nl_rpc_channel_free(fx->channel);
    fx->channel = NULL;
}

static void on_stopped(void *user) {
    ((struct fixture *)user)->stopped = true;
}

static void on_closed(void *user) {
    ((struct fixture *)user)->closed = true;
}

void fixture_stop_server(struct fixture *fx, uint32_t grace_ms) {
    fx->stopped = false;
    nl_rpc_server_stop(fx->server, grace_ms, on_stopped, fx);
    WAIT_FOR(fx, fx->stopped);
    fx->server = NULL;
}

void fixture_close(struct fixture *fx) {
    fixture_disconnect(fx);
    if (fx->server != NULL) {
        fixture_stop_server(fx, 0);
    }
    drop(&fx->chat);
    drop(&fx->later);
    nl_rpc_close(fx->rpc, on_closed, fx);
    WAIT_FOR(fx, fx->closed);
    uv_close((uv_handle_t *)&fx->tick, NULL);
    uv_run(&fx->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&fx->loop), 0);
}

int fixture_setup(void **state) {
    struct fixture *fx = malloc(sizeof *fx);
    fixture_open(fx);
    assert_int_equal(fixture_serve(fx, (struct nl_rpc_server_options){0}), NL_OK);
    fixture_connect(fx, NULL);
    *state = fx;
    return 0;
}

int fixture_teardown(void **state) {
    fixture_close(*state);
    free(*state);
    return 0;
}

// ---- client ----------------------------------------------------------------

static void on_probe_headers(struct nl_rpc_call *call, void *user) {
    (void)call;
    ((struct probe *)user)->headers++;
}

static void on_probe_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)call;
    struct probe *probe = user;
    Nltest__Echo *echo = (Nltest__Echo *)message;
    assert_int_equal(probe->closed, 0);
    probe->out_of_order |= echo->seq != probe->expected_seq;
    probe->expected_seq = echo->seq + 1;
    probe->received++;
    probe->last_data_len = echo->data.len;
    free(probe->last_text);
    probe->last_text = strdup(echo->text);
    nl_rpc_message_free(message);
}

static void on_probe_writable(struct nl_rpc_call *call, void *user) {
    (void)call;
    ((struct probe *)user)->writables++;
}

static void on_probe_closed(struct nl_rpc_call *call, void *user,
                            const struct nl_rpc_status *status) {
    (void)call;
    struct probe *probe = user;
    probe->closed++;
    probe->code = status->code;
    snprintf(probe->message, sizeof probe->message, "%s", status->message);
}

const struct nl_rpc_handler probe_handler = {.on_headers = on_probe_headers,
                                             .on_message = on_probe_message,
                                             .on_writable = on_probe_writable,
                                             .on_closed = on_probe_closed};

void probe_close(struct probe *probe) {
    free(probe->last_text);
}

void fixture_start(struct fixture *fx, struct probe *probe, const char *method) {
    probe->fx = fx;
    assert_int_equal(nl_rpc_call_start(fx->channel, &nltest__echo_service__descriptor, method, NULL,
                                       &probe_handler, probe, &probe->call),
                     NL_OK);
}

// ---- a server of its own ---------------------------------------------------

pid_t fixture_spawn_server(const char *const *arguments, uint16_t *ret_port) {
    int out[2];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    char *argv[16] = {(char *)(uintptr_t)RPC_TEST_SERVER};
    for (size_t i = 0; arguments[i] != NULL; i++) {
        argv[i + 1] = (char *)(uintptr_t)arguments[i];
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    pid_t pid;
    assert_int_equal(posix_spawn(&pid, argv[0], &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");
    unsigned port;
    assert_int_equal(fscanf(lines, "port %u", &port), 1);
    *ret_port = (uint16_t)port;
    fclose(lines);
    return pid;
}

char fixture_reply[256];

struct unary {
    bool done;
    enum nl_rpc_code code;
};

static void on_unary_done(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    struct unary *unary = user;
    unary->done = true;
    unary->code = status->code;
    assert_true((reply != NULL) == (status->code == NL_RPC_OK));
    snprintf(fixture_reply, sizeof fixture_reply, "%s",
             reply != NULL ? ((Nltest__Echo *)reply)->text : status->message);
    nl_rpc_message_free(reply);
}

enum nl_rpc_code fixture_unary(struct fixture *fx, const char *text, uint64_t timeout_ms) {
    struct unary unary = {0};
    Nltest__Echo echo = fixture_echo(text, 0);
    struct nl_rpc_call_options options = {.timeout_ms = timeout_ms};
    assert_int_equal(nl_rpc_unary(fx->channel, &nltest__echo_service__descriptor, "Unary", &options,
                                  &echo.base, on_unary_done, &unary, NULL),
                     NL_OK);
    WAIT_FOR(fx, unary.done);
    return unary.code;
}
