// TLS on a connection whose user knows nothing of it: the user gets one end of a pair of local
// sockets, and a pump on the same loop moves bytes between the other end (through TLS) and the
// connection. Nothing blocks, there is no thread.
//
//   user  <- inner: socket pair ->  pump (TLS session)  <- outer: TCP ->  peer
//
// What the pump holds is bounded: one chunk in each direction, and what TLS adds. It reads from
// one side only when what it read before has gone out at the other, so a slow reader is felt by
// the writer.
//
// Ends. The user closes its end: what it wrote before is sent, then TLS's end and TCP's, then the
// pump waits for the peer's. The peer ends or dies: what it sent before goes to the user, then the
// user's end sees the end of the stream. TLS fails: the user's end is closed at once, the alert is
// sent. Each takes LINGER_MS at most. Loop thread only.
#ifndef NODELINK_CLUSTER_RAFT_TLS_PUMP_H
#define NODELINK_CLUSTER_RAFT_TLS_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "cluster/raft/tls_session.h"

struct nl_tls_pump;

// All pumps of one user. The fields above the line are set by the user, the others are zero.
struct nl_tls_pumps {
    uv_loop_t *loop;
    // TLS on a connection failed. `owner` is as given to nl_tls_pump_new, NULL once it was
    // released; `address` is the peer's.
    void (*on_failed)(void *user, void *owner, const char *address, const char *why);
    // The last pump is gone.
    void (*on_empty)(void *user);
    void *user;
    // ----
    struct nl_tls_pump *list;
    unsigned ending;
};

// `outer` is a connected stream allocated with raft_malloc. On NL_OK it and the session are taken,
// and *ret_inner is the user's end, allocated with raft_malloc, closed and freed by the user. *ret
// lives until nl_tls_pump_release, whatever happens to the connection. NL_ENOMEM, NL_EIO.
int nl_tls_pump_new(struct nl_tls_pumps *pumps, uv_stream_t *outer, struct nl_tls_session *session,
                    void *owner, const char *address, struct nl_tls_pump **ret,
                    uv_stream_t **ret_inner);
// The first byte moves; on_failed may be called from inside.
void nl_tls_pump_start(struct nl_tls_pump *pump);
// The user has closed its end, or is about to. The pump sees that by itself only once the handshake
// is done.
void nl_tls_pump_end(struct nl_tls_pump *pump);
// The owner lets go: the pump works on, and frees itself at its end. NULL is allowed.
void nl_tls_pump_release(struct nl_tls_pump *pump);
const struct nl_tls_session *nl_tls_pump_session(const struct nl_tls_pump *pump);

// Cuts what has been ending for too long; to be called a few times in a second.
void nl_tls_pumps_sweep(struct nl_tls_pumps *pumps, uint64_t now_ms);
// Closes all at once, without an end of TLS.
void nl_tls_pumps_abort(struct nl_tls_pumps *pumps);

#endif
