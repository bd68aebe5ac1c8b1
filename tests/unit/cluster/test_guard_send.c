// What the guard does with messages: what waits for a peer that reads nothing is bounded, an answer
// that says nothing new is left out, and a leader's own write begins behind its messages. A fake
// backend takes messages and writes, and never does them.

#include <raft.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/raft/guard.h"
#include "common/base/clock.h"

enum { SENDS_MAX = 5000, ENTRY_BYTES = 1024 * 1024 };

struct sends {
    struct raft_io_send *taken[SENDS_MAX];  // what the backend holds
    raft_io_send_cb cbs[SENDS_MAX];
    unsigned n_taken;
    unsigned sent, dropped;  // what libraft was told
    unsigned before_write;   // of n_taken, when the write began
    struct raft_io_append *write[2];
    raft_io_append_cb write_cbs[2];
    unsigned writes, written;
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

static int write_entries(struct raft_io *io, struct raft_io_append *req,
                         const struct raft_entry entries[], unsigned n, raft_io_append_cb cb) {
    (void)io;
    assert_int_equal(n, 1);
    assert_int_equal(entries[0].term, 7);
    sends.write[sends.writes] = req;
    sends.write_cbs[sends.writes++] = cb;
    sends.before_write = sends.n_taken;
    return 0;
}

static void on_written(struct raft_io_append *req, int status) {
    (void)req;
    sends.written += status == 0;
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
    guard->inner.append = write_entries;
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

static void send_answer(struct nl_guard *guard, uint64_t id, raft_term term, raft_index last,
                        raft_index rejected) {
    struct raft_message message = {.type = RAFT_APPEND_ENTRIES_RESULT, .server_id = id};
    struct raft_io_send *req = calloc(1, sizeof *req);
    assert_non_null(req);
    message.append_entries_result.term = term;
    message.append_entries_result.last_log_index = last;
    message.append_entries_result.rejected = rejected;
    assert_int_equal(guard->io.send(&guard->io, req, &message, on_sent), 0);
}

// The message and its bytes live until the send is over, as libraft's do.
static void send_snapshot(struct nl_guard *guard, struct raft_message *message, size_t len) {
    struct raft_io_send *req = calloc(1, sizeof *req);
    memset(message, 0, sizeof *message);
    message->type = RAFT_INSTALL_SNAPSHOT;
    message->server_id = 2;
    message->install_snapshot.data.len = len;
    message->install_snapshot.data.base = malloc(len);  // never touched
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

static void an_answer_is_not_repeated_at_once(void **state) {
    struct nl_guard guard;
    (void)state;
    guard_open(&guard);
    send_answer(&guard, 2, 1, 10, 0);
    send_answer(&guard, 2, 1, 10, 0);
    assert_int_equal(sends.n_taken, 1);
    send_answer(&guard, 2, 1, 11, 0);  // more is stored
    send_answer(&guard, 2, 2, 11, 0);  // another term
    send_answer(&guard, 3, 2, 11, 0);  // another peer
    assert_int_equal(sends.n_taken, 4);
    send_answer(&guard, 2, 2, 11, 5);  // rejections always
    send_answer(&guard, 2, 2, 11, 5);
    assert_int_equal(sends.n_taken, 6);
    // A heartbeat's answer, later: the leader has to hear that we live.
    uint64_t until_ms = nl_clock_mono_ms() + 5000;
    while (sends.n_taken == 6 && nl_clock_mono_ms() < until_ms) {
        send_answer(&guard, 2, 2, 11, 0);
    }
    assert_int_equal(sends.n_taken, 7);
    finish_all(0);
}

static void a_held_write_begins_at_the_release(void **state) {
    struct nl_guard guard;
    struct raft_io_append req[2];
    struct raft_entry entry = {.term = 7};
    (void)state;
    guard_open(&guard);
    nl_guard_hold_appends(&guard);
    assert_int_equal(guard.io.append(&guard.io, &req[0], &entry, 1, on_written), 0);
    send_entries(&guard, 2, 1, 100);
    send_entries(&guard, 3, 1, 100);
    assert_int_equal(sends.writes, 0);
    nl_guard_release_appends(&guard);
    assert_int_equal(sends.writes, 1);
    assert_int_equal(sends.before_write, 2);
    nl_guard_release_appends(&guard);
    assert_int_equal(guard.io.append(&guard.io, &req[1], &entry, 1, on_written), 0);
    assert_int_equal(sends.writes, 2);
    sends.write_cbs[0](sends.write[0], 0);
    sends.write_cbs[1](sends.write[1], 0);
    assert_int_equal(sends.written, 2);
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
        cmocka_unit_test(an_answer_is_not_repeated_at_once),
        cmocka_unit_test(a_held_write_begins_at_the_release),
        cmocka_unit_test(one_snapshot_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
