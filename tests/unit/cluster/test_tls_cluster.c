// Three nodes over TLS: with certificates that fit, that don't, that change, and without.

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cluster/raft/handshake.h"
#include "cluster/raft/tls_session.h"
#include "common/base/err.h"
#include "tests/unit/cluster/certs.h"
#include "tests/unit/cluster/fixture.h"

static struct fixture f;
static struct nl_rpc_tls tls[NODES_MAX];
static char paths[NODES_MAX][3][128];

static void use(unsigned node, const char *ca, const char *pair) {
    snprintf(paths[node][0], sizeof paths[0][0], "%s.pem", certs_path(ca));
    snprintf(paths[node][1], sizeof paths[0][0], "%s.pem", certs_path(pair));
    snprintf(paths[node][2], sizeof paths[0][0], "%s.key", certs_path(pair));
    tls[node] = (struct nl_rpc_tls){
        .ca_file = paths[node][0], .cert_file = paths[node][1], .key_file = paths[node][2]};
    f.tls[node] = &tls[node];
}

static int setup(void **state) {
    static const char *const names[] = {"n1", "n2", "n3"};
    (void)state;
    fixture_open(&f, 3);
    for (unsigned i = 0; i < 3; i++) {
        use(i, "ca", names[i]);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_close(&f);
    return 0;
}

static int open_certs(void **state) {
    (void)state;
    certs_open();
    return 0;
}

static int close_certs(void **state) {
    (void)state;
    certs_close();
    return 0;
}

static void start(unsigned from, unsigned to) {
    for (unsigned i = from; i < to; i++) {
        fixture_start(&f, i);
    }
    assert_true(fixture_leader(&f) >= 0);
}

static void write_at(unsigned node, const char *agent) {
    struct result r;
    assert_int_equal(propose_token(&f, node, agent, &r), NL_OK);
    fixture_wait(&f, &r);
    assert_int_equal(r.result, NL_OK);
}

// It has its own first entry, the configuration, and nothing else.
static bool knows_nothing(unsigned node) {
    struct nl_cluster_status status;
    nl_cluster_status(f.nodes[node].cluster, &status);
    return status.leader == 0 && status.applied <= 1;
}

// How long the third node has tried; then it must have got nowhere, and the others work on.
static bool a_while(struct fixture *fixture, void *arg) {
    (void)fixture;
    (void)arg;
    return false;
}

static void assert_third_is_out(void) {
    fixture_start(&f, 2);
    fixture_until(&f, 2000, a_while, NULL);
    assert_true(knows_nothing(2));
    write_at(0, "meanwhile");
    assert_true(knows_nothing(2));
}

static void third_comes_in(void) {
    fixture_stop(&f, 2);
    use(2, "ca", "n3");
    fixture_start(&f, 2);
    fixture_assert_equal(&f);
    write_at(2, "later");
    fixture_assert_equal(&f);
}

// ---- tests ---------------------------------------------------------------------

static void write_through_every_node(void **state) {
    char agent[16];
    (void)state;
    start(0, 3);
    for (unsigned i = 0; i < 60; i++) {
        snprintf(agent, sizeof agent, "a%u", i);
        write_at(i % 3, agent);
    }
    fixture_assert_equal(&f);
}

static void loss_of_the_leader(void **state) {
    (void)state;
    start(0, 3);
    write_at(0, "a");
    for (int round = 0; round < 3; round++) {
        unsigned leader = (unsigned)fixture_leader(&f);
        fixture_stop(&f, leader);
        assert_true(fixture_leader(&f) >= 0);
        write_at((leader + 1) % 3, "b");
        fixture_start(&f, leader);
        fixture_assert_equal(&f);
    }
}

static void other_ca(void **state) {
    (void)state;
    start(0, 2);
    use(2, "other", "stranger");
    assert_third_is_out();
    third_comes_in();
}

static void node_without_tls(void **state) {
    (void)state;
    start(0, 2);
    f.tls[2] = NULL;
    assert_third_is_out();
    third_comes_in();
}

static void node_with_tls_among_plain_ones(void **state) {
    (void)state;
    f.tls[0] = f.tls[1] = NULL;
    start(0, 2);
    assert_third_is_out();
    fixture_stop(&f, 2);
    f.tls[2] = NULL;
    fixture_start(&f, 2);
    fixture_assert_equal(&f);
}

static void expired(void **state) {
    (void)state;
    start(0, 2);
    use(2, "ca", "expired");
    assert_third_is_out();
    third_comes_in();
}

// The others would refuse it, so it says so itself.
static void certificate_of_another_host(void **state) {
    const struct nl_cluster_events events = {0};
    struct nl_cluster *cluster = NULL;
    char text[512];
    (void)state;
    use(0, "ca", "far");
    struct nl_cluster_options options = fixture_options(&f, 0);
    assert_int_equal(nl_cluster_open(&options, &events, NULL, &cluster, text, sizeof text),
                     NL_EINVAL);
    assert_non_null(strstr(text, "does not name 127.0.0.1"));
}

// A node serves new connections with the new files; the cluster never stops.
static void rotation(void **state) {
    char text[512];
    (void)state;
    certs_make("live", "ca", "IP:127.0.0.1", 2);
    use(0, "ca", "live");
    start(0, 3);
    write_at(0, "a");
    certs_make("live", "other", "IP:127.0.0.1", 2);  // which the others will not take
    assert_int_equal(nl_cluster_reload_tls(f.nodes[0].cluster, text, sizeof text), NL_OK);
    write_at(0, "b");  // over the old connections
    certs_write("live.pem", "half a certificate\n");
    assert_int_equal(nl_cluster_reload_tls(f.nodes[0].cluster, text, sizeof text), NL_EINVAL);
    assert_non_null(strstr(text, "live.pem holds no PEM certificate"));
    certs_make("live", "ca", "IP:127.0.0.1", 2);
    assert_int_equal(nl_cluster_reload_tls(f.nodes[0].cluster, text, sizeof text), NL_OK);
    fixture_stop(&f, 1);  // comes back over new connections
    fixture_start(&f, 1);
    fixture_assert_equal(&f);
    write_at(1, "c");
    fixture_assert_equal(&f);
}

// Strangers who connect and say nothing, or not TLS, don't keep the nodes apart.
static void strangers(void **state) {
    enum { STRANGERS = 200 };
    static int fds[STRANGERS];
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    (void)state;
    start(0, 2);
    addr.sin_port = htons((uint16_t)atoi(strchr(f.nodes[0].raft_address, ':') + 1));
    for (int i = 0; i < STRANGERS; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&addr, sizeof addr), 0);
        if (i % 2 == 0) {
            assert_true(send(fds[i], "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL) > 0);
        }
        uv_run(&f.loop, UV_RUN_NOWAIT);
    }
    fixture_start(&f, 2);
    fixture_assert_equal(&f);
    write_at(2, "a");
    for (int i = 0; i < STRANGERS; i++) {
        close(fds[i]);
    }
    fixture_assert_equal(&f);
}

// ---- a peer made by hand ---------------------------------------------------------

// Says it is node 2 and knows the secret.
struct peer {
    int fd;
    struct nl_tls_session *session;
    struct nl_handshake hs;
    uint8_t binding[NL_TLS_BINDING_LEN];
    bool binds;
    uint8_t in[256];
    size_t len;
    enum { TO_GREET, GREETED, PROVEN, READY, CUT } at;
};

static void peer_step(struct peer *p) {
    uint8_t out[NL_HS_MESSAGE_MAX];
    if (p->at == TO_GREET && nl_tls_session_ready(p->session)) {
        nl_hs_make_hello(&p->hs, out);
        assert_int_equal(nl_tls_session_write(p->session, out, NL_HS_HELLO_LEN), NL_OK);
        assert_int_equal(nl_tls_session_binding(p->session, p->binding), NL_OK);
        p->hs.binding = p->binds ? p->binding : NULL;
        p->at = GREETED;
    } else if (p->at == GREETED && p->len == NL_HS_CHALLENGE_LEN) {
        if (nl_hs_answer_challenge(&p->hs, p->in, out) != NL_OK) {
            memset(out, 0x5a, sizeof out);  // goes on although it can't
        }
        assert_int_equal(nl_tls_session_write(p->session, out, NL_HS_PROOF_LEN), NL_OK);
        p->at = PROVEN;
        p->len = 0;
    } else if (p->at == PROVEN && p->len == NL_HS_READY_LEN) {
        p->at = READY;
    }
}

static bool peer_turn(struct fixture *fixture, void *arg) {
    struct peer *p = arg;
    uint8_t wire[8192];
    (void)fixture;
    ssize_t n = recv(p->fd, wire, sizeof wire, MSG_DONTWAIT);
    if (n > 0) {
        assert_int_equal(nl_tls_session_put(p->session, wire, (size_t)n), NL_OK);
    }
    ssize_t got = nl_tls_session_read(p->session, p->in + p->len, sizeof p->in - p->len);
    p->len += got > 0 ? (size_t)got : 0;
    peer_step(p);
    size_t len = nl_tls_session_take(p->session, wire, sizeof wire);
    if (len > 0) {
        send(p->fd, wire, len, MSG_NOSIGNAL);
    }
    if (got < 0 || n == 0) {
        p->at = CUT;
    }
    return p->at == READY || p->at == CUT;
}

static int join(const char *pair, bool binds) {
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct nl_tls_context *context = NULL;
    struct peer p = {.binds = binds};
    char text[512];
    p.hs = (struct nl_handshake){.cluster_name = "test",
                                 .secret = fixture_secret,
                                 .secret_len = sizeof fixture_secret,
                                 .client_id = 2,
                                 .server_id = 1,
                                 .client_address = f.nodes[1].raft_address,
                                 .server_address = f.nodes[0].raft_address};
    use(1, "ca", pair);
    assert_int_equal(nl_tls_context_new(tls[1].ca_file, tls[1].cert_file, tls[1].key_file, NULL,
                                        &context, text, sizeof text),
                     NL_OK);
    assert_int_equal(nl_tls_session_new(context, "127.0.0.1", &p.session), NL_OK);
    addr.sin_port = htons((uint16_t)atoi(strchr(f.nodes[0].raft_address, ':') + 1));
    p.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(p.fd, (struct sockaddr *)&addr, sizeof addr), 0);
    assert_true(fixture_until(&f, 10000, peer_turn, &p));
    close(p.fd);
    nl_tls_session_free(p.session);
    nl_tls_context_free(context);
    return p.at;
}

// The secret and a certificate of the CA are not enough: it must be that node's, and the proof must
// be made for this very TLS connection.
static void right_secret_on_the_wrong_connection(void **state) {
    (void)state;
    fixture_start(&f, 0);
    assert_int_equal(join("n2", true), READY);
    assert_int_equal(join("far", true), CUT);
    assert_int_equal(join("n2", false), CUT);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(write_through_every_node),
        TEST(loss_of_the_leader),
        TEST(other_ca),
        TEST(node_without_tls),
        TEST(expired),
        TEST(node_with_tls_among_plain_ones),
        TEST(rotation),
        TEST(certificate_of_another_host),
        TEST(strangers),
        TEST(right_secret_on_the_wrong_connection),
    };
    return cmocka_run_group_tests(tests, open_certs, close_certs);
}
