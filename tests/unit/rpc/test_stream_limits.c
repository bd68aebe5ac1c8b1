// What one call may cost: back-pressure both ways, and messages that are malformed, too large, or
// larger than they look. Only the call at fault ends.

#include "tests/unit/rpc/fixture.h"

// nltest.Raw under EchoService's name: sends what an Echo can't hold.
static ProtobufCServiceDescriptor raw_service;

static int setup(void **state) {
    raw_service = nltest__raw_service__descriptor;
    raw_service.name = nltest__echo_service__descriptor.name;
    struct fixture *fx = malloc(sizeof *fx);
    fixture_open(fx);
    struct nl_rpc_server_options options = {
        .message_bytes_max = 100000, .unpacked_bytes_max = 400000, .send_queue_bytes_max = 200000};
    assert_int_equal(fixture_serve(fx, options), NL_OK);
    struct nl_rpc_channel_options channel = {.message_bytes_max = 1000000,
                                             .send_queue_bytes_max = 200000};
    fixture_connect(fx, &channel);
    *state = fx;
    return 0;
}

static void start_raw(struct fixture *fx, struct probe *probe, const char *method) {
    probe->fx = fx;
    assert_int_equal(nl_rpc_call_start(fx->channel, &raw_service, method, NULL, &probe_handler,
                                       probe, &probe->call),
                     NL_OK);
}

static enum nl_rpc_code send_raw(struct fixture *fx, const char *method, Nltest__Raw *raw) {
    // A call beside it, which must not notice.
    struct probe beside = {0};
    fixture_start(fx, &beside, "Chat");
    struct probe probe = {0};
    start_raw(fx, &probe, method);
    assert_int_equal(nl_rpc_call_send(probe.call, &raw->base), NL_OK);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.received, 0);
    Nltest__Echo echo = fixture_echo("still here", 0);
    assert_int_equal(nl_rpc_call_send(beside.call, &echo.base), NL_OK);
    nl_rpc_call_half_close(beside.call);
    WAIT_FOR(fx, beside.closed);
    assert_int_equal(beside.code, NL_RPC_OK);
    assert_int_equal(beside.received, 1);
    probe_close(&beside);
    return probe.code;
}

static uint64_t bad_messages(struct fixture *fx) {
    struct nl_rpc_server_stats stats;
    nl_rpc_server_stats(fx->server, &stats);
    return stats.bad_messages;
}

static void test_invalid_utf8(void **state) {
    static const char *const texts[] = {"\xff", "\xc3(", "\xed\xa0\x80", "\xf5\x80\x80\x80",
                                        "\xc0\x80"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        Nltest__Raw raw = NLTEST__RAW__INIT;
        raw.text =
            (ProtobufCBinaryData){.len = strlen(texts[i]), .data = (uint8_t *)(uintptr_t)texts[i]};
        assert_int_equal(send_raw(*state, "Chat", &raw), NL_RPC_INVALID_ARGUMENT);
        assert_int_equal(send_raw(*state, "Unary", &raw), NL_RPC_INVALID_ARGUMENT);
    }
    assert_int_equal(bad_messages(*state), 2 * sizeof texts / sizeof texts[0]);
}

static void test_nul_in_a_string(void **state) {
    uint8_t text[] = {'a', 0, 'b'};
    Nltest__Raw raw = NLTEST__RAW__INIT;
    raw.text = (ProtobufCBinaryData){.len = sizeof text, .data = text};
    assert_int_equal(send_raw(*state, "Chat", &raw), NL_RPC_INVALID_ARGUMENT);
}

static void test_malformed_submessage(void **state) {
    uint8_t item[] = {0x08, 0xff};  // a varint without its end
    ProtobufCBinaryData items[] = {{.len = sizeof item, .data = item}};
    Nltest__Raw raw = NLTEST__RAW__INIT;
    raw.n_items = 1;
    raw.items = items;
    assert_int_equal(send_raw(*state, "Chat", &raw), NL_RPC_INVALID_ARGUMENT);
}

// 2 bytes on the wire become a message of 40 in memory and a pointer.
static void test_unpack_bomb(void **state) {
    enum { ITEMS = 40000 };
    ProtobufCBinaryData *items = calloc(ITEMS, sizeof *items);
    Nltest__Raw raw = NLTEST__RAW__INIT;
    raw.n_items = ITEMS;
    raw.items = items;
    assert_int_equal(send_raw(*state, "Chat", &raw), NL_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(send_raw(*state, "Unary", &raw), NL_RPC_RESOURCE_EXHAUSTED);
    free(items);
}

static void test_oversized_message(void **state) {
    uint8_t *data = calloc(1, 150000);
    Nltest__Raw raw = NLTEST__RAW__INIT;
    raw.data = (ProtobufCBinaryData){.len = 150000, .data = data};
    assert_int_equal(send_raw(*state, "Chat", &raw), NL_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(send_raw(*state, "Unary", &raw), NL_RPC_RESOURCE_EXHAUSTED);
    free(data);
}

static void test_oversized_is_refused_by_the_sender(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    uint8_t *data = calloc(1, 1000001);
    Nltest__Echo echo = fixture_echo("", 0);
    echo.data = (ProtobufCBinaryData){.len = 1000001, .data = data};
    assert_int_equal(nl_rpc_call_send(probe.call, &echo.base), NL_ETOOBIG);
    free(data);
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.code, NL_RPC_OK);
}

// The server's limits do not bind its replies' reader; the channel has its own.
static void test_client_refuses_bad_replies(void **state) {
    struct fixture *fx = *state;
    struct nl_rpc_channel_options options = {.message_bytes_max = 1000};
    fixture_disconnect(fx);
    fixture_connect(fx, &options);
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, fx->chats_open == 1);
    uint8_t data[2000] = {0};
    Nltest__Echo echo = fixture_echo("", 0);
    echo.data = (ProtobufCBinaryData){.len = sizeof data, .data = data};
    assert_int_equal(nl_rpc_call_send(fx->chat, &echo.base), NL_OK);
    WAIT_FOR(fx, probe.closed && fx->chats_closed == 1);
    assert_int_equal(probe.code, NL_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(fx->chat_code, NL_RPC_CANCELLED);
}

// ---- back-pressure ---------------------------------------------------------

static int send_sized(struct nl_rpc_call *call, uint64_t seq) {
    uint8_t data[1000] = {0};
    Nltest__Echo echo = fixture_echo("quiet", seq);
    echo.data = (ProtobufCBinaryData){.len = sizeof data, .data = data};
    return nl_rpc_call_send(call, &echo.base);
}

// Sends until the peer, which does not read, holds the sender back for 200 turns of the loop.
static uint64_t send_until_stuck(struct fixture *fx, struct nl_rpc_call *call) {
    uint64_t sent = 0;
    for (unsigned stuck = 0; stuck < 200;) {
        int rc = send_sized(call, sent);
        if (rc == NL_OK) {
            sent++;
            stuck = 0;
            assert_true(sent < 10000);
        } else {
            assert_int_equal(rc, NL_EFULL);
            uv_run(&fx->loop, UV_RUN_NOWAIT);
            uv_run(&fx->loop, UV_RUN_ONCE);
            stuck++;
        }
        assert_true(nl_rpc_call_queued_bytes(call) <= 200000);
    }
    return sent;
}

static void test_slow_server_holds_the_client_back(void **state) {
    struct fixture *fx = *state;
    fx->hold_chat = true;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, fx->chats_open == 1);
    uint64_t sent = send_until_stuck(fx, probe.call);
    // The send queue (200 KB), the stream's window (128 KB), the receive queue (64 messages), and
    // what is in the sockets' and gRPC's hands.
    assert_true(sent > 200 && sent < 2000);
    assert_int_equal(fx->chat_received, 0);
    unsigned before = probe.writables;
    nl_rpc_call_resume(fx->chat);
    WAIT_FOR(fx, probe.writables > before);
    assert_int_equal(send_sized(probe.call, sent), NL_OK);
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(fx->chat_received, sent + 1);
}

static void test_slow_client_holds_the_server_back(void **state) {
    struct fixture *fx = *state;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    nl_rpc_call_pause(probe.call);
    WAIT_FOR(fx, fx->chats_open == 1);
    uint64_t sent = send_until_stuck(fx, fx->chat);
    assert_true(sent > 200 && sent < 2000);
    assert_int_equal(probe.received, 0);
    nl_rpc_call_finish(fx->chat, NL_RPC_OK, NULL);
    nl_rpc_call_resume(probe.call);
    WAIT_FOR(fx, probe.closed);
    assert_int_equal(probe.received, sent);
    assert_false(probe.out_of_order);
    assert_int_equal(probe.code, NL_RPC_OK);
    probe_close(&probe);
}

// A paused reader still hears that the other side is gone.
static void test_paused_call_is_closed_by_cancel(void **state) {
    struct fixture *fx = *state;
    fx->hold_chat = true;
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, fx->chats_open == 1);
    send_until_stuck(fx, probe.call);
    nl_rpc_call_cancel(probe.call);
    WAIT_FOR(fx, fx->chats_closed == 1 && probe.closed);
    assert_int_equal(fx->chat_code, NL_RPC_CANCELLED);
}

// One message over the queue's limit, but not over the message limit, goes when it is alone.
static void test_large_message_alone(void **state) {
    struct fixture *fx = *state;
    struct nl_rpc_channel_options options = {.send_queue_bytes_max = 1000};
    fixture_disconnect(fx);
    fixture_connect(fx, &options);
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    uint8_t data[50000] = {0};
    Nltest__Echo echo = fixture_echo("", 0);
    echo.data = (ProtobufCBinaryData){.len = sizeof data, .data = data};
    assert_int_equal(nl_rpc_call_send(probe.call, &echo.base), NL_OK);
    WAIT_FOR(fx, probe.received == 1);
    assert_int_equal(probe.last_data_len, sizeof data);
    nl_rpc_call_half_close(probe.call);
    WAIT_FOR(fx, probe.closed);
    probe_close(&probe);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_invalid_utf8),
        TEST(test_nul_in_a_string),
        TEST(test_malformed_submessage),
        TEST(test_unpack_bomb),
        TEST(test_oversized_message),
        TEST(test_oversized_is_refused_by_the_sender),
        TEST(test_client_refuses_bad_replies),
        TEST(test_slow_server_holds_the_client_back),
        TEST(test_slow_client_holds_the_server_back),
        TEST(test_paused_call_is_closed_by_cancel),
        TEST(test_large_message_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
