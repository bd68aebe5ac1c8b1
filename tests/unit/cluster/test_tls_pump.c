// The pump between a user and a connection, over local sockets with small buffers.

#include <errno.h>
#include <raft.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cluster/raft/tls_pump.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "tests/unit/cluster/certs.h"
#include "tests/unit/cluster/fixture.h"

enum { CLIENT, SERVER };

// One end of a TLS connection and its user.
struct side {
    struct nl_tls_pump *pump;
    uv_stream_t *user;  // NULL: closed
    int fd;             // of the user's end, non-blocking; libuv leaves it alone
    size_t sent, got;
    uint8_t seed;
    bool ended;  // the user saw the end of the stream
    char why[256];
};

static struct fixture f;  // for its loop and its waiting
static struct nl_tls_context *context[2];
static struct nl_tls_pumps pumps;
static struct side sides[2];
static unsigned empty;

static uint8_t byte_at(const struct side *from, size_t i) {
    return (uint8_t)(i * 7 + i / 253 + from->seed);
}

// ---- pumps ---------------------------------------------------------------------

static void on_failed(void *user, void *owner, const char *address, const char *why) {
    struct side *side = owner;
    (void)user;
    assert_string_equal(address, "test");
    assert_int_equal(side->why[0], 0);
    snprintf(side->why, sizeof side->why, "%s", why);
}

static void on_empty(void *user) {
    (void)user;
    empty++;
}

static uv_stream_t *stream_of(int fd) {
    uv_pipe_t *pipe = raft_malloc(sizeof *pipe);
    uv_pipe_init(&f.loop, pipe, 0);
    assert_int_equal(uv_pipe_open(pipe, fd), 0);
    return (uv_stream_t *)pipe;
}

static void shrink(int fd) {
    int size = 1;  // the kernel takes its least
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
}

static void open_side(int which, int fd) {
    struct side *side = &sides[which];
    struct nl_tls_session *session;
    const char *host = which == CLIENT ? "127.0.0.1" : NULL;
    memset(side, 0, sizeof *side);
    side->seed = (uint8_t)(which * 100);
    shrink(fd);
    assert_int_equal(nl_tls_session_new(context[which], host, &session), NL_OK);
    assert_int_equal(
        nl_tls_pump_new(&pumps, stream_of(fd), session, side, "test", &side->pump, &side->user),
        NL_OK);
    assert_int_equal(uv_fileno((uv_handle_t *)side->user, &side->fd), 0);
    shrink(side->fd);
    nl_tls_pump_start(side->pump);
}

static void open_both(void) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    open_side(CLIENT, fds[0]);
    open_side(SERVER, fds[1]);
}

// The other end of this side is the test's own.
static int open_one(int which) {
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    open_side(which, fds[0]);
    return fds[1];
}

static void free_handle(uv_handle_t *handle) {
    raft_free(handle);
}

static void user_close(int which) {
    if (sides[which].user != NULL) {
        uv_close((uv_handle_t *)sides[which].user, free_handle);
        sides[which].user = NULL;
        if (!nl_tls_session_ready(nl_tls_pump_session(sides[which].pump))) {
            nl_tls_pump_end(sides[which].pump);
        }
    }
}

static bool all_gone(struct fixture *fixture, void *arg) {
    (void)fixture;
    (void)arg;
    nl_tls_pumps_sweep(&pumps, nl_clock_mono_ms());
    return pumps.list == NULL;
}

static void close_both(void) {
    user_close(CLIENT);
    user_close(SERVER);
    assert_true(fixture_until(&f, 5000, all_gone, NULL));
    for (int i = 0; i < 2; i++) {
        nl_tls_pump_release(sides[i].pump);
        sides[i].pump = NULL;
    }
    assert_int_equal(pumps.ending, 0);
}

// ---- users ---------------------------------------------------------------------

static void user_send(struct side *side, size_t total) {
    static uint8_t data[5000];
    while (side->user != NULL && side->sent < total) {
        size_t len = total - side->sent < sizeof data ? total - side->sent : sizeof data;
        for (size_t i = 0; i < len; i++) {
            data[i] = byte_at(side, side->sent + i);
        }
        ssize_t n = send(side->fd, data, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return;
        }
        side->sent += (size_t)n;
    }
}

static void user_read(struct side *side, const struct side *from) {
    static uint8_t data[3000];
    ssize_t n = 1;
    while (side->user != NULL && !side->ended && n > 0) {
        n = recv(side->fd, data, sizeof data, 0);
        for (ssize_t i = 0; i < n; i++) {
            assert_int_equal(data[i], byte_at(from, side->got++));
        }
        side->ended = n == 0 || (n < 0 && errno != EAGAIN);
    }
}

// How much each side sends in all, and whether the server reads.
static struct plan {
    size_t total[2];
    bool server_is_deaf;
} plan;

static void turn(void) {
    user_send(&sides[CLIENT], plan.total[CLIENT]);
    user_send(&sides[SERVER], plan.total[SERVER]);
    user_read(&sides[CLIENT], &sides[SERVER]);
    if (!plan.server_is_deaf) {
        user_read(&sides[SERVER], &sides[CLIENT]);
    }
}

static bool all_arrived(struct fixture *fixture, void *arg) {
    (void)fixture;
    (void)arg;
    turn();
    return sides[CLIENT].got == plan.total[SERVER] && sides[SERVER].got == plan.total[CLIENT];
}

static bool both_ended(struct fixture *fixture, void *arg) {
    (void)fixture;
    (void)arg;
    turn();
    return (sides[CLIENT].ended || sides[CLIENT].user == NULL) &&
           (sides[SERVER].ended || sides[SERVER].user == NULL);
}

static void exchange(size_t from_client, size_t from_server) {
    plan = (struct plan){{from_client, from_server}, false};
    assert_true(fixture_until(&f, 20000, all_arrived, NULL));
}

// ---- tests ---------------------------------------------------------------------

static struct nl_tls_context *context_of(const char *pair) {
    struct nl_tls_context *ret = NULL;
    char cert[64], key[64], text[256];
    snprintf(cert, sizeof cert, "%s.pem", pair);
    snprintf(key, sizeof key, "%s.key", pair);
    assert_int_equal(nl_tls_context_new(certs_path("ca.pem"), certs_path(cert), certs_path(key),
                                        NULL, &ret, text, sizeof text),
                     NL_OK);
    return ret;
}

static int setup(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);  // as nl_cluster_open does
    certs_open();
    uv_loop_init(&f.loop);
    pumps = (struct nl_tls_pumps){
        .loop = &f.loop, .on_failed = on_failed, .on_empty = on_empty, .user = NULL};
    context[CLIENT] = context_of("n1");
    context[SERVER] = context_of("n2");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    nl_tls_context_free(context[CLIENT]);
    nl_tls_context_free(context[SERVER]);
    uv_run(&f.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f.loop), 0);
    certs_close();
    return 0;
}

static void bytes_both_ways(void **state) {
    (void)state;
    open_both();
    exchange(1, 0);
    exchange(1, 1);
    exchange(2000000, 1000000);
    exchange(2000001, 3000000);
    empty = 0;
    close_both();
    assert_int_equal(empty, 1);
    assert_int_equal(sides[CLIENT].why[0], 0);
    assert_int_equal(sides[SERVER].why[0], 0);
}

static bool never(struct fixture *fixture, void *arg) {
    (void)fixture;
    (void)arg;
    turn();
    return false;
}

static bool client_has_all(struct fixture *fixture, void *arg) {
    (void)fixture;
    (void)arg;
    turn();
    return sides[CLIENT].got == plan.total[SERVER];
}

// Who doesn't read is felt by who writes; the other direction goes on.
static void slow_reader(void **state) {
    (void)state;
    open_both();
    plan = (struct plan){{50000000, 500000}, true};
    assert_true(fixture_until(&f, 20000, client_has_all, NULL));
    fixture_until(&f, 300, never, NULL);
    assert_true(sides[CLIENT].sent > 0);
    assert_true(sides[CLIENT].sent < 1000000);  // chunks and socket buffers, no more
    exchange(5000000, 500000);
    close_both();
}

// What was written before the end arrives before the end.
static void user_ends(void **state) {
    (void)state;
    for (int who = CLIENT; who <= SERVER; who++) {
        open_both();
        exchange(10, 10);
        plan.total[who] = 200000;
        while (sides[who].sent < plan.total[who]) {
            turn();
            uv_run(&f.loop, UV_RUN_NOWAIT);
        }
        user_close(who);
        assert_true(fixture_until(&f, 5000, both_ended, NULL));
        assert_int_equal(sides[1 - who].got, 200000);
        close_both();
        assert_int_equal(sides[CLIENT].why[0], 0);
        assert_int_equal(sides[SERVER].why[0], 0);
    }
}

static void wrong_certificate(void **state) {
    struct nl_tls_context *right = context[CLIENT];
    (void)state;
    context[CLIENT] = context_of("stranger");
    open_both();
    plan = (struct plan){{100, 100}, false};
    assert_true(fixture_until(&f, 5000, both_ended, NULL));
    assert_int_equal(sides[SERVER].got, 0);
    assert_non_null(strstr(sides[SERVER].why, "not from the CA"));
    assert_non_null(strstr(sides[CLIENT].why, "refuses this node's certificate"));
    close_both();
    nl_tls_context_free(context[CLIENT]);
    context[CLIENT] = right;
}

static bool server_has_ended(struct fixture *fixture, void *arg) {
    (void)fixture;
    (void)arg;
    user_read(&sides[SERVER], &sides[CLIENT]);
    return sides[SERVER].ended;
}

static void plain_peer(void **state) {
    (void)state;
    int fd = open_one(SERVER);
    assert_int_equal(send(fd, "nlraft1\n", 8, 0), 8);
    assert_true(fixture_until(&f, 5000, server_has_ended, NULL));
    assert_non_null(strstr(sides[SERVER].why, "speaks without TLS"));
    close(fd);
    close_both();
}

// A peer that does nothing, not even close: the owner's deadline ends it, then the linger's.
static void silent_peer(void **state) {
    (void)state;
    uint64_t start = nl_clock_mono_ms();
    int fd = open_one(SERVER);
    uv_run(&f.loop, UV_RUN_NOWAIT);
    close_both();
    assert_true(nl_clock_mono_ms() - start < 4000);
    close(fd);
}

// ---- the wire in the test's hands ----------------------------------------------

// Carries up to `limit` bytes between the two, then cuts both off. Returns how many there were.
static size_t relay(size_t limit, size_t flip) {
    int fds[2] = {open_one(CLIENT), open_one(SERVER)};
    size_t carried = 0;
    uint64_t end = nl_clock_mono_ms() + 5000;
    while (carried < limit && nl_clock_mono_ms() < end &&
           !(sides[SERVER].got == 64 && sides[CLIENT].got == 64) &&
           !(sides[CLIENT].ended && sides[SERVER].ended)) {
        turn();
        uv_run(&f.loop, UV_RUN_NOWAIT);
        for (int from = 0; from < 2; from++) {
            uint8_t data[512];
            size_t room = limit - carried < sizeof data ? limit - carried : sizeof data;
            ssize_t n = room > 0 ? recv(fds[from], data, room, 0) : 0;
            if (n > 0) {
                if (flip >= carried && flip < carried + (size_t)n) {
                    data[flip - carried] ^= 1;
                }
                carried += (size_t)n;
                send(fds[1 - from], data, (size_t)n, MSG_NOSIGNAL);
            }
        }
    }
    close(fds[0]);
    close(fds[1]);
    assert_true(fixture_until(&f, 5000, both_ended, NULL));
    close_both();
    return carried;
}

static void cut_at_every_point(void **state) {
    (void)state;
    plan = (struct plan){{64, 64}, false};
    size_t all = relay(SIZE_MAX, SIZE_MAX);
    assert_int_equal(sides[SERVER].got, 64);
    assert_true(all > 1000);
    for (size_t cut = 0; cut < all; cut += 3) {
        relay(cut, SIZE_MAX);
        assert_true(sides[SERVER].got == 0 || sides[SERVER].got == 64);
        assert_true(sides[CLIENT].got == 0 || sides[CLIENT].got == 64);
    }
}

// user_read compares every byte that gets through.
static void change_at_every_point(void **state) {
    (void)state;
    unsigned failed = 0;
    plan = (struct plan){{64, 64}, false};
    size_t all = relay(SIZE_MAX, SIZE_MAX);
    for (size_t at = 5; at < all; at += 11) {
        relay(all, at);
        failed += sides[CLIENT].why[0] != 0 || sides[SERVER].why[0] != 0;
    }
    assert_true(failed > all / 11 / 2);
}

static void abort_meanwhile(void **state) {
    (void)state;
    open_both();
    nl_tls_pumps_abort(&pumps);
    close_both();
    open_both();
    exchange(100, 100);
    plan = (struct plan){{50000000, 0}, true};
    fixture_until(&f, 50, never, NULL);
    nl_tls_pumps_abort(&pumps);
    close_both();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_both_ways),    cmocka_unit_test(slow_reader),
        cmocka_unit_test(user_ends),          cmocka_unit_test(wrong_certificate),
        cmocka_unit_test(plain_peer),         cmocka_unit_test(silent_peer),
        cmocka_unit_test(cut_at_every_point), cmocka_unit_test(change_at_every_point),
        cmocka_unit_test(abort_meanwhile),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
