// TLS between two nodes without any I/O: bytes of the wire go in and come out, bytes of the
// application come out and go in. TLS 1.3 only: both ends are nodes. Each side shows a certificate
// that the other verifies with its CA, for a name that the other expects. Loop thread.
#ifndef NODELINK_CLUSTER_RAFT_TLS_SESSION_H
#define NODELINK_CLUSTER_RAFT_TLS_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define NL_TLS_BINDING_LEN 32

// ---- certificate, key and CA: tls_context.c ----------------------------------

struct nl_tls_context;

// Reads and checks the files (blocking). The certificate must be for `host`, the one under which
// the others know this node; NULL: for any. NL_EIO, NL_EINVAL, NL_ENOMEM with a sentence.
int nl_tls_context_new(const char *ca_file, const char *cert_file, const char *key_file,
                       const char *host, struct nl_tls_context **ret, char *error_text,
                       size_t error_size);
// Sessions under way keep what they have. NULL is allowed.
void nl_tls_context_free(struct nl_tls_context *context);
// Takes the files' content for new sessions if it changed; with `force` they are read even if they
// look unchanged. After an error the last good ones stay.
int nl_tls_context_reload(struct nl_tls_context *context, bool force, char *error_text,
                          size_t error_size);

// ---- one connection: tls_session.c -------------------------------------------

struct nl_tls_session;

// The side that connects gives the host (name or address) that the peer's certificate must be for;
// NULL: the side that accepts. NL_ENOMEM.
int nl_tls_session_new(struct nl_tls_context *context, const char *host,
                       struct nl_tls_session **ret);
void nl_tls_session_free(struct nl_tls_session *session);  // NULL is allowed

// Bytes from the wire; all are kept. The caller takes them out with nl_tls_session_read before it
// puts more, and so bounds them. NL_ENOMEM.
int nl_tls_session_put(struct nl_tls_session *session, const void *data, size_t len);
// Goes on with the handshake, then gives bytes of the application: how many, or 0: more is needed
// from the wire; NL_ECLOSED: the peer has ended in order; NL_EAUTH: one side refused the other;
// NL_EINVAL: not TLS, or broken. After an error: nl_tls_session_why, and an alert may be pending.
ssize_t nl_tls_session_read(struct nl_tls_session *session, void *data, size_t size);
// Only when nl_tls_session_ready. Takes everything. NL_EINVAL: the session is broken.
int nl_tls_session_write(struct nl_tls_session *session, const void *data, size_t len);
// Bytes for the wire: how many were taken.
size_t nl_tls_session_take(struct nl_tls_session *session, void *data, size_t size);
size_t nl_tls_session_pending(const struct nl_tls_session *session);
// Says the end of our side.
void nl_tls_session_end(struct nl_tls_session *session);

// The handshake is done, as far as this side can know.
bool nl_tls_session_ready(const struct nl_tls_session *session);
const char *nl_tls_session_why(const struct nl_tls_session *session);  // "" before an error
// Both ends of one connection, and nobody else, get the same value (tls-exporter, RFC 9266).
// NL_EAGAIN before the handshake is done.
int nl_tls_session_binding(const struct nl_tls_session *session, uint8_t out[NL_TLS_BINDING_LEN]);
// Whether the peer's certificate is good for this host (a name or an address).
bool nl_tls_session_names(const struct nl_tls_session *session, const char *host);

#endif
