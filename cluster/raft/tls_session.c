#include "cluster/raft/tls_session.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

#include "cluster/raft/tls_internal.h"
#include "common/base/err.h"

// The first byte of every handshake record (RFC 8446, 5.1).
#define RECORD_ALERT 21
#define RECORD_HANDSHAKE 22

struct nl_tls_session {
    SSL *ssl;
    BIO *in, *out;  // owned by ssl
    bool begun;     // the wire's first byte was looked at
    int error;      // 0, or what every further read and write ends with
    char why[192];
};

// ---- errors --------------------------------------------------------------------

static int fail(struct nl_tls_session *s, int error, const char *what, const char *detail) {
    s->error = error;
    snprintf(s->why, sizeof s->why, "%s%s%s", what, detail[0] != '\0' ? ": " : "", detail);
    return error;
}

static int refused_by_us(struct nl_tls_session *s, long verdict) {
    switch (verdict) {
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
        case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        case X509_V_ERR_CERT_SIGNATURE_FAILURE:
            return fail(s, NL_EAUTH, "its certificate is not from the CA in our tls-ca-file", "");
        case X509_V_ERR_HOSTNAME_MISMATCH:
        case X509_V_ERR_IP_ADDRESS_MISMATCH:
            return fail(s, NL_EAUTH, "its certificate does not name the host of its raft address",
                        "");
        default:
            return fail(s, NL_EAUTH, "its certificate is refused",
                        X509_verify_cert_error_string(verdict));
    }
}

// Alerts of the peer come as reasons of 1000 and more (ssl.h).
static int broken(struct nl_tls_session *s) {
    unsigned long code = ERR_peek_last_error();  // before it are the reasons of this reason
    int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
    const char *text = ERR_reason_error_string(code);
    long verdict = SSL_get_verify_result(s->ssl);
    ERR_clear_error();
    text = text != NULL ? text : "unknown error";
    if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verdict != X509_V_OK) {
        return refused_by_us(s, verdict);
    }
    if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        return fail(s, NL_EAUTH, "it shows no certificate", "");
    }
    if (reason >= SSL_AD_REASON_OFFSET) {
        return fail(s, NL_EAUTH, "it refuses this node's certificate or TLS, its log says why",
                    text);
    }
    return fail(s, NL_EINVAL, "broken TLS", text);
}

// ---- life ----------------------------------------------------------------------

static bool expect_host(SSL *ssl, const char *host) {
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    return nl_tls_is_address(host) ? X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1
                                   : X509_VERIFY_PARAM_set1_host(param, host, 0) == 1 &&
                                         SSL_set_tlsext_host_name(ssl, host) == 1;
}

int nl_tls_session_new(struct nl_tls_context *context, const char *host,
                       struct nl_tls_session **ret) {
    struct nl_tls_session *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NL_ENOMEM;
    }
    s->ssl = SSL_new(nl_tls_context_ssl(context));
    s->in = BIO_new(BIO_s_mem());
    s->out = BIO_new(BIO_s_mem());
    if (s->ssl == NULL || s->in == NULL || s->out == NULL) {
        BIO_free(s->in);
        BIO_free(s->out);
        SSL_free(s->ssl);
        free(s);
        return NL_ENOMEM;
    }
    SSL_set_bio(s->ssl, s->in, s->out);
    if (host == NULL) {
        SSL_set_accept_state(s->ssl);
    } else if (expect_host(s->ssl, host)) {
        SSL_set_connect_state(s->ssl);
    } else {
        nl_tls_session_free(s);
        return NL_ENOMEM;
    }
    *ret = s;
    return NL_OK;
}

void nl_tls_session_free(struct nl_tls_session *s) {
    if (s != NULL) {
        SSL_free(s->ssl);
        free(s);
    }
}

// ---- bytes ---------------------------------------------------------------------

int nl_tls_session_put(struct nl_tls_session *s, const void *data, size_t len) {
    size_t written;
    if (len == 0) {
        return NL_OK;
    }
    if (!s->begun) {
        uint8_t first = *(const uint8_t *)data;
        s->begun = true;
        if (first != RECORD_HANDSHAKE && first != RECORD_ALERT) {
            fail(s, NL_EINVAL, "it speaks without TLS, this node has TLS",
                 "give all nodes tls-* settings, or none");
        }
    }
    return BIO_write_ex(s->in, data, len, &written) == 1 && written == len ? NL_OK : NL_ENOMEM;
}

// 0: may go on; otherwise the result of the call.
static int outcome_of(struct nl_tls_session *s, int rv) {
    switch (SSL_get_error(s->ssl, rv)) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
            return 0;
        case SSL_ERROR_ZERO_RETURN:
            return NL_ECLOSED;
        default:
            return broken(s);
    }
}

ssize_t nl_tls_session_read(struct nl_tls_session *s, void *data, size_t size) {
    size_t got = 0, n = 0;
    int rv = s->error;
    ERR_clear_error();
    while (rv == 0 && got < size) {  // a record at a time
        int ok = SSL_read_ex(s->ssl, (char *)data + got, size - got, &n);
        if (ok != 1) {
            rv = outcome_of(s, ok);
            break;
        }
        got += n;
    }
    // The end or the error is met again by the next call.
    return got > 0 ? (ssize_t)got : rv;
}

int nl_tls_session_write(struct nl_tls_session *s, const void *data, size_t len) {
    size_t n = 0;
    if (s->error != 0) {
        return s->error;
    }
    ERR_clear_error();
    int rv = SSL_write_ex(s->ssl, data, len, &n);
    if (rv == 1 && n == len) {
        return NL_OK;
    }
    rv = outcome_of(s, rv);
    return rv != 0 ? rv : NL_EINVAL;  // a memory BIO takes everything
}

size_t nl_tls_session_take(struct nl_tls_session *s, void *data, size_t size) {
    size_t n = 0;
    return BIO_read_ex(s->out, data, size, &n) == 1 ? n : 0;
}

size_t nl_tls_session_pending(const struct nl_tls_session *s) {
    return BIO_ctrl_pending(s->out);
}

void nl_tls_session_end(struct nl_tls_session *s) {
    if (s->error == 0 && nl_tls_session_ready(s)) {
        SSL_shutdown(s->ssl);
        ERR_clear_error();
    }
}

// ---- what is known -------------------------------------------------------------

bool nl_tls_session_ready(const struct nl_tls_session *s) {
    return SSL_is_init_finished(s->ssl) == 1;
}

const char *nl_tls_session_why(const struct nl_tls_session *s) {
    return s->why;
}

int nl_tls_session_binding(const struct nl_tls_session *s, uint8_t out[NL_TLS_BINDING_LEN]) {
    static const char label[] = "EXPORTER-Channel-Binding";
    if (!nl_tls_session_ready(s) ||
        SSL_export_keying_material(s->ssl, out, NL_TLS_BINDING_LEN, label, sizeof label - 1,
                                   (const unsigned char *)"", 0, 1) != 1) {
        return NL_EAGAIN;
    }
    return NL_OK;
}

bool nl_tls_session_names(const struct nl_tls_session *s, const char *host) {
    return nl_tls_cert_names(SSL_get0_peer_certificate(s->ssl), host);
}
