#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/supervisor/driver.h"
#include "agent/supervisor/spool.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"

void sup_pipe_init(struct sup_pipe *p, struct sup_io *io, unsigned stream) {
    *p = (struct sup_pipe){.io = io, .stream = stream, .file = -1};
    p->watch = (struct sup_watch){.ready = sup_pipe_ready, .fd = -1};
}

static void step(struct sup_driver *d, struct sup_pipe *p, enum sup_event_type type, uint64_t bytes,
                 const char *text) {
    struct sup_event e = {
        .type = type, .task = p->io->task, .stream = p->stream, .bytes = bytes, .text = text};
    sup_driver_step(d, &e);
}

void sup_pipe_ready(struct sup_driver *d, struct sup_watch *w, uint32_t events) {
    (void)events;
    step(d, (struct sup_pipe *)w, SUP_EV_READABLE, 0, NULL);
}

static void end(struct sup_driver *d, struct sup_pipe *p) {
    if (p->watch.fd >= 0) {
        sup_watch_close(d, &p->watch);
        step(d, p, SUP_EV_EOF, 0, NULL);
    }
}

// A task's files are made when its first byte comes: most tasks say nothing, and three inodes cost
// more than the rest of a short one. 0 or an errno.
static int make_spool(struct sup_driver *d, struct sup_io *io) {
    int files[2];
    struct nl_sha256 *hashes[2] = {nl_sha256_new(), nl_sha256_new()};
    int kept = ENOMEM;
    if (hashes[0] != NULL && hashes[1] != NULL) {
        io->spool_made = true;
        kept = sup_spool_create(d->spool_fd, io->task->key, files) == NL_OK ? 0 : errno;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (kept == 0) {
            io->out[i].file = files[i];
            io->out[i].hash = hashes[i];
        } else {
            nl_sha256_free(hashes[i]);
        }
    }
    return kept;
}

// Writes at the stream's end. Returns how much of it went; the core knows then.
static size_t store(struct sup_driver *d, struct sup_pipe *p, const uint8_t *data, size_t len,
                    int *ret_errno) {
    uint64_t offset = p->io->task->out[p->stream].end;
    size_t n = 0;
    *ret_errno = EIO;
    if (!NL_FAILPOINT("spool.during_output")) {
        *ret_errno = p->file < 0 ? make_spool(d, p->io) : 0;
        n = *ret_errno == 0 ? sup_spool_write(p->file, offset, data, len, ret_errno) : 0;
    }
    if (n > 0) {
        nl_sha256_update(p->hash, data, n);
        sup_mark_spool(d, p->io);
        step(d, p, SUP_EV_OUTPUT, n, NULL);
    }
    return n;
}

static void failed(struct sup_driver *d, struct sup_pipe *p, int sys_errno) {
    uint32_t suppressed = 0;
    if (nl_log_allow(&d->spool_log, d->now_ms, 5, 10000, &suppressed)) {
        nl_log(NL_LOG_ERROR, "supervisor", "the spool can't be written; the task waits", "task",
               p->io->task->id, "error", strerror(sys_errno), "suppressed",
               nl_log_u64(suppressed).s, NULL);
    }
    step(d, p, SUP_EV_SPOOL_FAILED, 0, strerror(sys_errno));
}

// The rest of a buffer that could not be written. Without memory for it the bytes are lost,
// so the stream ends here and the result says so.
static void keep(struct sup_driver *d, struct sup_pipe *p, const uint8_t *data, size_t len,
                 int sys_errno) {
    p->pending = malloc(len);
    p->pending_at = 0;
    p->pending_len = p->pending != NULL ? len : 0;
    if (p->pending != NULL) {
        memcpy(p->pending, data, len);
    } else {
        p->cut = true;
        p->io->task->out[p->stream].cut = true;
    }
    failed(d, p, sys_errno);
}

// One read. False: nothing there now, or the end.
static bool read_once(struct sup_driver *d, struct sup_pipe *p, size_t max) {
    ssize_t n;
    do {
        n = read(p->watch.fd, d->buffer, max);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
        return false;
    }
    if (n <= 0) {
        end(d, p);
        return false;
    }
    if (p->cut) {
        return true;
    }
    int sys_errno = 0;
    size_t len = (size_t)n, done = store(d, p, d->buffer, len, &sys_errno);
    if (done < len) {
        keep(d, p, d->buffer + done, len - done, sys_errno);
        return false;
    }
    return true;
}

void sup_pipe_read(struct sup_driver *d, struct sup_pipe *p, size_t max) {
    if (p->watch.fd >= 0 && p->pending == NULL) {
        read_once(d, p, max < SUP_READ_BYTES_MAX ? max : SUP_READ_BYTES_MAX);
    }
}

void sup_pipe_read_last(struct sup_driver *d, struct sup_pipe *p, size_t max) {
    for (size_t done = 0; p->watch.fd >= 0 && p->pending == NULL && done < max;
         done += SUP_READ_BYTES_MAX) {
        if (!read_once(d, p, SUP_READ_BYTES_MAX)) {
            break;
        }
    }
    end(d, p);
}

void sup_pipe_retry(struct sup_driver *d, struct sup_pipe *p) {
    while (p->pending != NULL) {
        int sys_errno = 0;
        size_t n = store(d, p, p->pending + p->pending_at, p->pending_len, &sys_errno);
        p->pending_at += n;
        p->pending_len -= n;
        if (p->pending_len > 0) {
            failed(d, p, sys_errno);
            return;
        }
        free(p->pending);
        p->pending = NULL;
    }
}

void sup_pipe_cut(struct sup_pipe *p) {
    p->cut = true;
    free(p->pending);
    p->pending = NULL;
    p->pending_len = 0;
}

void sup_pipe_free(struct sup_driver *d, struct sup_pipe *p) {
    sup_watch_close(d, &p->watch);
    if (p->file >= 0) {
        close(p->file);
        p->file = -1;
    }
    nl_sha256_free(p->hash);
    p->hash = NULL;
    free(p->pending);
    p->pending = NULL;
}

// Without a hash: nothing was written, or an earlier supervisor did; what is large is not read at
// start.
static bool digest_of_file(struct sup_driver *d, struct sup_task *t, unsigned stream) {
    static const uint8_t of_nothing[NL_SHA256_LEN] = {
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4,
        0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b,
        0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55};
    const struct sup_stream *s = &t->out[stream];
    if (s->end == 0) {
        memcpy(t->result.sha256[stream], of_nothing, NL_SHA256_LEN);
        return true;
    }
    return s->base == 0 && s->end <= (64u << 20) &&
           sup_spool_digest(d->spool_fd, t->key, stream, s->end, t->result.sha256[stream]) == NL_OK;
}

// The output is durable before the result is: a result never names bytes that a power loss
// took away.
void sup_close_output(struct sup_driver *d, struct sup_io *io) {
    struct sup_task *t = io->task;
    for (unsigned i = 0; i < 2; i++) {
        struct sup_pipe *p = &io->out[i];
        t->result.bytes[i] = t->out[i].end;
        if (p->hash != NULL) {
            nl_sha256_peek(p->hash, t->result.sha256[i]);
            t->result.sha256_known[i] = true;
        } else {
            t->result.sha256_known[i] = digest_of_file(d, t, i);
        }
        if (p->file >= 0 && t->out[i].end > 0 && fdatasync(p->file) != 0) {
            nl_log(NL_LOG_ERROR, "supervisor", "the spool can't be made durable", "task", t->id,
                   "error", strerror(errno), NULL);
        }
        sup_pipe_free(d, p);
    }
    sup_watch_close(d, &io->status);
}
