#include "cluster/raft/tls_pump.h"

#include <assert.h>
#include <raft.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "common/base/clock.h"
#include "common/base/err.h"

enum {
    CHUNK = 64 * 1024,
    PENDING_MAX = 2 * CHUNK,
    LINGER_MS = 2000,
    ENDING_MAX = 64,  // strangers whose handshakes fail must not pile up
};

// One direction's last step: bytes that wait for a socket to take them.
struct outlet {
    uv_stream_t *stream;
    uv_write_t write;
    bool busy;  // the write is under way, data belongs to libuv
    char data[CHUNK];
};

//   RUNNING -> ENDING (a deadline is set) -> CLOSING -> freed
//
// Invariants: plain.busy => the session is not asked for more; cipher.busy or pending bytes => the
// user is not read. So at most one chunk waits in each outlet and one in the session.
enum state { RUNNING, ENDING, CLOSING };

struct nl_tls_pump {
    struct nl_tls_pumps *pumps;
    void *owner;
    bool released;
    enum state state;
    struct nl_tls_session *session;
    uv_stream_t *outer;  // raft_malloc
    uv_pipe_t inner;
    unsigned handles;  // not yet closed
    bool inner_ended;  // the user will send no more, or is gone
    bool outer_ended;  // the peer will send no more, or is gone
    bool failed;       // TLS is broken: nothing goes to the user any more
    bool end_said;     // TLS's end is written
    bool shutting, shut;
    uint64_t deadline_ms;
    uv_shutdown_t shutdown;
    struct outlet plain;   // to the user
    struct outlet cipher;  // to the peer
    char address[64];
    struct nl_tls_pump *prev, *next;
};

static void step(struct nl_tls_pump *p);

// ---- end -----------------------------------------------------------------------

static void free_if_unused(struct nl_tls_pump *p) {
    if (p->handles == 0 && p->released) {
        nl_tls_session_free(p->session);
        free(p);
    }
}

static void on_closed(uv_handle_t *handle) {
    struct nl_tls_pump *p = handle->data;
    struct nl_tls_pumps *pumps = p->pumps;
    if (--p->handles > 0) {
        return;
    }
    raft_free(p->outer);
    p->outer = NULL;
    DL_DELETE(pumps->list, p);
    free_if_unused(p);
    if (pumps->list == NULL && pumps->on_empty != NULL) {
        pumps->on_empty(pumps->user);
    }
}

static void close_inner(struct nl_tls_pump *p) {
    if (!uv_is_closing((uv_handle_t *)&p->inner)) {
        uv_close((uv_handle_t *)&p->inner, on_closed);
    }
}

static void close_now(struct nl_tls_pump *p) {
    if (p->state == CLOSING) {
        return;
    }
    p->pumps->ending -= p->state == ENDING;
    p->state = CLOSING;
    close_inner(p);
    uv_close((uv_handle_t *)p->outer, on_closed);
}

static void close_oldest_ending(struct nl_tls_pumps *pumps) {
    struct nl_tls_pump *p, *oldest = NULL;
    DL_FOREACH (pumps->list, p) {
        if (p->state == ENDING && (oldest == NULL || p->deadline_ms < oldest->deadline_ms)) {
            oldest = p;
        }
    }
    close_now(oldest);
}

static void begin_end(struct nl_tls_pump *p) {
    if (p->state != RUNNING) {
        return;
    }
    p->state = ENDING;
    p->deadline_ms = nl_clock_mono_ms() + LINGER_MS;
    p->pumps->ending++;
    if (p->pumps->ending > ENDING_MAX) {
        close_oldest_ending(p->pumps);
    }
}

static void fail(struct nl_tls_pump *p) {
    if (p->failed) {
        return;
    }
    p->failed = p->inner_ended = true;
    close_inner(p);
    begin_end(p);
    p->pumps->on_failed(p->pumps->user, p->owner, p->address, nl_tls_session_why(p->session));
}

// ---- writing -------------------------------------------------------------------

static void outlet_lost(struct nl_tls_pump *p, const struct outlet *outlet) {
    if (outlet == &p->cipher) {
        close_now(p);  // nothing more can be said to the peer
    } else {
        p->inner_ended = true;  // the user is gone
        begin_end(p);
    }
}

static void on_written(uv_write_t *write, int status) {
    struct nl_tls_pump *p = write->data;
    struct outlet *outlet = write == &p->plain.write ? &p->plain : &p->cipher;
    outlet->busy = false;
    if (p->state == CLOSING) {
        return;
    }
    if (status != 0) {
        outlet_lost(p, outlet);
    }
    step(p);
}

// Most often the socket takes all of it at once.
static void outlet_send(struct nl_tls_pump *p, struct outlet *outlet, size_t len) {
    uv_buf_t buf = uv_buf_init(outlet->data, (unsigned)len);
    int n = uv_try_write(outlet->stream, &buf, 1);
    if (n == (int)len) {
        return;
    }
    if (n < 0 && n != UV_EAGAIN) {
        outlet_lost(p, outlet);
        return;
    }
    n = n > 0 ? n : 0;
    buf = uv_buf_init(outlet->data + n, (unsigned)(len - (size_t)n));
    outlet->write.data = p;
    outlet->busy = uv_write(&outlet->write, outlet->stream, &buf, 1, on_written) == 0;
    if (!outlet->busy) {
        outlet_lost(p, outlet);
    }
}

// ---- moving --------------------------------------------------------------------

static bool user_listens(const struct nl_tls_pump *p) {
    return p->state != CLOSING && !p->inner_ended && !p->failed;
}

// Also does the handshake.
static void move_in(struct nl_tls_pump *p) {
    while (user_listens(p) && !p->plain.busy) {
        ssize_t n = nl_tls_session_read(p->session, p->plain.data, sizeof p->plain.data);
        if (n > 0) {
            outlet_send(p, &p->plain, (size_t)n);
        } else if (n == 0) {
            return;
        } else if (n == NL_ECLOSED) {
            p->outer_ended = true;
            begin_end(p);
            return;
        } else {
            fail(p);
        }
    }
}

static void move_out(struct nl_tls_pump *p) {
    while (p->state != CLOSING && !p->cipher.busy) {
        size_t n = nl_tls_session_take(p->session, p->cipher.data, sizeof p->cipher.data);
        if (n == 0) {
            return;
        }
        outlet_send(p, &p->cipher, n);
    }
}

static bool all_sent(const struct nl_tls_pump *p) {
    return !p->cipher.busy && nl_tls_session_pending(p->session) == 0;
}

// ---- reading -------------------------------------------------------------------

// One buffer for all: what is read is in the session before the next read.
static char scratch[CHUNK];

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(scratch, sizeof scratch);
}

static void on_inner_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct nl_tls_pump *p = stream->data;
    if (n < 0) {
        p->inner_ended = true;
        begin_end(p);
    } else if (n > 0 && nl_tls_session_write(p->session, buf->base, (size_t)n) != NL_OK) {
        fail(p);
    }
    step(p);
}

static void on_outer_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct nl_tls_pump *p = stream->data;
    if (n < 0) {
        p->outer_ended = true;
        begin_end(p);
    } else if (user_listens(p) && nl_tls_session_put(p->session, buf->base, (size_t)n) != NL_OK) {
        close_now(p);  // no memory
    }
    step(p);
}

static void set_reading(uv_stream_t *stream, bool wanted, uv_read_cb cb) {
    if (uv_is_closing((uv_handle_t *)stream)) {
        return;
    }
    if (wanted) {
        uv_read_start(stream, on_alloc, cb);  // UV_EALREADY: it is on
    } else {
        uv_read_stop(stream);
    }
}

static void arm(struct nl_tls_pump *p) {
    bool from_user =
        user_listens(p) && !p->outer_ended && nl_tls_session_ready(p->session) && all_sent(p);
    // Not only when all is sent: if both ends waited for that, neither would ever read. What the
    // peer can make TLS answer (key updates) is bounded all the same.
    bool from_peer = !p->outer_ended && !p->plain.busy &&
                     (nl_tls_session_pending(p->session) <= PENDING_MAX || !user_listens(p));
    set_reading((uv_stream_t *)&p->inner, from_user, on_inner_read);
    set_reading(p->outer, from_peer, on_outer_read);
}

// ---- step ----------------------------------------------------------------------

static void on_shut(uv_shutdown_t *req, int status) {
    struct nl_tls_pump *p = req->data;
    (void)status;
    p->shut = true;
    if (p->state != CLOSING) {
        step(p);
    }
}

// The user has ended, or TLS broke: say so to the peer and wait until it has heard.
static void end_towards_peer(struct nl_tls_pump *p) {
    if (!p->end_said) {
        p->end_said = true;
        nl_tls_session_end(p->session);
        move_out(p);
    }
    if (p->state != CLOSING && all_sent(p) && !p->shutting) {
        p->shutting = true;
        p->shutdown.data = p;
        if (uv_shutdown(&p->shutdown, p->outer, on_shut) != 0) {
            close_now(p);
        }
    }
    if (p->state != CLOSING && p->shut && p->outer_ended) {
        close_now(p);
    }
}

static void step(struct nl_tls_pump *p) {
    if (p->state == CLOSING) {
        return;
    }
    move_in(p);
    move_out(p);
    if (p->state == ENDING && (p->inner_ended || p->failed)) {
        end_towards_peer(p);
    } else if (p->state == ENDING && !p->plain.busy) {
        close_now(p);  // the peer has ended, and the user has all it sent
    }
    if (p->state != CLOSING) {
        arm(p);
    }
}

// ---- life ----------------------------------------------------------------------

static void open_end(uv_loop_t *loop, uv_pipe_t *pipe, uv_os_sock_t fd) {
    uv_pipe_init(loop, pipe, 0);
    int rv = uv_pipe_open(pipe, fd);
    assert(rv == 0);  // a new descriptor, and a stream socket
}

static void init(struct nl_tls_pump *p, struct nl_tls_pumps *pumps, uv_stream_t *outer) {
    p->pumps = pumps;
    p->outer = outer;
    p->inner.data = outer->data = p;
    p->handles = 2;
    p->plain.stream = (uv_stream_t *)&p->inner;
    p->cipher.stream = outer;
    DL_APPEND(pumps->list, p);
}

int nl_tls_pump_new(struct nl_tls_pumps *pumps, uv_stream_t *outer, struct nl_tls_session *session,
                    void *owner, const char *address, struct nl_tls_pump **ret,
                    uv_stream_t **ret_inner) {
    uv_os_sock_t fds[2];
    struct nl_tls_pump *p = calloc(1, sizeof *p);
    uv_pipe_t *user = raft_malloc(sizeof *user);
    bool ok = p != NULL && user != NULL;
    if (!ok || uv_socketpair(SOCK_STREAM, 0, fds, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE) != 0) {
        free(p);
        raft_free(user);
        return ok ? NL_EIO : NL_ENOMEM;
    }
    open_end(pumps->loop, user, fds[0]);
    open_end(pumps->loop, &p->inner, fds[1]);
    init(p, pumps, outer);
    p->session = session;
    p->owner = owner;
    snprintf(p->address, sizeof p->address, "%s", address);
    *ret = p;
    *ret_inner = (uv_stream_t *)user;
    return NL_OK;
}

void nl_tls_pump_start(struct nl_tls_pump *p) {
    step(p);
}

void nl_tls_pump_end(struct nl_tls_pump *p) {
    if (p->state != CLOSING) {
        p->inner_ended = true;
        begin_end(p);
        step(p);
    }
}

void nl_tls_pump_release(struct nl_tls_pump *p) {
    if (p != NULL) {
        p->owner = NULL;
        p->released = true;
        free_if_unused(p);
    }
}

const struct nl_tls_session *nl_tls_pump_session(const struct nl_tls_pump *p) {
    return p->session;
}

void nl_tls_pumps_sweep(struct nl_tls_pumps *pumps, uint64_t now_ms) {
    struct nl_tls_pump *p, *next;
    DL_FOREACH_SAFE (pumps->list, p, next) {
        if (p->state == ENDING && now_ms >= p->deadline_ms) {
            close_now(p);
        }
    }
}

void nl_tls_pumps_abort(struct nl_tls_pumps *pumps) {
    struct nl_tls_pump *p, *next;
    DL_FOREACH_SAFE (pumps->list, p, next) {
        close_now(p);
    }
}
