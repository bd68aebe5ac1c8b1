// A server lives through a lack of descriptors, and keeps to its cap on connections.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/rpc/fixture.h"

#define CONNECTIONS 100

static int setup(void **state) {
    *state = malloc(sizeof(struct fixture));
    fixture_open(*state);
    return 0;
}

static int dial(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

// Whether the server closed the connection. A served one gets HTTP/2 settings.
static bool is_refused(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK);
    return n <= 0;
}

static unsigned dial_many(uint16_t port, int *fds, unsigned count) {
    unsigned refused = 0;
    for (unsigned i = 0; i < count; i++) {
        fds[i] = dial(port);
        refused += is_refused(fds[i]);
    }
    return refused;
}

static void close_all(int *fds, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        close(fds[i]);
    }
}

static pid_t start(struct fixture *fx, const char *const *arguments, uint16_t *ret_port) {
    pid_t pid = fixture_spawn_server(arguments, ret_port);
    snprintf(fx->target, sizeof fx->target, "127.0.0.1:%u", (unsigned)*ret_port);
    return pid;
}

static void stop(pid_t pid) {
    int status;
    kill(pid, SIGTERM);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

// Tries until the server has noticed that its connections are gone.
static void assert_serves_again(struct fixture *fx) {
    enum nl_rpc_code code = NL_RPC_UNKNOWN;
    for (int tries = 0; tries < 200 && code != NL_RPC_OK; tries++) {
        fixture_connect(fx, NULL);
        code = fixture_unary(fx, "hello", 2000);
        fixture_disconnect(fx);
    }
    assert_int_equal(code, NL_RPC_OK);
}

static void test_listener_survives_emfile(void **state) {
    struct fixture *fx = *state;
    static const char *const arguments[] = {"--nofile", "60", NULL};
    uint16_t port;
    pid_t pid = start(fx, arguments, &port);
    int fds[CONNECTIONS];
    for (int round = 0; round < 3; round++) {
        unsigned refused = dial_many(port, fds, CONNECTIONS);
        assert_true(refused > 40 && refused < CONNECTIONS);
        close_all(fds, CONNECTIONS);
        assert_serves_again(fx);
    }
    stop(pid);
}

static void test_connection_cap(void **state) {
    struct fixture *fx = *state;
    static const char *const arguments[] = {"--connections", "10", NULL};
    uint16_t port;
    pid_t pid = start(fx, arguments, &port);
    int fds[CONNECTIONS];
    assert_int_equal(dial_many(port, fds, CONNECTIONS), CONNECTIONS - 10);
    close_all(fds, CONNECTIONS);
    assert_serves_again(fx);
    // The descriptors of the old connections are free again, and so are their places.
    unsigned refused;
    for (int tries = 0; tries < 200; tries++) {
        refused = dial_many(port, fds, 10);
        close_all(fds, 10);
        if (refused == 0) {
            break;
        }
    }
    assert_int_equal(refused, 0);
    stop(pid);
}

static void test_refusals_are_counted(void **state) {
    struct fixture *fx = *state;
    struct nl_rpc_server_options options = {.connections_max = 1};
    assert_int_equal(fixture_serve(fx, options), NL_OK);
    int fds[5];
    assert_int_equal(dial_many(nl_rpc_server_port(fx->server), fds, 5), 4);
    struct nl_rpc_server_stats stats;
    nl_rpc_server_stats(fx->server, &stats);
    assert_int_equal(stats.connections_refused, 4);
    close_all(fds, 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_listener_survives_emfile),
        TEST(test_connection_cap),
        TEST(test_refusals_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
