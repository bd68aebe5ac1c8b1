#include "cluster/raft/transport.h"

#include <assert.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <utlist.h>

#include "cluster/raft/handshake.h"
#include "cluster/raft/tls_pump.h"
#include "common/base/clock.h"
#include "common/base/config.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"

enum {
    CONNECT_TIMEOUT_MS = 2000,
    HANDSHAKE_TIMEOUT_MS = 2000,
    HANDSHAKES_MAX = 64,
    SWEEP_MS = 100,
    USER_TIMEOUT_MS = 5000,  // unacknowledged bytes for this long: the kernel drops the connection
    BACKLOG = 64,
};

// A connection until libraft gets it:
//
//   outgoing: RESOLVING -> CONNECTING -> AWAIT_CHALLENGE -> AWAIT_READY -> DONE
//   incoming: AWAIT_HELLO -> AWAIT_PROOF -> DONE
//   any of them -> CLOSING
enum conn_state {
    RESOLVING,
    CONNECTING,
    AWAIT_CHALLENGE,
    AWAIT_READY,
    AWAIT_HELLO,
    AWAIT_PROOF,
    DONE,
    CLOSING,
};

struct conn {
    struct nl_transport *transport;
    enum conn_state state;
    // raft_malloc: libraft frees it after the hand-over. The TCP connection; with TLS, once that is
    // up, the near end of a socket pair whose far end the pump has.
    uv_stream_t *stream;
    struct nl_tls_pump *pump;  // NULL: plain, or not up
    uint8_t binding[NL_TLS_BINDING_LEN];
    char address[64];  // the peer's, for the log
    bool outgoing;
    bool resolving;  // the resolver still holds `resolve`
    unsigned writes_pending;
    uint64_t deadline_ms;
    const struct nl_raft_member *peer;  // incoming: NULL until the hello names it
    struct nl_handshake hs;
    uint8_t in[NL_HS_MESSAGE_MAX];
    size_t in_len, in_need;
    uint8_t out[2][NL_HS_MESSAGE_MAX];
    uv_write_t write[2];
    unsigned writes;
    uv_connect_t connect;
    uv_getaddrinfo_t resolve;
    struct raft_uv_connect *request;  // outgoing
    int status;                       // outgoing: what the request ends with
    struct conn *prev, *next;
};

// A stream that libraft owns now. The descriptor alone could have been closed and used again;
// together with the socket's inode it names one socket.
struct accepted {
    int fd;
    ino_t inode;
};

struct nl_transport {
    struct raft_uv_transport raft;
    struct nl_transport_options options;
    uv_tcp_t listener;
    uv_timer_t sweep;
    unsigned handles;  // of the two above, not yet closed
    raft_uv_accept_cb accept_cb;
    struct conn *conns;
    struct accepted *accepted;  // by position in members
    bool closing;
    raft_uv_transport_close_cb close_cb;
    void (*abandoned)(void *user);
    void *abandoned_user;
    struct nl_log_limit log_limit;
    struct nl_tls_context *tls;  // NULL: plain
    struct nl_tls_pumps pumps;
};

static const struct nl_raft_member *member_of(const struct nl_transport *t, uint64_t id) {
    for (size_t i = 0; i < t->options.n_members; i++) {
        if (t->options.members[i].id == id) {
            return &t->options.members[i];
        }
    }
    return NULL;
}

static void log_refused(struct nl_transport *t, const struct conn *c, const char *why) {
    uint32_t suppressed = 0;
    if (!nl_log_allow(&t->log_limit, nl_clock_mono_ms(), 5, 10000, &suppressed)) {
        return;
    }
    nl_log(NL_LOG_WARN, "raft", "connection refused", "why", why, "peer",
           c->peer != NULL ? c->peer->name : "?", "address",
           c->address[0] != '\0' ? c->address : "?", "direction", c->outgoing ? "out" : "in",
           "suppressed", nl_log_u64(suppressed).s, NULL);
}

// ---- end of a connection -----------------------------------------------------

static void maybe_closed(struct nl_transport *t) {
    if (!t->closing || t->handles > 0 || t->conns != NULL || t->pumps.list != NULL) {
        return;
    }
    if (t->close_cb != NULL) {
        raft_uv_transport_close_cb cb = t->close_cb;
        t->close_cb = NULL;
        cb(&t->raft);
    } else if (t->abandoned != NULL) {
        t->abandoned(t->abandoned_user);
    }
}

static void conn_free(struct conn *c) {
    DL_DELETE(c->transport->conns, c);
    nl_tls_pump_release(c->pump);
    free(c);
}

static void conn_on_closed(uv_handle_t *handle) {
    struct conn *c = handle->data;
    struct nl_transport *t = c->transport;
    struct raft_uv_connect *request = c->request;
    int status = c->status;
    raft_free(c->stream);
    conn_free(c);
    if (request != NULL) {
        request->cb(request, NULL, status);
    }
    maybe_closed(t);
}

// Ends it; the connect request gets `status` once the handle is closed.
static void conn_abort(struct conn *c, int status) {
    if (c->state == CLOSING) {
        return;
    }
    c->state = CLOSING;
    c->status = status;
    if (c->resolving) {
        uv_cancel((uv_req_t *)&c->resolve);  // the handle is closed when the resolver lets go
        return;
    }
    uv_close((uv_handle_t *)c->stream, conn_on_closed);
    if (c->pump != NULL) {
        nl_tls_pump_end(c->pump);
    }
}

static void conn_refuse(struct conn *c, const char *why) {
    log_refused(c->transport, c, why);
    conn_abort(c, RAFT_NOCONNECTION);
}

// ---- hand-over ---------------------------------------------------------------

static ino_t inode_of(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

// What the older connection still holds is dropped: libraft would otherwise read it after newer
// messages. Then its reader sees the end of the stream and closes it.
static void cut_older(const struct accepted *old) {
    char sink[16384];
    if (old->inode == 0 || inode_of(old->fd) != old->inode) {
        return;
    }
    for (int i = 0; i < 4096 && recv(old->fd, sink, sizeof sink, MSG_DONTWAIT) > 0; i++) {
    }
    shutdown(old->fd, SHUT_RDWR);
}

static void remember_accepted(struct conn *c) {
    struct nl_transport *t = c->transport;
    struct accepted *slot = &t->accepted[c->peer - t->options.members];
    uv_os_fd_t fd;
    cut_older(slot);
    if (uv_fileno((uv_handle_t *)c->stream, &fd) == 0) {
        slot->fd = fd;
        slot->inode = inode_of(fd);
    }
}

static void conn_hand_over(struct conn *c) {
    struct nl_transport *t = c->transport;
    uv_stream_t *stream = c->stream;
    struct raft_uv_connect *request = c->request;
    const struct nl_raft_member *peer = c->peer;
    (void)NL_FAILPOINT(c->outgoing ? "start.peer_out" : "start.peer_in");
    if (!c->outgoing) {
        remember_accepted(c);
    }
    conn_free(c);
    if (request != NULL) {
        request->cb(request, stream, 0);
    } else {
        t->accept_cb(&t->raft, peer->id, peer->address, stream);
    }
}

static void conn_on_written(uv_write_t *write, int status) {
    struct conn *c = write->data;
    c->writes_pending--;
    if (c->state == CLOSING) {
        return;
    }
    if (status != 0) {
        conn_abort(c, RAFT_NOCONNECTION);
        return;
    }
    if (c->state == DONE && c->writes_pending == 0) {
        conn_hand_over(c);
    }
}

// ---- TLS -----------------------------------------------------------------------

// Owned by the caller; NULL: no memory.
static char *host_of(const char *address) {
    char *host = NULL;
    uint16_t port;
    return nl_parse_address(address, &host, &port) == NL_OK ? host : NULL;
}

// Files that are replaced serve the next connection. Bad ones are told by whoever asks for the
// reload (SIGHUP); here they could be half of a replacement.
static int conn_session(struct conn *c, struct nl_tls_session **ret) {
    char ignored[256];
    char *host = c->outgoing ? host_of(c->peer->address) : NULL;
    if (c->outgoing && host == NULL) {
        return NL_ENOMEM;
    }
    nl_tls_context_reload(c->transport->tls, false, ignored, sizeof ignored);
    int rv = nl_tls_session_new(c->transport->tls, host, ret);
    free(host);
    return rv;
}

// Puts TLS under a connection that is up: the handshake and libraft use the pump's near end as they
// would use the connection. False: it has been given up.
static bool conn_wrap(struct conn *c) {
    struct nl_transport *t = c->transport;
    struct nl_tls_session *session = NULL;
    if (t->tls == NULL) {
        return true;
    }
    int rv = conn_session(c, &session);
    if (rv == NL_OK) {
        rv = nl_tls_pump_new(&t->pumps, c->stream, session, c, c->address, &c->pump, &c->stream);
    }
    if (rv != NL_OK) {
        nl_tls_session_free(session);
        conn_refuse(c, nl_strerror(rv));
        return false;
    }
    c->stream->data = c;
    nl_tls_pump_start(c->pump);
    return c->state != CLOSING;
}

static void on_tls_failed(void *user, void *owner, const char *address, const char *why) {
    struct nl_transport *t = user;
    struct conn *c = owner;
    uint32_t suppressed = 0;
    if (c != NULL && c->state != CLOSING) {
        conn_refuse(c, why);
    } else if (c == NULL &&
               nl_log_allow(&t->log_limit, nl_clock_mono_ms(), 5, 10000, &suppressed)) {
        nl_log(NL_LOG_WARN, "raft", "connection lost", "why", why, "address", address, "suppressed",
               nl_log_u64(suppressed).s, NULL);
    }
}

static void on_pumps_empty(void *user) {
    maybe_closed(user);
}

// Ties the handshake to this TLS connection. The messages that came in went through it, so it is
// up.
static void conn_bind(struct conn *c) {
    if (c->pump != NULL) {
        int rv = nl_tls_session_binding(nl_tls_pump_session(c->pump), c->binding);
        assert(rv == NL_OK);
        c->hs.binding = c->binding;
    }
}

// Of an incoming connection, once it has said whose it is. TLS itself has checked the CA, and the
// name of an outgoing one.
static bool cert_is_of(const struct conn *c, const struct nl_raft_member *peer) {
    char *host = c->pump != NULL ? host_of(peer->address) : NULL;
    bool ok = c->pump == NULL ||
              (host != NULL && nl_tls_session_names(nl_tls_pump_session(c->pump), host));
    free(host);
    return ok;
}

// ---- handshake -----------------------------------------------------------------

static void conn_expect(struct conn *c, enum conn_state state, size_t need) {
    c->state = state;
    c->in_len = 0;
    c->in_need = need;
}

static void conn_write(struct conn *c, size_t len) {
    uv_write_t *write = &c->write[c->writes];
    uv_buf_t buf = uv_buf_init((char *)c->out[c->writes], (unsigned)len);
    write->data = c;
    c->writes++;
    int rv = uv_write(write, c->stream, &buf, 1, conn_on_written);
    if (rv != 0) {
        conn_abort(c, RAFT_NOCONNECTION);
        return;
    }
    c->writes_pending++;
}

static uint8_t *conn_out(struct conn *c) {
    assert(c->writes < 2);
    return c->out[c->writes];
}

static void conn_finish(struct conn *c) {
    uv_read_stop(c->stream);
    c->state = DONE;
    if (c->writes_pending == 0) {
        conn_hand_over(c);
    }
}

static const char *own_address(const struct nl_transport *t) {
    return member_of(t, t->options.id)->address;
}

// The start of a TLS handshake record.
static bool is_tls(const uint8_t *bytes) {
    return bytes[0] == 22 && bytes[1] == 3;
}

static void on_hello(struct conn *c) {
    struct nl_transport *t = c->transport;
    uint64_t client, server;
    int rv = nl_hs_read_hello(c->in, t->options.cluster_name, &client, &server, c->hs.client_nonce);
    if (rv != NL_OK) {
        conn_refuse(c, rv == NL_EPERM  ? "it belongs to another cluster"
                       : is_tls(c->in) ? "it speaks TLS, this node does not: give all nodes "
                                         "tls-* settings, or none"
                                       : "not a raft peer");
        return;
    }
    c->peer = member_of(t, client);
    if (server != t->options.id || client == t->options.id || c->peer == NULL) {
        conn_refuse(c, server != t->options.id ? "it wants another node" : "unknown node id");
        return;
    }
    if (!cert_is_of(c, c->peer)) {
        conn_refuse(c, "its certificate does not name the host of its raft address");
        return;
    }
    c->hs.client_id = client;
    c->hs.server_id = server;
    c->hs.client_address = c->peer->address;
    c->hs.server_address = own_address(t);
    conn_bind(c);
    nl_hs_make_challenge(&c->hs, conn_out(c));
    conn_expect(c, AWAIT_PROOF, NL_HS_PROOF_LEN);
    conn_write(c, NL_HS_CHALLENGE_LEN);
}

static void on_challenge(struct conn *c) {
    conn_bind(c);
    int rv = nl_hs_answer_challenge(&c->hs, c->in, conn_out(c));
    if (rv != NL_OK) {
        conn_refuse(c, "it does not know the secret, or its addresses differ from ours");
        return;
    }
    conn_expect(c, AWAIT_READY, NL_HS_READY_LEN);
    conn_write(c, NL_HS_PROOF_LEN);
}

static void on_proof(struct conn *c) {
    if (nl_hs_check_proof(&c->hs, c->in) != NL_OK) {
        conn_refuse(c, "it does not know the secret, or its addresses differ from ours");
        return;
    }
    if (c->transport->accept_cb == NULL) {
        conn_abort(c, RAFT_NOCONNECTION);
        return;
    }
    nl_hs_make_ready(conn_out(c));
    uv_read_stop(c->stream);
    c->state = DONE;
    conn_write(c, NL_HS_READY_LEN);
}

static void on_ready(struct conn *c) {
    if (!nl_hs_is_ready(c->in)) {
        conn_refuse(c, "not a raft peer");
        return;
    }
    conn_finish(c);
}

static void conn_step(struct conn *c) {
    switch (c->state) {
        case AWAIT_HELLO:
            on_hello(c);
            break;
        case AWAIT_PROOF:
            on_proof(c);
            break;
        case AWAIT_CHALLENGE:
            on_challenge(c);
            break;
        case AWAIT_READY:
            on_ready(c);
            break;
        case RESOLVING:
        case CONNECTING:
        case DONE:
        case CLOSING:
            break;
    }
}

// Never more than the message: the bytes behind it are libraft's.
static void conn_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    struct conn *c = handle->data;
    (void)suggested;
    *buf = uv_buf_init((char *)c->in + c->in_len, (unsigned)(c->in_need - c->in_len));
}

static void conn_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct conn *c = stream->data;
    (void)buf;
    if (n == 0 || c->state == CLOSING) {
        return;
    }
    if (n < 0) {
        if (c->state != AWAIT_HELLO) {
            conn_refuse(c, "closed during the handshake; that node's log says why");
        } else {
            conn_abort(c, RAFT_NOCONNECTION);  // port scanners and health probes: no word
        }
        return;
    }
    c->in_len += (size_t)n;
    if (c->in_len == c->in_need) {
        conn_step(c);
    }
}

static void conn_tune(struct conn *c) {
    uv_tcp_t *tcp = (uv_tcp_t *)c->stream;
    struct sockaddr_storage addr;
    int len = sizeof addr;
    unsigned timeout_ms = USER_TIMEOUT_MS;
    uv_os_fd_t fd;
    if (uv_tcp_getpeername(tcp, (struct sockaddr *)&addr, &len) == 0) {
        uv_ip_name((struct sockaddr *)&addr, c->address, sizeof c->address);
    }
    uv_tcp_nodelay(tcp, 1);
    uv_tcp_keepalive(tcp, 1, 5);
    if (uv_fileno((uv_handle_t *)c->stream, &fd) == 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
    }
}

static void conn_start_reading(struct conn *c) {
    if (uv_read_start(c->stream, conn_on_alloc, conn_on_read) != 0) {
        conn_abort(c, RAFT_NOCONNECTION);
    }
}

static struct conn *conn_new(struct nl_transport *t, bool outgoing) {
    struct conn *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return NULL;
    }
    c->stream = raft_malloc(sizeof(uv_tcp_t));
    if (c->stream == NULL || uv_tcp_init(t->options.loop, (uv_tcp_t *)c->stream) != 0) {
        raft_free(c->stream);
        free(c);
        return NULL;
    }
    c->stream->data = c;
    c->transport = t;
    c->outgoing = outgoing;
    c->hs.cluster_name = t->options.cluster_name;
    c->hs.secret = t->options.secret;
    c->hs.secret_len = t->options.secret_len;
    DL_APPEND(t->conns, c);
    return c;
}

// ---- incoming ------------------------------------------------------------------

// Makes room by dropping the one that has been silent longest: idle connections of a stranger
// can't keep the nodes out.
static void bound_handshakes(struct nl_transport *t) {
    unsigned n = 0;
    struct conn *c, *oldest = NULL;
    DL_FOREACH (t->conns, c) {
        if (!c->outgoing && c->state != CLOSING) {
            oldest = oldest == NULL ? c : oldest;
            n++;
        }
    }
    if (n > t->options.handshakes_max) {
        conn_refuse(oldest, "too many handshakes");
    }
}

static void on_connection(uv_stream_t *listener, int status) {
    struct nl_transport *t = listener->data;
    struct conn *c = status == 0 ? conn_new(t, false) : NULL;
    if (c == NULL) {
        return;
    }
    c->deadline_ms = nl_clock_mono_ms() + t->options.handshake_timeout_ms;
    conn_expect(c, AWAIT_HELLO, NL_HS_HELLO_LEN);
    if (uv_accept(listener, c->stream) != 0) {
        conn_abort(c, RAFT_NOCONNECTION);
        return;
    }
    conn_tune(c);
    if (conn_wrap(c)) {
        conn_start_reading(c);
    }
    bound_handshakes(t);
}

static int transport_listen(struct raft_uv_transport *raft, raft_uv_accept_cb cb) {
    struct nl_transport *t = raft->impl;
    t->accept_cb = cb;
    return 0;
}

// ---- outgoing ------------------------------------------------------------------

static void conn_on_connected(uv_connect_t *req, int status) {
    struct conn *c = req->data;
    if (c->state == CLOSING) {
        return;
    }
    if (status != 0) {
        conn_abort(c, RAFT_NOCONNECTION);
        return;
    }
    conn_tune(c);
    c->deadline_ms = nl_clock_mono_ms() + c->transport->options.handshake_timeout_ms;
    if (!conn_wrap(c)) {
        return;
    }
    nl_hs_make_hello(&c->hs, conn_out(c));
    conn_expect(c, AWAIT_CHALLENGE, NL_HS_CHALLENGE_LEN);
    conn_write(c, NL_HS_HELLO_LEN);
    if (c->state != CLOSING) {
        conn_start_reading(c);
    }
}

static void conn_connect(struct conn *c, const struct sockaddr *addr) {
    c->state = CONNECTING;
    c->connect.data = c;
    if (uv_tcp_connect(&c->connect, (uv_tcp_t *)c->stream, addr, conn_on_connected) != 0) {
        conn_abort(c, RAFT_NOCONNECTION);
    }
}

static void conn_on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *res) {
    struct conn *c = req->data;
    c->resolving = false;
    if (c->state == CLOSING) {
        uv_close((uv_handle_t *)c->stream, conn_on_closed);
    } else if (status != 0) {
        conn_refuse(c, "its host name can't be resolved");
    } else {
        conn_connect(c, res->ai_addr);
    }
    uv_freeaddrinfo(res);
}

static bool numeric_address(const char *host, uint16_t port, struct sockaddr_storage *ret) {
    return uv_ip4_addr(host, port, (struct sockaddr_in *)ret) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)ret) == 0;
}

static int conn_resolve(struct conn *c, const char *address) {
    char *host;
    uint16_t port;
    char service[8];
    struct sockaddr_storage numeric;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    if (nl_parse_address(address, &host, &port) != NL_OK) {
        return -1;
    }
    if (numeric_address(host, port, &numeric)) {
        free(host);
        conn_connect(c, (struct sockaddr *)&numeric);
        return 0;
    }
    snprintf(service, sizeof service, "%u", port);
    c->state = RESOLVING;
    c->resolve.data = c;
    int rv = uv_getaddrinfo(c->transport->options.loop, &c->resolve, conn_on_resolved, host,
                            service, &hints);
    c->resolving = rv == 0;
    free(host);
    return rv;
}

// libraft's own idea of the address is not used: the member list decides.
static int transport_connect(struct raft_uv_transport *raft, struct raft_uv_connect *req,
                             raft_id id, const char *address, raft_uv_connect_cb cb) {
    struct nl_transport *t = raft->impl;
    const struct nl_raft_member *peer = member_of(t, id);
    (void)address;
    if (peer == NULL) {
        return RAFT_NOCONNECTION;
    }
    struct conn *c = conn_new(t, true);
    if (c == NULL) {
        return RAFT_NOMEM;
    }
    req->cb = cb;
    c->request = req;
    c->peer = peer;
    c->hs.client_id = t->options.id;
    c->hs.server_id = id;
    c->hs.client_address = own_address(t);
    c->hs.server_address = peer->address;
    c->deadline_ms = nl_clock_mono_ms() + t->options.connect_timeout_ms;
    if (conn_resolve(c, peer->address) != 0) {
        conn_abort(c, RAFT_NOCONNECTION);
    }
    return 0;
}

// ---- life ----------------------------------------------------------------------

static void on_sweep(uv_timer_t *timer) {
    struct nl_transport *t = timer->data;
    uint64_t now = nl_clock_mono_ms();
    struct conn *c, *next;
    nl_tls_pumps_sweep(&t->pumps, now);
    DL_FOREACH_SAFE (t->conns, c, next) {
        if (c->state == CLOSING || now < c->deadline_ms) {
            continue;
        }
        if (c->state == RESOLVING || c->state == CONNECTING) {
            conn_abort(c, RAFT_NOCONNECTION);
        } else {
            conn_refuse(c, "the handshake took too long");
        }
    }
}

static int transport_init(struct raft_uv_transport *raft, raft_id id, const char *address) {
    (void)raft;
    (void)id;
    (void)address;
    return 0;
}

static void on_handle_closed(uv_handle_t *handle) {
    struct nl_transport *t = handle->data;
    t->handles--;
    maybe_closed(t);
}

static void close_all(struct nl_transport *t) {
    struct conn *c, *next;
    assert(!t->closing);
    t->closing = true;
    DL_FOREACH_SAFE (t->conns, c, next) {
        conn_abort(c, RAFT_CANCELED);
    }
    nl_tls_pumps_abort(&t->pumps);
    uv_close((uv_handle_t *)&t->listener, on_handle_closed);
    uv_close((uv_handle_t *)&t->sweep, on_handle_closed);
}

static void transport_close(struct raft_uv_transport *raft, raft_uv_transport_close_cb cb) {
    struct nl_transport *t = raft->impl;
    t->close_cb = cb;
    close_all(t);
}

void nl_transport_abandon(struct nl_transport *t, void (*done)(void *user), void *user) {
    t->abandoned = done;
    t->abandoned_user = user;
    close_all(t);
}

void nl_transport_free(struct nl_transport *t) {
    if (t == NULL) {
        return;
    }
    assert(t->handles == 0 && t->conns == NULL && t->pumps.list == NULL);
    nl_tls_context_free(t->tls);
    free(t->accepted);
    free(t);
}

struct raft_uv_transport *nl_transport_raft(struct nl_transport *t) {
    return &t->raft;
}

uint16_t nl_transport_port(const struct nl_transport *t) {
    struct sockaddr_storage addr;
    int len = sizeof addr;
    if (uv_tcp_getsockname(&t->listener, (struct sockaddr *)&addr, &len) != 0) {
        return 0;
    }
    return ntohs(addr.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                                            : ((struct sockaddr_in *)&addr)->sin_port);
}

static int listen_on(struct nl_transport *t, char *error_text, size_t error_size) {
    const char *address = t->options.listen_address;
    char *host;
    uint16_t port;
    char service[8];
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *res;
    if (nl_parse_address(address, &host, &port) != NL_OK) {
        snprintf(error_text, error_size, "raft address %s: not host:port", address);
        return NL_EINVAL;
    }
    snprintf(service, sizeof service, "%u", port);
    int rv = getaddrinfo(host, service, &hints, &res);
    free(host);
    if (rv != 0) {
        snprintf(error_text, error_size, "raft address %s: %s", address, gai_strerror(rv));
        return NL_EINVAL;
    }
    rv = uv_tcp_bind(&t->listener, res->ai_addr, 0);
    freeaddrinfo(res);
    rv = rv != 0 ? rv : uv_listen((uv_stream_t *)&t->listener, BACKLOG, on_connection);
    if (rv != 0) {
        snprintf(error_text, error_size, "can't listen on raft address %s: %s", address,
                 uv_strerror(rv));
        return rv == UV_EADDRINUSE ? NL_EBUSY : NL_EIO;
    }
    return NL_OK;
}

static int open_tls(struct nl_transport *t, char *error_text, size_t error_size) {
    const struct nl_raft_tls *tls = t->options.tls;
    if (tls == NULL) {
        return NL_OK;
    }
    char *host = host_of(own_address(t));
    int rv = nl_tls_context_new(tls->ca_file, tls->cert_file, tls->key_file, host, &t->tls,
                                error_text, error_size);
    free(host);
    return rv;
}

int nl_transport_reload_tls(struct nl_transport *t, char *error_text, size_t error_size) {
    return t->tls != NULL ? nl_tls_context_reload(t->tls, true, error_text, error_size) : NL_OK;
}

static void free_abandoned(void *user) {
    nl_transport_free(user);
}

static void set_defaults(struct nl_transport_options *options) {
    if (options->connect_timeout_ms == 0) {
        options->connect_timeout_ms = CONNECT_TIMEOUT_MS;
    }
    if (options->handshake_timeout_ms == 0) {
        options->handshake_timeout_ms = HANDSHAKE_TIMEOUT_MS;
    }
    if (options->handshakes_max == 0) {
        options->handshakes_max = HANDSHAKES_MAX;
    }
}

int nl_transport_new(const struct nl_transport_options *options, struct nl_transport **ret,
                     char *error_text, size_t error_size) {
    struct nl_transport *t = calloc(1, sizeof *t);
    struct accepted *accepted = calloc(options->n_members, sizeof *accepted);
    if (t == NULL || accepted == NULL) {
        free(t);
        free(accepted);
        snprintf(error_text, error_size, "no memory");
        return NL_ENOMEM;
    }
    t->options = *options;
    t->accepted = accepted;
    set_defaults(&t->options);
    t->raft.version = 1;
    t->raft.impl = t;
    t->raft.init = transport_init;
    t->raft.listen = transport_listen;
    t->raft.connect = transport_connect;
    t->raft.close = transport_close;
    assert(member_of(t, options->id) != NULL);
    uv_tcp_init(options->loop, &t->listener);
    uv_timer_init(options->loop, &t->sweep);
    t->listener.data = t->sweep.data = t;
    t->handles = 2;
    uv_timer_start(&t->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    t->pumps = (struct nl_tls_pumps){
        .loop = options->loop, .on_failed = on_tls_failed, .on_empty = on_pumps_empty, .user = t};
    int rv = open_tls(t, error_text, error_size);
    t->options.tls = NULL;
    rv = rv == NL_OK ? listen_on(t, error_text, error_size) : rv;
    if (rv == NL_OK && NL_FAILPOINT("start.raft_listen")) {
        snprintf(error_text, error_size, "fail point");
        rv = NL_EBUSY;
    }
    if (rv != NL_OK) {
        nl_transport_abandon(t, free_abandoned, t);
        return rv;
    }
    *ret = t;
    return NL_OK;
}
