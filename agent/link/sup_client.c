#include "agent/link/sup_client.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/supervisor/client.h"
#include "common/base/clock.h"
#include "common/base/err.h"

enum {
    RETRY_MS_MIN = 20,
    RETRY_MS_MAX = 1000,
    COMPLAIN_AFTER_MS = 5000,
    START_PAUSE_MS = 1000,  // until a new one must have taken its lock
    RECEIVE_BYTES = 64 * 1024,
    WRITE_QUEUE_BYTES_MAX = 8 * 1024 * 1024,
};

// One connection. Lives from connect to the close callback of its handle, so that a new one
// can be begun while the old one still closes.
struct nl_link_sup_pipe {
    uv_pipe_t handle;
    uv_connect_t connect;
    struct nl_link_sup *sup;  // NULL: given up
    struct nl_buf received;
    char chunk[RECEIVE_BYTES];
};

struct write {
    uv_write_t request;
    struct nl_buf frame;
};

static void retry_later(struct nl_link_sup *sup);

// ---- a connection's end ----------------------------------------------------

static void on_pipe_closed(uv_handle_t *handle) {
    struct nl_link_sup_pipe *pipe = handle->data;
    nl_buf_close(&pipe->received);
    free(pipe);
}

static void drop_pipe(struct nl_link_sup *sup) {
    if (sup->pipe != NULL) {
        sup->pipe->sup = NULL;
        uv_close((uv_handle_t *)&sup->pipe->handle, on_pipe_closed);
        sup->pipe = NULL;
    }
}

static void fail(struct nl_link_sup *sup, const char *why) {
    bool was_up = sup->state == NL_LINK_SUP_STATE_UP;
    drop_pipe(sup);
    sup->state = NL_LINK_SUP_STATE_DOWN;
    if (was_up) {
        sup->retry_ms = RETRY_MS_MIN;
        sup->down_since_ms = nl_clock_mono_ms();
        sup->on_down(sup->user, why);
    }
    if (!sup->closed) {
        retry_later(sup);
    }
}

// ---- start -----------------------------------------------------------------

static void on_process_closed(uv_handle_t *handle) {
    free(handle);
}

static void forget_process(struct nl_link_sup *sup) {
    if (sup->process != NULL) {
        uv_close((uv_handle_t *)sup->process, on_process_closed);
        sup->process = NULL;
    }
}

static void on_process_exit(uv_process_t *process, int64_t status, int signal) {
    (void)status;
    (void)signal;
    forget_process(process->data);
}

// uv_spawn and not nl_supervisor_spawn: gRPC has threads by now, and libuv runs nothing but
// async-signal-safe code between fork and exec.
static int start_again(struct nl_link_sup *sup) {
    uv_process_t *process = calloc(1, sizeof *process);
    if (process == NULL) {
        return NL_ENOMEM;
    }
    process->data = sup;
    int log_fd = sup->supervisor_log == NULL
                     ? STDERR_FILENO
                     : open(sup->supervisor_log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    uv_stdio_container_t stdio[3] = {{.flags = UV_IGNORE},
                                     {.flags = UV_INHERIT_FD, .data.fd = log_fd},
                                     {.flags = UV_INHERIT_FD, .data.fd = log_fd}};
    if (log_fd < 0) {
        stdio[1].flags = stdio[2].flags = UV_IGNORE;
    }
    uv_process_options_t options = {
        .exit_cb = on_process_exit,
        .file = sup->self_exe,
        .args = (char **)sup->supervisor_args,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 3,
        .stdio = stdio,
    };
    int rv = uv_spawn(sup->loop, process, &options);
    sup->process = process;
    if (log_fd >= 0 && log_fd != STDERR_FILENO) {
        close(log_fd);
    }
    if (rv != 0) {
        forget_process(sup);
        return NL_EIO;
    }
    return NL_OK;
}

static void start_if_gone(struct nl_link_sup *sup) {
    pid_t pid = 0;
    uint32_t suppressed = 0;
    uint64_t now = nl_clock_mono_ms();
    // One that was started and still lives is on its way to take the directory.
    if (!sup->may_start || sup->process != NULL || now < sup->start_not_before_ms ||
        nl_supervisor_running(sup->state_dir, &pid) != NL_OK || pid != 0) {
        return;
    }
    sup->start_not_before_ms = now + START_PAUSE_MS;
    int rv = start_again(sup);
    if (nl_log_allow(&sup->limit, now, 5, 60000, &suppressed)) {
        nl_log(rv == NL_OK ? NL_LOG_WARN : NL_LOG_ERROR, "link", "no supervisor runs: started one",
               "result", nl_strerror(rv), NULL);
    }
    sup->retry_ms = RETRY_MS_MIN;
}

// It holds its directory, and can't be reached: a person has to look.
static void complain(struct nl_link_sup *sup, const char *why) {
    uint64_t now = nl_clock_mono_ms();
    uint32_t suppressed = 0;
    if (now - sup->down_since_ms > COMPLAIN_AFTER_MS &&
        nl_log_allow(&sup->limit, now, 5, 60000, &suppressed)) {
        nl_log(NL_LOG_ERROR, "link", "the supervisor can't be reached", "socket", sup->socket_path,
               "reason", why, NULL);
    }
}

// ---- receive ---------------------------------------------------------------

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)suggested;
    struct nl_link_sup_pipe *pipe = handle->data;
    *buf = uv_buf_init(pipe->chunk, sizeof pipe->chunk);
}

// Messages at the front of what was received. The pipe may be dropped by what a message causes.
static int take_messages(struct nl_link_sup_pipe *pipe) {
    size_t at = 0;
    int rv = NL_OK;
    while (rv == NL_OK && pipe->sup != NULL) {
        Nodelink__V1__FromSupervisor *message = NULL;
        size_t used = 0;
        rv = nl_sup_decode_from(pipe->received.data + at, pipe->received.len - at, &message, &used);
        if (rv == NL_OK) {
            at += used;
            pipe->sup->on_message(pipe->sup->user, message);
            nodelink__v1__from_supervisor__free_unpacked(message, NULL);
        }
    }
    nl_buf_consume(&pipe->received, at);
    return rv == NL_EAGAIN ? NL_OK : rv;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct nl_link_sup_pipe *pipe = stream->data;
    if (pipe->sup == NULL || n == 0) {
        return;
    }
    if (n < 0) {
        fail(pipe->sup, n == UV_EOF ? "the supervisor closed its socket" : uv_strerror((int)n));
        return;
    }
    int rv = nl_buf_append(&pipe->received, buf->base, (size_t)n);
    if (rv == NL_OK) {
        rv = take_messages(pipe);
    }
    if (rv != NL_OK && pipe->sup != NULL) {
        fail(pipe->sup, nl_strerror(rv));
    }
}

// ---- connect ---------------------------------------------------------------

static void on_connect(uv_connect_t *request, int status) {
    struct nl_link_sup_pipe *pipe = request->handle->data;
    struct nl_link_sup *sup = pipe->sup;
    if (sup == NULL) {
        return;
    }
    if (status == 0) {
        status = uv_read_start((uv_stream_t *)&pipe->handle, on_alloc, on_read);
    }
    if (status != 0) {
        start_if_gone(sup);
        complain(sup, uv_strerror(status));
        fail(sup, uv_strerror(status));
        return;
    }
    sup->state = NL_LINK_SUP_STATE_UP;
    sup->retry_ms = RETRY_MS_MIN;
    sup->on_up(sup->user);
}

void nl_link_sup_connect(struct nl_link_sup *sup) {
    struct nl_link_sup_pipe *pipe = calloc(1, sizeof *pipe);
    if (pipe == NULL || uv_pipe_init(sup->loop, &pipe->handle, 0) != 0) {
        free(pipe);
        retry_later(sup);
        return;
    }
    pipe->handle.data = pipe;
    pipe->sup = sup;
    nl_buf_init(&pipe->received, NL_SUP_FRAME_BYTES_MAX + NL_SUP_FRAME_HEADER + RECEIVE_BYTES);
    sup->pipe = pipe;
    sup->state = NL_LINK_SUP_STATE_CONNECTING;
    uv_pipe_connect(&pipe->connect, &pipe->handle, sup->socket_path, on_connect);
}

static void on_retry(uv_timer_t *timer) {
    nl_link_sup_connect(timer->data);
}

static void retry_later(struct nl_link_sup *sup) {
    uv_timer_start(&sup->retry_timer, on_retry, sup->retry_ms, 0);
    sup->retry_ms = sup->retry_ms * 2 > RETRY_MS_MAX ? RETRY_MS_MAX : sup->retry_ms * 2;
}

// ---- send ------------------------------------------------------------------

static void on_written(uv_write_t *request, int status) {
    struct write *w = (struct write *)request;
    struct nl_link_sup_pipe *pipe = request->handle->data;
    nl_buf_close(&w->frame);
    free(w);
    if (status < 0 && pipe->sup != NULL) {
        fail(pipe->sup, uv_strerror(status));
    }
}

static void on_drop(uv_timer_t *timer) {
    struct nl_link_sup *sup = timer->data;
    fail(sup, sup->drop_why);
}

void nl_link_sup_drop(struct nl_link_sup *sup, const char *why) {
    if (sup->state == NL_LINK_SUP_STATE_UP) {
        sup->drop_why = why;
        uv_timer_start(&sup->retry_timer, on_drop, 0, 0);
    }
}

int nl_link_sup_send(struct nl_link_sup *sup, const Nodelink__V1__ToSupervisor *message) {
    if (sup->state != NL_LINK_SUP_STATE_UP) {
        return NL_ECLOSED;
    }
    if (uv_stream_get_write_queue_size((uv_stream_t *)&sup->pipe->handle) > WRITE_QUEUE_BYTES_MAX) {
        nl_link_sup_drop(sup, "it does not read");
        return NL_EFULL;
    }
    struct write *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return NL_ENOMEM;
    }
    nl_buf_init(&w->frame, 0);
    int rv = nl_sup_frame_encode(&w->frame, &message->base);
    if (rv == NL_OK) {
        uv_buf_t buf = uv_buf_init((char *)w->frame.data, (unsigned)w->frame.len);
        rv = uv_write(&w->request, (uv_stream_t *)&sup->pipe->handle, &buf, 1, on_written) == 0
                 ? NL_OK
                 : NL_ECLOSED;
    }
    if (rv != NL_OK) {
        nl_buf_close(&w->frame);
        free(w);
    }
    return rv;
}

// ---- life ------------------------------------------------------------------

int nl_link_sup_init(struct nl_link_sup *sup, uv_loop_t *loop) {
    int rv = nl_sup_socket_path_check(sup->state_dir);
    if (rv != NL_OK) {
        return rv;
    }
    sup->socket_path = nl_sup_socket_path(sup->state_dir);
    if (sup->socket_path == NULL) {
        return NL_ENOMEM;
    }
    sup->loop = loop;
    sup->state = NL_LINK_SUP_STATE_DOWN;
    sup->retry_ms = RETRY_MS_MIN;
    sup->may_start = true;
    sup->down_since_ms = nl_clock_mono_ms();
    sup->start_not_before_ms = nl_clock_mono_ms() + START_PAUSE_MS;
    sup->closed = false;
    uv_timer_init(loop, &sup->retry_timer);
    sup->retry_timer.data = sup;
    return NL_OK;
}

void nl_link_sup_close(struct nl_link_sup *sup) {
    if (sup->socket_path == NULL || sup->closed) {
        return;
    }
    sup->closed = true;
    drop_pipe(sup);
    forget_process(sup);
    sup->state = NL_LINK_SUP_STATE_DOWN;
    uv_close((uv_handle_t *)&sup->retry_timer, NULL);
    free(sup->socket_path);
    sup->socket_path = NULL;
}
