// Raft connections: TCP, with TLS if there are certificates, and in it a mutual challenge-response
// handshake (handshake.h) that ends before libraft gets the stream, so an unauthenticated or
// foreign peer never reaches libraft.
//
// One connection per direction. Peers' addresses come from the member list only. The newest
// accepted connection of a node replaces its older one, so that messages of one node never
// interleave. Loop thread only.
#ifndef NODELINK_CLUSTER_RAFT_TRANSPORT_H
#define NODELINK_CLUSTER_RAFT_TRANSPORT_H

#include <raft/uv.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "cluster/raft/raft_node.h"

struct nl_transport;

struct nl_transport_options {
    uv_loop_t *loop;
    const char *cluster_name;  // these and the members are borrowed until the transport is freed
    uint64_t id;
    const char *listen_address;
    const struct nl_raft_member *members;
    size_t n_members;
    const uint8_t *secret;
    size_t secret_len;
    const struct nl_raft_tls *tls;  // NULL: plain; needed during nl_transport_new only
    uint32_t connect_timeout_ms;    // 0: 2000
    uint32_t handshake_timeout_ms;  // 0: 2000
    uint32_t handshakes_max;        // incoming and not yet proven; 0: 64
};

// Binds and listens at once, so that a busy address is known before anything on disk changes.
// NL_EBUSY, NL_EINVAL (address), NL_ENOMEM, NL_EIO, with a sentence in error_text. After a failure
// a handle may need one more turn of the loop to close.
int nl_transport_new(const struct nl_transport_options *options, struct nl_transport **ret,
                     char *error_text, size_t error_size);
// For raft_uv_init. Owned by the transport.
struct raft_uv_transport *nl_transport_raft(struct nl_transport *transport);
// After libraft closed it (or never got to close it): NULL is allowed.
void nl_transport_free(struct nl_transport *transport);
// Closes it when libraft never took it over; done, then nl_transport_free.
void nl_transport_abandon(struct nl_transport *transport, void (*done)(void *user), void *user);
// As nl_raft_reload_tls.
int nl_transport_reload_tls(struct nl_transport *transport, char *error_text, size_t error_size);
uint16_t nl_transport_port(const struct nl_transport *transport);

#endif
