// One loop with a server of EchoService and a channel to it, for the tests of common/rpc.
#ifndef NODELINK_TESTS_UNIT_RPC_FIXTURE_H
#define NODELINK_TESTS_UNIT_RPC_FIXTURE_H

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <echo.pb-c.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "common/base/err.h"
#include "common/rpc/rpc.h"

struct fixture {
    uv_loop_t loop;
    uv_timer_t tick;  // so that a wait looks at its deadline
    struct nl_rpc *rpc;
    struct nl_rpc_server *server;
    struct nl_rpc_channel *channel;
    char target[64];
    char error[256];
    bool stopped, closed;
    // what EchoService saw
    bool hold_chat;            // Chat pauses each call at its start
    struct nl_rpc_call *chat;  // the newest one, referenced
    unsigned chats_open;
    unsigned chats_closed;
    enum nl_rpc_code chat_code;
    uint64_t chat_received;
    uint64_t chat_half_closes;
    struct nl_rpc_call *later;  // Unary "later": referenced, not answered
    bool deny;                  // authorize says no
};

// What a client's call saw; zeroed before the start.
struct probe {
    struct fixture *fx;
    struct nl_rpc_call *call;
    unsigned headers, writables, closed;
    uint64_t received, expected_seq;
    bool out_of_order;
    enum nl_rpc_code code;
    char message[256];
    char *last_text;
    size_t last_data_len;
};
extern const struct nl_rpc_handler probe_handler;
void probe_close(struct probe *probe);  // frees what it holds

struct nl_rpc_service fixture_echo_service(struct fixture *fx);
void fixture_open(struct fixture *fx);
// With options.address set by the fixture.
int fixture_serve(struct fixture *fx, struct nl_rpc_server_options options);
void fixture_connect(struct fixture *fx, const struct nl_rpc_channel_options *options);
void fixture_disconnect(struct fixture *fx);
void fixture_stop_server(struct fixture *fx, uint32_t grace_ms);
// Stops what is left, closes everything, asserts that nothing is left in the loop.
void fixture_close(struct fixture *fx);

// cmocka setup and teardown with a plain server and a channel.
int fixture_setup(void **state);
int fixture_teardown(void **state);

void fixture_expect_before(struct fixture *fx, uint64_t *ret_deadline_ms);
void fixture_turn(struct fixture *fx, uint64_t deadline_ms, const char *what);
#define WAIT_FOR(fx, condition)                        \
    do {                                               \
        uint64_t deadline_;                            \
        fixture_expect_before((fx), &deadline_);       \
        while (!(condition)) {                         \
            fixture_turn((fx), deadline_, #condition); \
        }                                              \
    } while (0)

Nltest__Echo fixture_echo(const char *text, uint64_t seq);
// Starts Chat, Collect, ... with the probe's handler.
void fixture_start(struct fixture *fx, struct probe *probe, const char *method);
// A program beside this one: rpc_test_server with arguments (ended by NULL). Its "port N" line is
// read into *ret_port.
pid_t fixture_spawn_server(const char *const *arguments, uint16_t *ret_port);

// Unary and wait for it; returns the code, the reply's text in a static buffer.
enum nl_rpc_code fixture_unary(struct fixture *fx, const char *text, uint64_t timeout_ms);
extern char fixture_reply[256];

#endif
