// TLS and mutual TLS, who the peer is, and certificates that are replaced while we run.

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/rpc/fixture.h"

// c-ares loses a few bytes with each look-up of a name in /etc/hosts.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libcares";
}

static char dir[] = "/tmp/nl-rpc-tls.XXXXXX";

static int run(char *const argv[]) {
    pid_t pid;
    int status;
    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) != 0 ||
        waitpid(pid, &status, 0) != pid) {
        return -1;
    }
    return status;
}

static int make_certs(void **state) {
    (void)state;
    assert_non_null(mkdtemp(dir));
    return run((char *[]){(char *)(uintptr_t)MAKE_CERTS, dir, NULL});
}

static int remove_certs(void **state) {
    (void)state;
    return run((char *[]){(char *)(uintptr_t) "/bin/rm", (char *)(uintptr_t) "-r", dir, NULL});
}

// Paths in rotating static buffers.
static const char *path(const char *name) {
    static char buffers[32][128];
    static unsigned at;
    char *buffer = buffers[at++ % 32];
    snprintf(buffer, sizeof buffers[0], "%s/%s", dir, name);
    return buffer;
}

static void copy(const char *from, const char *to) {
    char data[8192];
    FILE *in = fopen(path(from), "r");
    size_t len = fread(data, 1, sizeof data, in);
    fclose(in);
    FILE *out = fopen(path("next"), "w");
    assert_int_equal(fchmod(fileno(out), 0600), 0);
    assert_int_equal(fwrite(data, 1, len, out), len);
    fclose(out);
    assert_int_equal(rename(path("next"), path(to)), 0);
}

static struct nl_rpc_tls tls_of(const char *ca, const char *pair) {
    struct nl_rpc_tls tls = {.ca_file = ca != NULL ? path(ca) : NULL};
    if (pair != NULL) {
        char name[64];
        snprintf(name, sizeof name, "%s.pem", pair);
        tls.cert_file = path(name);
        snprintf(name, sizeof name, "%s.key", pair);
        tls.key_file = path(name);
    }
    return tls;
}

static void serve(struct fixture *fx, const char *ca, const char *pair) {
    struct nl_rpc_tls tls = tls_of(ca, pair);
    assert_int_equal(fixture_serve(fx, (struct nl_rpc_server_options){.tls = &tls}), NL_OK);
    snprintf(fx->target, sizeof fx->target, "localhost:%u",
             (unsigned)nl_rpc_server_port(fx->server));
}

static void connect_as(struct fixture *fx, const char *ca, const char *pair) {
    struct nl_rpc_tls tls = tls_of(ca, pair);
    struct nl_rpc_channel_options options = {.tls = &tls};
    fixture_disconnect(fx);
    fixture_connect(fx, &options);
}

static int setup(void **state) {
    *state = malloc(sizeof(struct fixture));
    fixture_open(*state);
    return 0;
}

// What the server says of itself, seen by a new stream of the channel.
static void assert_server_is(struct fixture *fx, const char *name) {
    struct probe probe = {0};
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, probe.headers == 1);
    assert_string_equal(nl_rpc_call_peer_name(probe.call), name);
    nl_rpc_call_cancel(probe.call);
    WAIT_FOR(fx, probe.closed);
}

static void assert_client_is(struct fixture *fx, const char *name) {
    struct probe probe = {0};
    unsigned before = fx->chats_open + fx->chats_closed;
    fixture_start(fx, &probe, "Chat");
    WAIT_FOR(fx, fx->chats_open + fx->chats_closed > before);
    if (name == NULL) {
        assert_null(nl_rpc_call_peer_name(fx->chat));
    } else {
        assert_string_equal(nl_rpc_call_peer_name(fx->chat), name);
    }
    nl_rpc_call_cancel(probe.call);
    WAIT_FOR(fx, probe.closed && fx->chats_open == 0);
}

static void test_tls(void **state) {
    struct fixture *fx = *state;
    serve(fx, NULL, "server");
    connect_as(fx, "ca.pem", NULL);
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_OK);
    assert_server_is(fx, "node-1");
    assert_client_is(fx, NULL);
}

static void test_wrong_ca(void **state) {
    struct fixture *fx = *state;
    serve(fx, NULL, "server");
    connect_as(fx, "other.pem", NULL);
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_UNAVAILABLE);
}

static void test_server_name(void **state) {
    struct fixture *fx = *state;
    serve(fx, NULL, "server");
    snprintf(fx->target, sizeof fx->target, "127.0.0.1:%u",
             (unsigned)nl_rpc_server_port(fx->server));
    connect_as(fx, "ca.pem", NULL);  // the certificate does not name the address
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_UNAVAILABLE);
    struct nl_rpc_tls tls = tls_of("ca.pem", NULL);
    tls.server_name = "node.example";
    struct nl_rpc_channel_options options = {.tls = &tls};
    fixture_disconnect(fx);
    fixture_connect(fx, &options);
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_OK);
}

static void test_mutual_tls(void **state) {
    struct fixture *fx = *state;
    serve(fx, "ca.pem", "server");
    connect_as(fx, "ca.pem", "agent");
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_OK);
    assert_client_is(fx, "agent-7");
    connect_as(fx, "ca.pem", NULL);
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_UNAVAILABLE);
    connect_as(fx, "ca.pem", "stranger");
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_UNAVAILABLE);
}

static void test_plain_client_of_a_tls_server(void **state) {
    struct fixture *fx = *state;
    serve(fx, NULL, "server");
    fixture_connect(fx, NULL);
    assert_int_equal(fixture_unary(fx, "hello", 0), NL_RPC_UNAVAILABLE);
}

static void test_server_certificate_is_rotated(void **state) {
    struct fixture *fx = *state;
    copy("server.pem", "live.pem");
    copy("server.key", "live.key");
    serve(fx, NULL, "live");
    connect_as(fx, "ca.pem", NULL);
    assert_server_is(fx, "node-1");
    copy("server2.pem", "live.pem");  // half way: the old pair serves on
    connect_as(fx, "ca.pem", NULL);
    assert_server_is(fx, "node-1");
    copy("server2.key", "live.key");
    connect_as(fx, "ca.pem", NULL);
    assert_server_is(fx, "node-2");
    assert_int_equal(unlink(path("live.key")), 0);
    connect_as(fx, "ca.pem", NULL);
    assert_server_is(fx, "node-2");
}

static void test_client_certificate_is_rotated(void **state) {
    struct fixture *fx = *state;
    copy("agent.pem", "mine.pem");
    copy("agent.key", "mine.key");
    serve(fx, "ca.pem", "server");
    connect_as(fx, "ca.pem", "mine");
    struct probe old = {0};
    fixture_start(fx, &old, "Chat");
    WAIT_FOR(fx, fx->chats_open == 1);
    assert_string_equal(nl_rpc_call_peer_name(fx->chat), "agent-7");
    copy("agent2.pem", "mine.pem");
    copy("agent2.key", "mine.key");
    struct probe new = {0};
    fixture_start(fx, &new, "Chat");
    WAIT_FOR(fx, fx->chats_open == 2);
    assert_string_equal(nl_rpc_call_peer_name(fx->chat), "agent-8");
    // The call on the old connection goes on.
    Nltest__Echo echo = fixture_echo("x", 0);
    assert_int_equal(nl_rpc_call_send(old.call, &echo.base), NL_OK);
    nl_rpc_call_half_close(old.call);
    nl_rpc_call_half_close(new.call);
    WAIT_FOR(fx, old.closed && new.closed);
    assert_int_equal(old.code, NL_RPC_OK);
    assert_int_equal(old.received, 1);
    assert_int_equal(new.code, NL_RPC_OK);
    probe_close(&old);
}

static void test_bad_files(void **state) {
    struct fixture *fx = *state;
    struct nl_rpc_tls cases[] = {
        tls_of(NULL, NULL),      tls_of(NULL, "missing"), tls_of("missing.pem", "server"),
        tls_of("log", "server"), tls_of(NULL, "server"),  tls_of(NULL, "server"),
    };
    static const int expected[] = {NL_EINVAL, NL_EIO, NL_EIO, NL_EINVAL, NL_EINVAL, NL_EINVAL};
    cases[4].key_file = path("agent.key");
    cases[5].key_file = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct nl_rpc_server_options options = {.tls = &cases[i]};
        assert_int_equal(fixture_serve(fx, options), expected[i]);
        assert_true(strlen(fx->error) > 10);
    }
    struct nl_rpc_channel_options options = {.tls = &cases[2]};
    struct nl_rpc_channel *channel;
    assert_int_equal(nl_rpc_channel_new(fx->rpc, "localhost:1", &options, &channel), NL_EIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_tls),
        TEST(test_wrong_ca),
        TEST(test_server_name),
        TEST(test_mutual_tls),
        TEST(test_plain_client_of_a_tls_server),
        TEST(test_server_certificate_is_rotated),
        TEST(test_client_certificate_is_rotated),
        TEST(test_bad_files),
    };
    return cmocka_run_group_tests(tests, make_certs, remove_certs);
}
