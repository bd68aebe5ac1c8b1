// TLS between two nodes without a network: what comes out of one end goes into the other, as the
// test likes.

#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/tls_session.h"
#include "common/base/err.h"
#include "tests/unit/cluster/certs.h"
#include "tests/unit/cluster/fixture.h"

static char text[512];

static struct nl_tls_context *context_of(const char *ca, const char *pair) {
    struct nl_tls_context *context = NULL;
    char cert[64], key[64];
    snprintf(cert, sizeof cert, "%s.pem", pair);
    snprintf(key, sizeof key, "%s.key", pair);
    int rv = nl_tls_context_new(certs_path(ca), certs_path(cert), certs_path(key), NULL, &context,
                                text, sizeof text);
    if (rv != NL_OK) {
        fail_msg("%s", text);
    }
    return context;
}

// ---- two ends ------------------------------------------------------------------

struct end {
    struct nl_tls_session *session;
    uint8_t got[256 * 1024];
    size_t n_got;
    int error;
};

static struct pair {
    struct end client, server;
    size_t piece;      // of the wire, at a time
    size_t wire_left;  // then the wire loses everything
    size_t flip;       // this byte of what the client sends is changed; SIZE_MAX: none
    size_t sent;       // by the client
} pair;

static void open_pair(struct nl_tls_context *client, struct nl_tls_context *server,
                      const char *host) {
    memset(&pair, 0, sizeof pair);
    pair.piece = 16384;
    pair.wire_left = pair.flip = SIZE_MAX;
    assert_int_equal(nl_tls_session_new(client, host, &pair.client.session), NL_OK);
    assert_int_equal(nl_tls_session_new(server, NULL, &pair.server.session), NL_OK);
}

static void close_pair(void) {
    nl_tls_session_free(pair.client.session);
    nl_tls_session_free(pair.server.session);
}

static void end_read(struct end *end) {
    ssize_t n = 1;
    while (n > 0) {
        n = nl_tls_session_read(end->session, end->got + end->n_got, sizeof end->got - end->n_got);
        end->n_got += n > 0 ? (size_t)n : 0;
    }
    end->error = n < 0 ? (int)n : end->error;
}

static bool carry(struct end *from, struct end *to) {
    uint8_t wire[16384];
    end_read(from);
    size_t n = nl_tls_session_take(from->session, wire, pair.piece);
    if (from == &pair.client) {
        if (pair.flip >= pair.sent && pair.flip - pair.sent < n) {
            wire[pair.flip - pair.sent] ^= 0x20;
        }
        pair.sent += n;
    }
    size_t kept = n < pair.wire_left ? n : pair.wire_left;
    pair.wire_left -= kept;
    assert_int_equal(nl_tls_session_put(to->session, wire, kept), NL_OK);
    end_read(to);
    return n > 0;
}

static void run(void) {
    bool moved = true;
    while (moved) {
        moved = carry(&pair.client, &pair.server);
        moved |= carry(&pair.server, &pair.client);
    }
}

static void run_to_ready(void) {
    run();
    assert_true(nl_tls_session_ready(pair.client.session));
    assert_true(nl_tls_session_ready(pair.server.session));
    assert_int_equal(pair.client.error, 0);
    assert_int_equal(pair.server.error, 0);
}

static void assert_why(const struct end *end, int error, const char *why) {
    assert_int_equal(end->error, error);
    if (strstr(nl_tls_session_why(end->session), why) == NULL) {
        fail_msg("'%s' has no '%s'", nl_tls_session_why(end->session), why);
    }
}

// ---- tests ---------------------------------------------------------------------

static struct nl_tls_context *n1, *n2;

static int setup(void **state) {
    (void)state;
    certs_open();
    n1 = context_of("ca.pem", "n1");
    n2 = context_of("ca.pem", "n2");
    return 0;
}

static int teardown(void **state) {
    (void)state;
    nl_tls_context_free(n1);
    nl_tls_context_free(n2);
    certs_close();
    return 0;
}

static void bytes_both_ways(void **state) {
    static const size_t pieces[] = {1, 2, 7, 1000, 16384};
    static uint8_t data[100000];
    (void)state;
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)(i * 31 + i / 251);
    }
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        open_pair(n1, n2, "127.0.0.1");
        pair.piece = pieces[i];
        run_to_ready();
        assert_int_equal(nl_tls_session_write(pair.client.session, data, sizeof data), NL_OK);
        assert_int_equal(nl_tls_session_write(pair.server.session, data, 1), NL_OK);
        run();
        assert_int_equal(pair.server.n_got, sizeof data);
        assert_memory_equal(pair.server.got, data, sizeof data);
        assert_int_equal(pair.client.n_got, 1);
        nl_tls_session_end(pair.client.session);
        run();
        assert_int_equal(pair.server.error, NL_ECLOSED);
        close_pair();
    }
}

static void names(void **state) {
    (void)state;
    open_pair(n1, n2, "localhost");
    run_to_ready();
    assert_true(nl_tls_session_names(pair.server.session, "127.0.0.1"));
    assert_true(nl_tls_session_names(pair.server.session, "localhost"));
    assert_false(nl_tls_session_names(pair.server.session, "127.0.0.2"));
    assert_false(nl_tls_session_names(pair.server.session, "n1.example"));
    close_pair();
}

// Both ends have it, no other connection does.
static void binding(void **state) {
    uint8_t a[NL_TLS_BINDING_LEN], b[NL_TLS_BINDING_LEN], c[NL_TLS_BINDING_LEN];
    (void)state;
    open_pair(n1, n2, "127.0.0.1");
    assert_int_equal(nl_tls_session_binding(pair.client.session, a), NL_EAGAIN);
    run_to_ready();
    assert_int_equal(nl_tls_session_binding(pair.client.session, a), NL_OK);
    assert_int_equal(nl_tls_session_binding(pair.server.session, b), NL_OK);
    assert_memory_equal(a, b, sizeof a);
    close_pair();
    open_pair(n1, n2, "127.0.0.1");
    run_to_ready();
    assert_int_equal(nl_tls_session_binding(pair.client.session, c), NL_OK);
    assert_memory_not_equal(a, c, sizeof a);
    close_pair();
}

static void refused_server(const char *ca, const char *server, const char *host, const char *why) {
    struct nl_tls_context *context = context_of(ca, server);
    open_pair(n1, context, host);
    run();
    assert_why(&pair.client, NL_EAUTH, why);
    assert_why(&pair.server, NL_EAUTH, "it refuses this node's certificate or TLS, ");
    assert_false(nl_tls_session_ready(pair.server.session));
    close_pair();
    nl_tls_context_free(context);
}

static void server_is_refused(void **state) {
    (void)state;
    refused_server("ca.pem", "stranger", "127.0.0.1", "not from the CA in our tls-ca-file");
    refused_server("ca.pem", "expired", "127.0.0.1", "certificate has expired");
    refused_server("ca.pem", "far", "127.0.0.1", "does not name the host");
    refused_server("ca.pem", "n2", "other.example", "does not name the host");
}

static void refused_client(const char *client, const char *why) {
    struct nl_tls_context *context = context_of("ca.pem", client);
    open_pair(context, n2, "127.0.0.1");
    run();
    assert_why(&pair.server, NL_EAUTH, why);
    assert_why(&pair.client, NL_EAUTH, "it refuses this node's certificate or TLS, ");
    assert_int_equal(pair.server.n_got, 0);
    close_pair();
    nl_tls_context_free(context);
}

static void client_is_refused(void **state) {
    (void)state;
    refused_client("stranger", "not from the CA in our tls-ca-file");
    refused_client("expired", "certificate has expired");
}

// A stock TLS client: of this version, with or without a certificate.
static void stock_client(int version, const char *why) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    uint8_t wire[16384];
    struct end server = {0};
    SSL_CTX_set_max_proto_version(ctx, version);
    SSL *ssl = SSL_new(ctx);
    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl);
    assert_int_equal(nl_tls_session_new(n1, NULL, &server.session), NL_OK);
    for (int i = 0; i < 4; i++) {
        SSL_do_handshake(ssl);
        int n = BIO_read(SSL_get_wbio(ssl), wire, sizeof wire);
        assert_int_equal(nl_tls_session_put(server.session, wire, n > 0 ? (size_t)n : 0), NL_OK);
        end_read(&server);
        size_t back = nl_tls_session_take(server.session, wire, sizeof wire);
        BIO_write(SSL_get_rbio(ssl), wire, (int)back);
    }
    assert_why(&server, server.error, why);
    assert_true(server.error < 0);
    assert_false(nl_tls_session_ready(server.session));
    nl_tls_session_free(server.session);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
}

static void stock_clients(void **state) {
    (void)state;
    stock_client(TLS1_3_VERSION, "it shows no certificate");
    stock_client(TLS1_2_VERSION, "protocol");
}

static void garbage(void **state) {
    static const char *const what[] = {"nlraft1\n", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff",
                                       "\x16gggggggggggggg", "\x15\x03\x03\x00\x02\x02\x28"};
    (void)state;
    for (size_t i = 0; i < sizeof what / sizeof what[0]; i++) {
        struct end server = {0};
        size_t len = i < 4 ? strlen(what[i]) : 7;
        assert_int_equal(nl_tls_session_new(n1, NULL, &server.session), NL_OK);
        assert_int_equal(nl_tls_session_put(server.session, what[i], len), NL_OK);
        end_read(&server);
        if (i < 2) {
            assert_why(&server, NL_EINVAL, "speaks without TLS");
        }
        assert_int_equal(server.n_got, 0);
        assert_false(nl_tls_session_ready(server.session));
        assert_true(server.error < 0 || i == 2);  // that one is the start of a record
        nl_tls_session_free(server.session);
    }
}

// The wire loses its end at every byte: what was received is a prefix of what was sent.
static void truncated(void **state) {
    static const char message[] = "twenty bytes of data";
    bool whole = false;  // the length differs a little each time: signatures do
    size_t cut;
    (void)state;
    for (cut = 1; !whole; cut++) {
        open_pair(n1, n2, "127.0.0.1");
        pair.wire_left = cut;
        run();
        if (nl_tls_session_ready(pair.client.session)) {
            nl_tls_session_write(pair.client.session, message, sizeof message);
            run();
        }
        whole = pair.server.n_got > 0;
        assert_true(whole || pair.wire_left == 0);
        assert_int_equal(pair.server.n_got, whole ? sizeof message : 0);
        assert_int_equal(pair.server.error, 0);  // more could come
        close_pair();
    }
    assert_true(cut > 1000);
}

// One bit of what the client sends is changed, at every byte: the server never gets a wrong byte.
static void changed(void **state) {
    static const char message[] = "twenty bytes of data";
    unsigned delivered = 0;
    size_t all = 1;
    (void)state;
    for (size_t at = 0; at < all; at++) {
        open_pair(n1, n2, "127.0.0.1");
        pair.flip = at;
        run();
        if (nl_tls_session_ready(pair.client.session) && pair.client.error == 0) {
            nl_tls_session_write(pair.client.session, message, sizeof message);
            run();
        }
        all = pair.sent > all ? pair.sent : all;
        if (pair.server.n_got > 0) {  // some bytes mean nothing, as the version in a record
            assert_int_equal(pair.server.n_got, sizeof message);
            assert_memory_equal(pair.server.got, message, sizeof message);
            delivered++;
        }
        close_pair();
    }
    assert_true(all > 500);
    assert_true(delivered < 20);
}

// ---- files ---------------------------------------------------------------------

static int open_files(const char *ca, const char *cert, const char *key, const char *host) {
    struct nl_tls_context *context = NULL;
    int rv = nl_tls_context_new(certs_path(ca), certs_path(cert), certs_path(key), host, &context,
                                text, sizeof text);
    nl_tls_context_free(context);
    return rv;
}

static void bad_files(void **state) {
    (void)state;
    assert_int_equal(open_files("ca.pem", "n1.pem", "n1.key", "127.0.0.1"), NL_OK);
    assert_int_equal(open_files("none.pem", "n1.pem", "n1.key", NULL), NL_EIO);
    assert_non_null(strstr(text, "none.pem"));
    assert_int_equal(open_files("ca.pem", "n1.pem", "n2.key", NULL), NL_EINVAL);
    assert_non_null(strstr(text, "does not belong to the private key"));
    assert_int_equal(open_files("ca.key", "n1.pem", "n1.key", NULL), NL_EINVAL);
    assert_non_null(strstr(text, "holds no PEM certificate"));
    assert_int_equal(open_files("ca.pem", "far.pem", "far.key", "127.0.0.1"), NL_EINVAL);
    assert_non_null(strstr(text, "does not name 127.0.0.1"));
}

static bool server_is_taken(struct nl_tls_context *server) {
    open_pair(n1, server, "127.0.0.1");
    run();
    bool taken = pair.client.error == 0 && nl_tls_session_ready(pair.server.session);
    close_pair();
    return taken;
}

static void files_are_replaced(void **state) {
    (void)state;
    certs_make("live", "other", "IP:127.0.0.1", 2);
    struct nl_tls_context *live = context_of("ca.pem", "live");
    assert_false(server_is_taken(live));
    certs_make("live", "ca", "IP:127.0.0.1", 2);
    assert_false(server_is_taken(live));  // not yet read
    assert_int_equal(nl_tls_context_reload(live, false, text, sizeof text), NL_OK);
    assert_true(server_is_taken(live));
    certs_write("live.pem", "not a certificate\n");
    assert_int_equal(nl_tls_context_reload(live, true, text, sizeof text), NL_EINVAL);
    assert_non_null(strstr(text, "live.pem holds no PEM certificate"));
    assert_true(server_is_taken(live));
    nl_tls_context_free(live);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_both_ways),
        cmocka_unit_test(names),
        cmocka_unit_test(binding),
        cmocka_unit_test(server_is_refused),
        cmocka_unit_test(client_is_refused),
        cmocka_unit_test(stock_clients),
        cmocka_unit_test(garbage),
        cmocka_unit_test(truncated),
        cmocka_unit_test(changed),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(files_are_replaced),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
