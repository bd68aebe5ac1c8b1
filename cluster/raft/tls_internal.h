// What the TLS files of this folder share among themselves.
#ifndef NODELINK_CLUSTER_RAFT_TLS_INTERNAL_H
#define NODELINK_CLUSTER_RAFT_TLS_INTERNAL_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "cluster/raft/tls_session.h"

SSL_CTX *nl_tls_context_ssl(const struct nl_tls_context *context);  // borrowed
bool nl_tls_is_address(const char *host);
bool nl_tls_cert_names(X509 *cert, const char *host);

#endif
