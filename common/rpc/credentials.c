// TLS from files that may be replaced while we run (common/base/tls_files.h). A server looks at
// them at each handshake, a channel at each call.

#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/tls_files.h"
#include "common/rpc/internal.h"

struct nl_rpc_tls_files {
    bool asks_clients;  // [const] server: they need a certificate
    pthread_mutex_t mutex;
    struct nl_tls_files *files;  // [lock]
    bool fetched;                // [lock] gRPC has had a configuration
};

// The mutex is held. True: new ones were taken.
static bool reload(struct nl_rpc_tls_files *files) {
    char ignored[256];
    bool is_new = false;
    nl_tls_files_reload(files->files, false, &is_new, ignored, sizeof ignored);
    return is_new;
}

bool nl_rpc_tls_reload(struct nl_rpc_tls_files *files) {
    pthread_mutex_lock(&files->mutex);
    bool changed = reload(files);
    pthread_mutex_unlock(&files->mutex);
    return changed;
}

// ---- open, close -----------------------------------------------------------

void nl_rpc_tls_close(struct nl_rpc_tls_files *files) {
    if (files == NULL) {
        return;
    }
    nl_tls_files_close(files->files);
    pthread_mutex_destroy(&files->mutex);
    free(files);
}

int nl_rpc_tls_open(const struct nl_rpc_tls *tls, bool is_server, struct nl_rpc_tls_files **ret,
                    char *error_text, size_t error_size) {
    if (is_server && tls->cert_file == NULL) {
        snprintf(error_text, error_size, "TLS needs both a certificate and a key file");
        return NL_EINVAL;
    }
    struct nl_rpc_tls_files *files = calloc(1, sizeof *files);
    if (files == NULL) {
        snprintf(error_text, error_size, "no memory");
        return NL_ENOMEM;
    }
    files->asks_clients = is_server && tls->ca_file != NULL;
    pthread_mutex_init(&files->mutex, NULL);
    int rc = nl_tls_files_open(tls->ca_file, tls->cert_file, tls->key_file, &files->files,
                               error_text, error_size);
    if (rc != NL_OK) {
        nl_rpc_tls_close(files);
        return rc;
    }
    *ret = files;
    return NL_OK;
}

// ---- for gRPC --------------------------------------------------------------

// At each handshake, on a poller.
static grpc_ssl_certificate_config_reload_status fetch(
    void *user, grpc_ssl_server_certificate_config **config) {
    struct nl_rpc_tls_files *files = user;
    pthread_mutex_lock(&files->mutex);
    bool fresh = reload(files) || !files->fetched;
    if (fresh) {
        struct nl_tls_pem pem = nl_tls_files_pem(files->files);
        grpc_ssl_pem_key_cert_pair pair = {.private_key = pem.key, .cert_chain = pem.cert};
        // gRPC asserts that there are roots, even if no client is asked for a certificate.
        const char *roots = pem.ca != NULL ? pem.ca : pem.cert;
        *config = grpc_ssl_server_certificate_config_create(roots, &pair, 1);
        files->fetched = true;
    }
    pthread_mutex_unlock(&files->mutex);
    return fresh ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                 : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

grpc_server_credentials *nl_rpc_tls_server(struct nl_rpc_tls_files *files) {
    grpc_ssl_client_certificate_request_type ask =
        files->asks_clients ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                            : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
    grpc_ssl_server_credentials_options *options =
        grpc_ssl_server_credentials_create_options_using_config_fetcher(ask, fetch, files);
    return grpc_ssl_server_credentials_create_with_options(options);
}

grpc_channel_credentials *nl_rpc_tls_channel(struct nl_rpc_tls_files *files) {
    pthread_mutex_lock(&files->mutex);
    struct nl_tls_pem pem = nl_tls_files_pem(files->files);
    grpc_ssl_pem_key_cert_pair pair = {.private_key = pem.key, .cert_chain = pem.cert};
    grpc_channel_credentials *credentials =
        grpc_ssl_credentials_create_ex(pem.ca, pem.key != NULL ? &pair : NULL, NULL, NULL);
    pthread_mutex_unlock(&files->mutex);
    return credentials;
}
