// The Raft port against peers that are not what they claim, on the wire.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cluster/raft/handshake.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "tests/unit/cluster/fixture.h"

static struct fixture f;

static int setup(void **state) {
    (void)state;
    fixture_open(&f, 3);
    fixture_start(&f, 0);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_close(&f);
    return 0;
}

// ---- a peer --------------------------------------------------------------------

struct peer {
    int fd;
    uint8_t in[256];
    size_t len, want;
    bool closed;
};

static void peer_connect(struct peer *p) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    memset(p, 0, sizeof *p);
    addr.sin_port = htons((uint16_t)atoi(strchr(f.nodes[0].raft_address, ':') + 1));
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(p->fd >= 0);
    assert_int_equal(connect(p->fd, (struct sockaddr *)&addr, sizeof addr), 0);
    fcntl(p->fd, F_SETFL, O_NONBLOCK);
    uv_run(&f.loop, UV_RUN_NOWAIT);  // accepts it: the backlog isn't what is tested
}

static void peer_send(struct peer *p, const void *data, size_t len) {
    assert_int_equal(send(p->fd, data, len, MSG_NOSIGNAL), len);
}

static bool peer_read(struct fixture *fixture, void *arg) {
    struct peer *p = arg;
    (void)fixture;
    ssize_t n = recv(p->fd, p->in + p->len, sizeof p->in - p->len, 0);
    if (n > 0) {
        p->len += (size_t)n;
    }
    p->closed = n == 0 || (n < 0 && errno == ECONNRESET);
    return p->closed || (p->want > 0 && p->len >= p->want);
}

static bool peer_gets(struct peer *p, size_t len) {
    p->want = len;
    p->len = 0;
    assert_true(fixture_until(&f, 10000, peer_read, p));
    return !p->closed;
}

static void assert_cut_off(struct peer *p) {
    p->want = 0;
    assert_true(fixture_until(&f, 10000, peer_read, p));
    assert_true(p->closed);
    close(p->fd);
}

static struct nl_handshake as_node(unsigned i) {
    return (struct nl_handshake){
        .cluster_name = "test",
        .secret = fixture_secret,
        .secret_len = sizeof fixture_secret,
        .client_id = i + 1,
        .server_id = 1,
        .client_address = f.nodes[i].raft_address,
        .server_address = f.nodes[0].raft_address,
    };
}

// The whole handshake; false when the node cuts it off.
static bool join(struct peer *p, struct nl_handshake *hs) {
    uint8_t out[NL_HS_MESSAGE_MAX];
    peer_connect(p);
    nl_hs_make_hello(hs, out);
    peer_send(p, out, NL_HS_HELLO_LEN);
    if (!peer_gets(p, NL_HS_CHALLENGE_LEN)) {
        return false;
    }
    if (nl_hs_answer_challenge(hs, p->in, out) != NL_OK) {
        memset(out, 0x5a, sizeof out);  // goes on although it can't
    }
    peer_send(p, out, NL_HS_PROOF_LEN);
    return peer_gets(p, NL_HS_READY_LEN) && nl_hs_is_ready(p->in);
}

static void refused(struct nl_handshake hs) {
    struct peer p;
    assert_false(join(&p, &hs));
    close(p.fd);
}

// ---- tests ---------------------------------------------------------------------

static void right_peer(void **state) {
    struct nl_handshake hs = as_node(1);
    struct peer p;
    (void)state;
    assert_true(join(&p, &hs));
    close(p.fd);
}

static void wrong_peers(void **state) {
    static const uint8_t other_secret[32] = "another secret, as long as ours";
    struct nl_handshake hs = as_node(1);
    (void)state;
    hs.secret = other_secret;
    refused(hs);
    hs = as_node(1);
    hs.cluster_name = "another";
    refused(hs);
    hs = as_node(1);
    hs.client_id = 9;  // not a member
    refused(hs);
    hs = as_node(1);
    hs.client_id = 1;  // the node itself
    refused(hs);
    hs = as_node(1);
    hs.server_id = 2;  // wants another node
    refused(hs);
    hs = as_node(1);
    hs.client_id = 3;  // knows the secret, but its address isn't that node's
    refused(hs);
}

// What one direction proves is no proof in the other, and no second time.
static void replayed_and_reflected(void **state) {
    struct nl_handshake hs = as_node(1);
    uint8_t hello[NL_HS_HELLO_LEN], proof[NL_HS_PROOF_LEN];
    struct peer p;
    (void)state;
    peer_connect(&p);
    nl_hs_make_hello(&hs, hello);
    peer_send(&p, hello, sizeof hello);
    assert_true(peer_gets(&p, NL_HS_CHALLENGE_LEN));
    assert_int_equal(nl_hs_answer_challenge(&hs, p.in, proof), NL_OK);
    peer_send(&p, p.in + 8 + NL_HS_NONCE_LEN, NL_HS_PROOF_LEN);  // the node's own MAC
    assert_cut_off(&p);
    peer_connect(&p);
    peer_send(&p, hello, sizeof hello);
    assert_true(peer_gets(&p, NL_HS_CHALLENGE_LEN));
    peer_send(&p, proof, sizeof proof);  // of the connection before
    assert_cut_off(&p);
}

static void garbage(void **state) {
    static const char http[] =
        "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a browser that took a wrong turn\r\n\r\n";
    uint8_t noise[NL_HS_HELLO_LEN];
    struct peer p;
    (void)state;
    peer_connect(&p);
    peer_send(&p, http, sizeof http - 1);
    assert_cut_off(&p);
    for (int i = 0; i < 200; i++) {
        for (size_t j = 0; j < sizeof noise; j++) {
            noise[j] = (uint8_t)rand();
        }
        peer_connect(&p);
        peer_send(&p, noise, sizeof noise);
        assert_cut_off(&p);
    }
    right_peer(state);
}

// Idle ones are cut off after a while, and until then don't keep the others out.
static void slow_peers(void **state) {
    enum { IDLE = 100 };
    static struct peer idle[IDLE];
    struct nl_handshake hs = as_node(1);
    uint8_t hello[NL_HS_HELLO_LEN];
    uint64_t start = nl_clock_mono_ms();
    (void)state;
    nl_hs_make_hello(&hs, hello);
    for (int i = 0; i < IDLE; i++) {
        peer_connect(&idle[i]);
        if (i % 2 == 0) {
            peer_send(&idle[i], hello, sizeof hello / 2);
        }
    }
    right_peer(state);
    for (int i = 0; i < IDLE; i++) {
        assert_cut_off(&idle[i]);
    }
    assert_true(nl_clock_mono_ms() - start < 8000);
}

static void newest_connection_replaces_older(void **state) {
    struct nl_handshake hs = as_node(1), other = as_node(2);
    struct peer first, second, third;
    (void)state;
    assert_true(join(&first, &hs));
    assert_true(join(&third, &other));
    assert_true(join(&second, &hs));
    assert_cut_off(&first);
    second.want = third.want = 1;
    second.len = third.len = 0;
    assert_false(fixture_until(&f, 100, peer_read, &second));
    assert_false(fixture_until(&f, 100, peer_read, &third));
    close(second.fd);
    close(third.fd);
}

// Closing while handshakes are under way.
static void close_meanwhile(void **state) {
    struct nl_handshake hs = as_node(1);
    uint8_t hello[NL_HS_HELLO_LEN];
    struct peer p[3];
    (void)state;
    nl_hs_make_hello(&hs, hello);
    for (int i = 0; i < 3; i++) {
        peer_connect(&p[i]);
    }
    peer_send(&p[1], hello, sizeof hello);
    assert_true(peer_gets(&p[1], NL_HS_CHALLENGE_LEN));
    peer_send(&p[2], hello, 10);
    fixture_stop(&f, 0);
    for (int i = 0; i < 3; i++) {
        close(p[i].fd);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(right_peer, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_peers, setup, teardown),
        cmocka_unit_test_setup_teardown(replayed_and_reflected, setup, teardown),
        cmocka_unit_test_setup_teardown(garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(slow_peers, setup, teardown),
        cmocka_unit_test_setup_teardown(newest_connection_replaces_older, setup, teardown),
        cmocka_unit_test_setup_teardown(close_meanwhile, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
