// Calls of every kind: order, end, errors, deadlines, metadata, cancel.

#include "tests/unit/rpc/fixture.h"

#define MANY 100000

static void test_unary(void **state) {
    struct fixture *fx = *state;
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_OK);
    assert_string_equal(fixture_reply, "hello");
    assert_int_equal(fixture_unary(fx, "fail", 0), NL_RPC_FAILED_PRECONDITION);
    assert_string_equal(fixture_reply, "as asked");
}

static void test_unary_deadline(void **state) {
    struct fixture *fx = *state;
    // On a busy machine a deadline can pass before the server has seen the call.
    for (uint64_t ms = 50; fx->later == NULL && ms < 30000; ms *= 2) {
        assert_int_equal(fixture_unary(fx, "later", ms), NL_RPC_DEADLINE_EXCEEDED);
    }
    WAIT_FOR(fx, fx->later != NULL && nl_rpc_call_is_closed(fx->later));
}

static void test_unary_answered_later(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Unary");
    Nltest__Echo echo = fixture_echo("later", 0);
    assert_int_equal(nl_rpc_call_send(probe.call, &echo.base), NL_OK);
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, fx->later != NULL);
    assert_true(nl_rpc_call_time_left_ms(fx->later) == UINT64_MAX);
    assert_string_equal(nl_rpc_call_method(fx->later), "/nltest.EchoService/Unary");
    assert_true(strncmp(nl_rpc_call_peer(fx->later), "127.0.0.1:", 10) == 0);
    assert_null(nl_rpc_call_peer_name(fx->later));
    nl_rpc_call_reply(fx->later, &echo.base);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_OK);
    assert_int_equal(probe.received, 1);
    // The server's side closes a moment after the client has its status.
    WAIT_FOR(fx, nl_rpc_call_is_closed(fx->later));
    nl_rpc_call_finish(fx->later, NL_RPC_INTERNAL, "twice");
    assert_int_equal(nl_rpc_call_send(fx->later, &echo.base), NL_ECLOSED);
    probe_close(&probe);
}

static void test_unary_without_request(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Unary");
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_INVALID_ARGUMENT);
}

static void test_no_such_method(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Unlisted");
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_UNIMPLEMENTED);
    struct nl_rpc_call *call;
    assert_int_equal(nl_rpc_call_start(fx->channel, &nltest__echo_service__descriptor, "Missing",
                                       NULL, &probe_handler, &probe, &call),
                     NL_EINVAL);
}

static void test_denied(void **state) {
    struct fixture *fx = *state;
    fx->deny = true;
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_UNAUTHENTICATED);
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_UNAUTHENTICATED);
    assert_int_equal(fx->chats_open + fx->chats_closed, 0);
}

static void test_collect(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Collect");
    for (uint64_t i = 0; i < MANY;) {
        Nltest__Echo echo = fixture_echo("0123456789", i);
        int rc = nl_rpc_call_send(probe.call, &echo.base);
        if (rc == NL_OK) {
            i++;
            continue;
        }
        assert_int_equal(rc, NL_EFULL);
        unsigned before = probe.writables;
        WAIT_FOR(fx, probe.writables > before);
    }
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_OK);
    assert_int_equal(probe.expected_seq, MANY + 1);
    probe_close(&probe);
}

static void test_generate(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Generate");
    Nltest__Echo echo = fixture_echo("", MANY);
    assert_int_equal(nl_rpc_call_send(probe.call, &echo.base), NL_OK);
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_OK);
    assert_int_equal(probe.received, MANY);
    assert_false(probe.out_of_order);
    probe_close(&probe);
}

static void test_chat(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    for (uint64_t i = 0; i < MANY;) {
        Nltest__Echo echo = fixture_echo("0123456789", i);
        // The server echoes without a queue of its own, so not more than it may have to send.
        if (i - probe.received < 1000 && nl_rpc_call_send(probe.call, &echo.base) == NL_OK) {
            i++;
        } else {
            uint64_t before = probe.received;
            WAIT_FOR(fx, probe.received > before);
        }
    }
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_OK);
    assert_int_equal(probe.received, MANY);
    assert_false(probe.out_of_order);
    assert_int_equal(fx->chat_half_closes, 1);
    WAIT_FOR(fx, fx->chats_closed == 1);
    assert_int_equal(fx->chat_code, NL_RPC_OK);
    probe_close(&probe);
}

static void test_metadata(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {.fx = fx};
    struct nl_rpc_metadata metadata[] = {{"word", "swordfish"}, {0}};
    struct nl_rpc_call_options options = {.metadata = metadata};
    assert_int_equal(nl_rpc_call_start(fx->channel, &nltest__echo_service__descriptor, "Chat",
                                       &options, &probe_handler, &probe, &probe.call),
                     NL_OK);
    // Headers come before any message and before the end.
    WAIT_FOR(fx, probe.headers == 1);
    assert_string_equal(nl_rpc_call_metadata(probe.call, "word"), "swordfish");
    assert_null(nl_rpc_call_metadata(probe.call, "other"));
    assert_string_equal(nl_rpc_call_metadata(fx->chat, "word"), "swordfish");
    nl_rpc_call_cancel(probe.call);
    WAIT_FOR(fx, probe.closed);
}

static void test_bad_metadata_is_refused(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    static const struct nl_rpc_metadata cases[][2] = {
        {{"Upper", "x"}, {0}}, {{"", "x"}, {0}}, {{"key", "line\nbreak"}, {0}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct nl_rpc_call_options options = {.metadata = cases[i]};
        struct nl_rpc_call *call;
        assert_int_equal(nl_rpc_call_start(fx->channel, &nltest__echo_service__descriptor, "Chat",
                                           &options, &probe_handler, &probe, &call),
                         NL_EINVAL);
    }
}

static void test_client_cancels(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, fx->chats_open == 1);
    nl_rpc_call_cancel(probe.call);
    WAIT_FOR(fx, probe.closed && fx->chats_closed == 1);
    assert_int_equal(probe.code, NL_RPC_CANCELLED);
    assert_int_equal(fx->chat_code, NL_RPC_CANCELLED);
    assert_int_equal(probe.closed, 1);
}

static void test_server_cancels(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, fx->chats_open == 1);
    nl_rpc_call_cancel(fx->chat);
    WAIT_FOR(fx, probe.closed && fx->chats_closed == 1);
    assert_int_equal(probe.code, NL_RPC_CANCELLED);
    assert_int_equal(fx->chat_code, NL_RPC_CANCELLED);
}

static void test_status_comes_after_queued_messages(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, fx->chats_open == 1);
    for (uint64_t i = 0; i < 1000; i++) {
        Nltest__Echo echo = fixture_echo("x", i);
        assert_int_equal(nl_rpc_call_send(fx->chat, &echo.base), NL_OK);
    }
    char text[3000];
    memset(text, 'y', sizeof text);
    text[sizeof text - 1] = '\0';
    nl_rpc_call_finish(fx->chat, NL_RPC_ABORTED, text);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.received, 1000);
    assert_int_equal(probe.code, NL_RPC_ABORTED);
    assert_int_equal(strspn(probe.message, "y"), sizeof probe.message - 1);
    WAIT_FOR(fx, fx->chats_closed == 1);
    assert_int_equal(fx->chat_code, NL_RPC_ABORTED);
    probe_close(&probe);
}

static void count_done(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    assert_int_equal(status->code, NL_RPC_OK);
    nl_rpc_message_free(reply);
    ++*(unsigned *)user;
}

static void test_thousands_of_calls(void **state) {
    struct fixture *fx = *state;
    unsigned done = 0;
    for (unsigned i = 0; i < 5000; i++) {
        Nltest__Echo echo = fixture_echo("hello", i);
        assert_int_equal(nl_rpc_unary(fx->channel, &nltest__echo_service__descriptor, "Unary", NULL,
                                      &echo.base, count_done, &done, NULL),
                         NL_OK);
    }
    WAIT_FOR(fx, done == 5000);
    struct nl_rpc_server_stats stats;
    WAIT_FOR(fx, (nl_rpc_server_stats(fx->server, &stats), stats.calls_open == 0));
    assert_int_equal(stats.calls_started, 5000);
}

static void test_thousands_of_streams(void **state) {
    struct fixture *fx = *state;
    enum { STREAMS = 2000 };
    struct probe *probes = calloc(STREAMS, sizeof *probes);
    for (unsigned i = 0; i < STREAMS; i++) {
        fixture_start(fx, &probes[i], "Chat");
        Nltest__Echo echo = fixture_echo("x", 0);
        assert_int_equal(nl_rpc_call_send(probes[i].call, &echo.base), NL_OK);
        nl_rpc_call_half_close(probes[i].call);
    }
    for (unsigned i = 0; i < STREAMS; i++) {
        WAIT_FOR(fx, probes[i].closed);
        assert_int_equal(probes[i].code, NL_RPC_OK);
        assert_int_equal(probes[i].received, 1);
        probe_close(&probes[i]);
    }
    free(probes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_unary),
        TEST(test_unary_deadline),
        TEST(test_unary_answered_later),
        TEST(test_unary_without_request),
        TEST(test_no_such_method),
        TEST(test_denied),
        TEST(test_collect),
        TEST(test_generate),
        TEST(test_chat),
        TEST(test_metadata),
        TEST(test_bad_metadata_is_refused),
        TEST(test_client_cancels),
        TEST(test_server_cancels),
        TEST(test_status_comes_after_queued_messages),
        TEST(test_thousands_of_calls),
        TEST(test_thousands_of_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
