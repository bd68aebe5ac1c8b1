// What waits for a peer that reads nothing is bounded by the guard, whatever libraft sends. A fake
// backend takes messages and never writes them.

#include <raft.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/raft/guard.h"

enum { SENDS_MAX = 5000, ENTRY_BYTES = 1024 * 1024 };

struct sends {
    struct raft_io_send *taken[SENDS_MAX];  // what the backend holds
    raft_io_send_cb cbs[SENDS_MAX];
    unsigned n_taken;
    unsigned sent, dropped;  // what libraft was told
};

static struct sends sends;

static int take(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                raft_io_send_cb cb) {
    (void)io;
    (void)message;
    assert_true(sends.n_taken < SENDS_MAX);
    sends.taken[sends.n_taken] = req;
    sends.cbs[sends.n_taken++] = cb;
    return 0;
}

static void on_sent(struct raft_io_send *req, int status) {
    sends.sent += status == 0;
    sends.dropped += status == RAFT_NOCONNECTION;
    free(req);
}

static void never(void *user) {
    (void)user;
}

static void guard_open(struct nl_guard *guard) {
    static const struct nl_guard_hooks hooks = {.stepped = never};
    memset(guard, 0, sizeof *guard);
    memset(&sends, 0, sizeof sends);
    guard->inner.send = take;
    nl_guard_init(guard, uv_default_loop(), &hooks);
}

static void send_entries(struct nl_guard *guard, uint64_t id, unsigned n, size_t len) {
    struct raft_entry entry = {.buf = {.len = len}};
    struct raft_message message = {.type = RAFT_APPEND_ENTRIES, .server_id = id};
    message.append_entries.entries = &entry;
    message.append_entries.n_entries = len > 0 ? 1 : 0;
    for (unsigned i = 0; i < n; i++) {
        struct raft_io_send *req = calloc(1, sizeof *req);
        assert_non_null(req);
        assert_int_equal(guard->io.send(&guard->io, req, &message, on_sent), 0);
    }
}

// The message and its bytes live until the send is over, as libraft's do.
static void send_snapshot(struct nl_guard *guard, struct raft_message *message, size_t len) {
    struct raft_io_send *req = calloc(1, sizeof *req);
    memset(message, 0, sizeof *message);
    message->type = RAFT_INSTALL_SNAPSHOT;
    message->server_id = 2;
    message->install_snapshot.data.len = len;  // said, not there
    message->install_snapshot.data.base = malloc(1);
    assert_non_null(req);
    assert_int_equal(guard->io.send(&guard->io, req, message, on_sent), 0);
}

static void finish_all(int status) {
    unsigned n = sends.n_taken;
    sends.n_taken = 0;
    for (unsigned i = 0; i < n; i++) {
        sends.cbs[i](sends.taken[i], status);
    }
}

static void bytes_are_bounded(void **state) {
    struct nl_guard guard;
    (void)state;
    guard_open(&guard);
    send_entries(&guard, 2, 100, ENTRY_BYTES);
    assert_in_range(sends.n_taken, 60, 64);
    assert_int_equal(sends.dropped, 100 - sends.n_taken);
    // Another peer has room of its own.
    send_entries(&guard, 3, 1, ENTRY_BYTES);
    assert_int_equal(sends.dropped, 100 - (sends.n_taken - 1));
    finish_all(0);
    assert_int_equal(sends.sent + sends.dropped, 101);
    // What was written makes room again.
    send_entries(&guard, 2, 1, ENTRY_BYTES);
    assert_int_equal(sends.n_taken, 1);
    finish_all(RAFT_CANCELED);
}

static void messages_are_bounded(void **state) {
    struct nl_guard guard;
    (void)state;
    guard_open(&guard);
    send_entries(&guard, 2, 4500, 0);
    assert_int_equal(sends.n_taken, 4096);
    assert_int_equal(sends.dropped, 4500 - 4096);
    finish_all(0);
}

// Of any size, or a large state could never be sent; but not two of them.
static void one_snapshot_at_a_time(void **state) {
    struct nl_guard guard;
    struct raft_message messages[3];
    (void)state;
    guard_open(&guard);
    send_snapshot(&guard, &messages[0], (size_t)200 * 1024 * 1024);
    send_snapshot(&guard, &messages[1], 1024);
    assert_int_equal(sends.n_taken, 1);
    assert_int_equal(sends.dropped, 1);
    finish_all(0);
    send_snapshot(&guard, &messages[2], 1024);
    assert_int_equal(sends.n_taken, 1);
    finish_all(0);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);  // a worker frees the bytes
    assert_int_equal(uv_loop_close(uv_default_loop()), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_bounded),
        cmocka_unit_test(messages_are_bounded),
        cmocka_unit_test(one_snapshot_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
