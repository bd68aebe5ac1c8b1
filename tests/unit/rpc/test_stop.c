// Stopping at every moment, and losing the other side.

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "common/base/clock.h"
#include "tests/unit/rpc/fixture.h"

#define SEED 20240607u

static int setup_empty(void **state) {
    *state = malloc(sizeof(struct fixture));
    fixture_open(*state);
    return 0;
}

static void test_nothing_started(void **state) {
    (void)state;
}

static void test_server_before_the_first_call(void **state) {
    struct fixture *fx = *state;
    assert_int_equal(fixture_serve(fx, (struct nl_rpc_server_options){0}), NL_OK);
    fixture_stop_server(fx, 10000);
}

static void test_channel_without_a_server(void **state) {
    struct fixture *fx = *state;
    snprintf(fx->target, sizeof fx->target, "127.0.0.1:1");
    fixture_connect(fx, NULL);
    assert_int_equal(fixture_unary(fx, "x", 0), NL_RPC_UNAVAILABLE);
    struct probe probe = {.fx = fx};
    struct nl_rpc_call_options options = {.wait_for_ready = true};
    assert_int_equal(nl_rpc_call_start(fx->channel, &nltest__echo_service__descriptor, "Chat",
                                       &options, &probe_handler, &probe, &probe.call),
                     NL_OK);
    fixture_disconnect(fx);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_CANCELLED);
}

static void test_close_waits_for_calls(void **state) {
    struct fixture *fx = *state;
    snprintf(fx->target, sizeof fx->target, "127.0.0.1:1");
    fixture_connect(fx, NULL);
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    fixture_close(fx);
    assert_int_equal(probe.closed, 1);
    fixture_open(fx);  // for the teardown
}

static void test_port_in_use(void **state) {
    struct fixture *fx = *state;
    assert_int_equal(fixture_serve(fx, (struct nl_rpc_server_options){0}), NL_OK);
    struct nl_rpc_server *first = fx->server;
    assert_int_equal(fixture_serve(fx, (struct nl_rpc_server_options){.address = fx->target}),
                     NL_EBUSY);
    assert_non_null(strstr(fx->error, "in use"));
    static const char *const bad[] = {"nonsense", "127.0.0.1", "192.0.2.1:0", "127.0.0.1:99999",
                                      "no-such-host.invalid:1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(fixture_serve(fx, (struct nl_rpc_server_options){.address = bad[i]}),
                         NL_EINVAL);
        assert_true(strlen(fx->error) > 10);
    }
    assert_ptr_equal(fx->server, first);
}

static void test_bad_method_table(void **state) {
    struct fixture *fx = *state;
    static const struct nl_rpc_method unknown[] = {{.name = "Nope", .kind = NL_RPC_UNARY}, {0}};
    static const struct nl_rpc_method empty[] = {{.name = "Unary", .kind = NL_RPC_UNARY}, {0}};
    const struct nl_rpc_method *const tables[] = {unknown, empty};
    for (size_t i = 0; i < 2; i++) {
        struct nl_rpc_service services[] = {
            {.descriptor = &nltest__echo_service__descriptor, .methods = tables[i]}, {0}};
        struct nl_rpc_server_options options = {.address = "127.0.0.1:0"};
        assert_int_equal(nl_rpc_server_new(fx->rpc, &options, services, &fx->server, fx->error,
                                           sizeof fx->error),
                         NL_EINVAL);
        assert_non_null(strstr(fx->error, "nltest.EchoService"));
    }
}

static void open_chats(struct fixture *fx, struct probe *probes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        fixture_start(fx, &probes[i], "Chat");
    }
    WAIT_FOR(fx, fx->chats_open == count);
}

static void test_grace_lets_calls_end(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    open_chats(fx, &probe, 1);
    fx->stopped = false;
    nl_rpc_server_stop(fx->server, 20000, NULL, NULL);
    Nltest__Echo echo = fixture_echo("x", 0);
    assert_int_equal(nl_rpc_call_send(probe.call, &echo.base), NL_OK);
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_OK);
    assert_int_equal(probe.received, 1);
    fx->server = NULL;  // it goes with its last call; the close waits for it
    probe_close(&probe);
}

static void test_grace_ends(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    open_chats(fx, &probe, 1);
    uint64_t start = nl_clock_mono_ms();
    fixture_stop_server(fx, 200);
    assert_true(nl_clock_mono_ms() - start >= 190);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(fx->chat_code, NL_RPC_CANCELLED);
    assert_int_not_equal(probe.code, NL_RPC_OK);
}

static void test_stop_with_unsent_data(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    open_chats(fx, &probe, 1);
    nl_rpc_call_pause(probe.call);
    Nltest__Echo echo = fixture_echo("quiet", 0);
    while (nl_rpc_call_send(fx->chat, &echo.base) == NL_OK) {
    }
    assert_true(nl_rpc_call_queued_bytes(fx->chat) > 0);
    fixture_stop_server(fx, 50);
    if (!probe.closed) {
        nl_rpc_call_resume(probe.call);
    }
    WAIT_FOR(fx, probe.closed);
    probe_close(&probe);
}

// The application finishes a call whose peer does not read: the status waits for the queue, and
// the grace still ends it.
static void test_stop_with_a_finish_that_waits(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    open_chats(fx, &probe, 1);
    nl_rpc_call_pause(probe.call);
    Nltest__Echo echo = fixture_echo("quiet", 0);
    while (nl_rpc_call_send(fx->chat, &echo.base) == NL_OK) {
    }
    nl_rpc_call_finish(fx->chat, NL_RPC_OK, NULL);
    fixture_stop_server(fx, 50);
    nl_rpc_call_cancel(probe.call);
    WAIT_FOR(fx, probe.closed);
}

static void test_client_gone_with_unsent_data(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fx->hold_chat = true;
    open_chats(fx, &probe, 1);
    Nltest__Echo echo = fixture_echo("quiet", 0);
    while (nl_rpc_call_send(probe.call, &echo.base) == NL_OK) {
    }
    fixture_disconnect(fx);
    WAIT_FOR(fx, probe.closed && fx->chats_closed == 1);
    assert_int_equal(probe.code, NL_RPC_CANCELLED);
    assert_int_equal(fx->chat_code, NL_RPC_CANCELLED);
}

static void test_references_outlive_everything(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    open_chats(fx, &probe, 1);
    struct nl_rpc_call *held = probe.call;
    nl_rpc_call_ref(held);
    fixture_disconnect(fx);
    fixture_stop_server(fx, 0);
    WAIT_FOR(fx, probe.closed);
    Nltest__Echo echo = fixture_echo("x", 0);
    assert_true(nl_rpc_call_is_closed(held));
    assert_int_equal(nl_rpc_call_send(held, &echo.base), NL_ECLOSED);
    nl_rpc_call_half_close(held);
    nl_rpc_call_cancel(held);
    nl_rpc_call_pause(held);
    nl_rpc_call_resume(held);
    assert_int_equal(nl_rpc_call_send_headers(fx->chat, NULL), NL_ECLOSED);
    nl_rpc_call_finish(fx->chat, NL_RPC_OK, "late");
    nl_rpc_call_unref(held);
}

static void ignore_reply(void *user, const struct nl_rpc_status *status,
                         ProtobufCMessage *message) {
    (void)status;
    nl_rpc_message_free(message);
    ++*(unsigned *)user;
}

// Calls of all kinds are on their way in different states when everything stops.
static void test_stop_in_the_middle(void **state) {
    struct fixture *fx = *state;
    enum { CALLS = 40 };
    unsigned seed = SEED;
    static const char *const methods[] = {"Chat", "Collect", "Generate", "Unary"};
    for (unsigned round = 0; round < 60; round++) {
        struct probe *probes = calloc(CALLS, sizeof *probes);
        unsigned unary = 0;
        Nltest__Echo echo = fixture_echo("later", 5000);
        for (size_t i = 0; i < CALLS; i++) {
            fixture_start(fx, &probes[i], methods[i % 4]);
            for (int n = rand_r(&seed) % 20; n > 0; n--) {
                nl_rpc_call_send(probes[i].call, &echo.base);
            }
            assert_int_equal(nl_rpc_unary(fx->channel, &nltest__echo_service__descriptor, "Unary",
                                          NULL, &echo.base, ignore_reply, &unary, NULL),
                             NL_OK);
            if (rand_r(&seed) % 8 == 0) {
                uv_run(&fx->loop, UV_RUN_NOWAIT);
            }
        }
        for (int n = rand_r(&seed) % 10; n > 0; n--) {
            uv_run(&fx->loop, UV_RUN_NOWAIT);
        }
        if (round % 2 == 0) {
            fixture_disconnect(fx);
        }
        fixture_stop_server(fx, (uint32_t)(rand_r(&seed) % 3) * 10);
        for (size_t i = 0; i < CALLS; i++) {
            WAIT_FOR(fx, probes[i].closed == 1);
            probe_close(&probes[i]);
        }
        WAIT_FOR(fx, unary == CALLS);
        free(probes);
        fixture_disconnect(fx);
        assert_int_equal(fixture_serve(fx, (struct nl_rpc_server_options){0}), NL_OK);
        fixture_connect(fx, NULL);
    }
}

static void use_own_server(struct fixture *fx, pid_t *ret_pid) {
    static const char *const arguments[] = {NULL};
    uint16_t port;
    *ret_pid = fixture_spawn_server(arguments, &port);
    snprintf(fx->target, sizeof fx->target, "127.0.0.1:%u", (unsigned)port);
    fixture_disconnect(fx);
    fixture_connect(fx, NULL);
}

static void test_server_killed_under_a_call(void **state) {
    struct fixture *fx = *state;
    pid_t pid;
    use_own_server(fx, &pid);
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, probe.headers == 1);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_UNAVAILABLE);
}

// A stopped process keeps its connections: only the keepalive notices, within 10 + 3 seconds.
static void test_server_stopped_under_a_call(void **state) {
    struct fixture *fx = *state;
    pid_t pid;
    use_own_server(fx, &pid);
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, probe.headers == 1);
    uint64_t start = nl_clock_mono_ms();
    kill(pid, SIGSTOP);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_UNAVAILABLE);
    assert_true(nl_clock_mono_ms() - start < 20000);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
#define BARE(name) cmocka_unit_test_setup_teardown(name, setup_empty, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        BARE(test_nothing_started),
        BARE(test_server_before_the_first_call),
        BARE(test_channel_without_a_server),
        BARE(test_close_waits_for_calls),
        BARE(test_port_in_use),
        BARE(test_bad_method_table),
        TEST(test_grace_lets_calls_end),
        TEST(test_grace_ends),
        TEST(test_stop_with_unsent_data),
        TEST(test_stop_with_a_finish_that_waits),
        TEST(test_client_gone_with_unsent_data),
        TEST(test_references_outlive_everything),
        TEST(test_stop_in_the_middle),
        TEST(test_server_killed_under_a_call),
        TEST(test_server_stopped_under_a_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
