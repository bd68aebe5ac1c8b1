// The certificate, key and CA of this node as OpenSSL wants them.

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/tls_internal.h"
#include "common/base/err.h"
#include "common/base/tls_files.h"

struct nl_tls_context {
    struct nl_tls_files *files;
    char *host;  // that the certificate must be for; NULL: any
    SSL_CTX *ssl;
};

SSL_CTX *nl_tls_context_ssl(const struct nl_tls_context *context) {
    return context->ssl;
}

// ---- names -------------------------------------------------------------------

bool nl_tls_is_address(const char *host) {
    unsigned char address[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

bool nl_tls_cert_names(X509 *cert, const char *host) {
    return cert != NULL && (nl_tls_is_address(host) ? X509_check_ip_asc(cert, host, 0) == 1
                                                    : X509_check_host(cert, host, 0, 0, NULL) == 1);
}

// ---- from PEM ----------------------------------------------------------------

static X509 *next_cert(BIO *bio) {
    return PEM_read_bio_X509(bio, NULL, NULL, (void *)(uintptr_t) "");
}

// The first is ours, the others lead to the CA.
static bool use_chain(SSL_CTX *ssl, BIO *bio) {
    X509 *cert = next_cert(bio);
    bool ok = cert != NULL && SSL_CTX_use_certificate(ssl, cert) == 1;
    X509_free(cert);
    while (ok && (cert = next_cert(bio)) != NULL) {
        ok = SSL_CTX_add0_chain_cert(ssl, cert) == 1;
        if (!ok) {
            X509_free(cert);
        }
    }
    return ok;
}

static bool use_key(SSL_CTX *ssl, BIO *bio) {
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t) "");
    bool ok = key != NULL && SSL_CTX_use_PrivateKey(ssl, key) == 1;
    EVP_PKEY_free(key);
    return ok && SSL_CTX_check_private_key(ssl) == 1;
}

static bool use_ca(SSL_CTX *ssl, BIO *bio) {
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    unsigned n = 0;
    for (X509 *cert; (cert = next_cert(bio)) != NULL; n++) {
        bool ok = X509_STORE_add_cert(store, cert) == 1;
        X509_free(cert);
        if (!ok) {
            return false;
        }
    }
    return n > 0;
}

static bool use(SSL_CTX *ssl, const char *pem, bool (*how)(SSL_CTX *ssl, BIO *bio)) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    bool ok = bio != NULL && how(ssl, bio);
    BIO_free(bio);
    return ok;
}

// No session is ever resumed: connections are few and long, and a resumed one would skip the
// certificates.
static bool configure(SSL_CTX *ssl, struct nl_tls_pem pem) {
    SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET);
    return SSL_CTX_set_min_proto_version(ssl, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_num_tickets(ssl, 0) == 1 && use(ssl, pem.ca, use_ca) &&
           use(ssl, pem.cert, use_chain) && use(ssl, pem.key, use_key);
}

static int build(struct nl_tls_context *context, char *error_text, size_t error_size) {
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());
    ERR_clear_error();
    if (ssl == NULL || !configure(ssl, nl_tls_files_pem(context->files))) {
        const char *why = ERR_reason_error_string(ERR_peek_last_error());
        snprintf(error_text, error_size, "the TLS files can't be used: %s",
                 why != NULL ? why : "no memory");
        ERR_clear_error();
        SSL_CTX_free(ssl);
        return NL_EINVAL;
    }
    ERR_clear_error();
    // The others would refuse it.
    if (context->host != NULL && !nl_tls_cert_names(SSL_CTX_get0_certificate(ssl), context->host)) {
        snprintf(error_text, error_size,
                 "the TLS certificate does not name %.200s, the host of this node's raft address",
                 context->host);
        SSL_CTX_free(ssl);
        return NL_EINVAL;
    }
    SSL_CTX_free(context->ssl);
    context->ssl = ssl;
    return NL_OK;
}

// ---- life --------------------------------------------------------------------

int nl_tls_context_new(const char *ca_file, const char *cert_file, const char *key_file,
                       const char *host, struct nl_tls_context **ret, char *error_text,
                       size_t error_size) {
    if (ca_file == NULL || cert_file == NULL || key_file == NULL) {
        snprintf(error_text, error_size, "TLS between nodes needs a CA, a certificate and a key");
        return NL_EINVAL;
    }
    struct nl_tls_context *context = calloc(1, sizeof *context);
    if (context == NULL || (host != NULL && (context->host = strdup(host)) == NULL)) {
        snprintf(error_text, error_size, "no memory");
        nl_tls_context_free(context);
        return NL_ENOMEM;
    }
    int rv =
        nl_tls_files_open(ca_file, cert_file, key_file, &context->files, error_text, error_size);
    rv = rv == NL_OK ? build(context, error_text, error_size) : rv;
    if (rv != NL_OK) {
        nl_tls_context_free(context);
        return rv;
    }
    *ret = context;
    return NL_OK;
}

int nl_tls_context_reload(struct nl_tls_context *context, bool force, char *error_text,
                          size_t error_size) {
    bool is_new = false;
    int rv = nl_tls_files_reload(context->files, force, &is_new, error_text, error_size);
    return rv == NL_OK && is_new ? build(context, error_text, error_size) : rv;
}

void nl_tls_context_free(struct nl_tls_context *context) {
    if (context == NULL) {
        return;
    }
    SSL_CTX_free(context->ssl);
    nl_tls_files_close(context->files);
    free(context->host);
    free(context);
}
