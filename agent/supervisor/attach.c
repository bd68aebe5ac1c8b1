#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/supervisor/client.h"
#include "agent/supervisor/convert.h"
#include "agent/supervisor/driver.h"
#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/text.h"

enum {
    CONNS_MAX = 8,
    // A link that does not read gets no more than this; what it missed is state, not a queue.
    OUT_BYTES_HIGH = 256 * 1024,
    IN_BYTES_STEP = 64 * 1024,
    FRAMES_PER_TURN = 1024,
    SPOOL_TELL_MS = 5,
    ECHO_BYTES_MAX = 512,
};

// ---- telling the link ------------------------------------------------------

static void hang_up(struct sup_driver *d, struct sup_conn *conn, const char *why) {
    if (conn->closed) {
        return;
    }
    if (conn == d->link) {
        d->link = NULL;
        sup_core_set_link(d->core, d->now_ms, false);
    }
    nl_log(NL_LOG_INFO, "supervisor", "connection closed", "why", why, NULL);
    sup_watch_close(d, &conn->watch);
    conn->closed = true;
}

static void send_message(struct sup_driver *d, Nodelink__V1__FromSupervisor *m) {
    int rv = nl_sup_frame_encode(&d->link->out, &m->base);
    if (rv != NL_OK) {
        // The link asks for everything again when it attaches.
        hang_up(d, d->link, "no memory for a message to it");
    }
}

void sup_send_refused(struct sup_driver *d, const char *id, uint32_t attempt, const char *text) {
    nl_log(NL_LOG_WARN, "supervisor", "refused", "task", id, "attempt", nl_log_u64(attempt).s,
           "reason", text, NULL);
    if (d->link == NULL) {
        return;
    }
    Nodelink__V1__FromSupervisor m = NODELINK__V1__FROM_SUPERVISOR__INIT;
    Nodelink__V1__SupRefused refused = NODELINK__V1__SUP_REFUSED__INIT;
    refused.task_id = (char *)(uintptr_t)id;
    refused.attempt = attempt;
    refused.reason = (char *)(uintptr_t)text;
    m.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_REFUSED;
    m.refused = &refused;
    send_message(d, &m);
}

static void send_spool(struct sup_driver *d, struct sup_task *t) {
    Nodelink__V1__FromSupervisor m = NODELINK__V1__FROM_SUPERVISOR__INIT;
    Nodelink__V1__SupSpool spool;
    sup_spool_to_message(t, &spool);
    spool.releases = ((struct sup_io *)t->io)->releases;
    m.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_SPOOL;
    m.spool = &spool;
    send_message(d, &m);
}

static void send_task(struct sup_driver *d, struct sup_task *t) {
    Nodelink__V1__FromSupervisor m = NODELINK__V1__FROM_SUPERVISOR__INIT;
    struct sup_task_message task;
    sup_task_to_message(t, &task);
    m.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_TASK;
    m.task = &task.message;
    send_message(d, &m);
}

void sup_mark_report(struct sup_driver *d, struct sup_io *io) {
    if (io != NULL && d->link != NULL && !io->report_dirty) {
        io->report_dirty = true;
        TAILQ_INSERT_TAIL(&d->reports, io, report);
    }
}

void sup_mark_spool(struct sup_driver *d, struct sup_io *io) {
    if (io != NULL && d->link != NULL && !io->spool_dirty) {
        io->spool_dirty = true;
        TAILQ_INSERT_TAIL(&d->spools, io, spool);
    }
}

static void unmark_spool(struct sup_driver *d, struct sup_io *io) {
    if (io->spool_dirty) {
        io->spool_dirty = false;
        TAILQ_REMOVE(&d->spools, io, spool);
    }
}

static void unmark_report(struct sup_driver *d, struct sup_io *io) {
    if (io->report_dirty) {
        io->report_dirty = false;
        TAILQ_REMOVE(&d->reports, io, report);
    }
}

void sup_unmark(struct sup_driver *d, struct sup_io *io) {
    unmark_spool(d, io);
    unmark_report(d, io);
}

static bool has_room(const struct sup_driver *d) {
    return d->link != NULL && d->link->out.len < OUT_BYTES_HIGH;
}

static void pack_reports(struct sup_driver *d) {
    while (has_room(d) && !TAILQ_EMPTY(&d->reports)) {
        struct sup_io *io = TAILQ_FIRST(&d->reports);
        if (io->spool_dirty) {
            unmark_spool(d, io);
            send_spool(d, io->task);
        }
        if (d->link != NULL) {
            unmark_report(d, io);
            send_task(d, io->task);
        }
    }
}

static int pack_spools(struct sup_driver *d) {
    if (d->link == NULL || TAILQ_EMPTY(&d->spools)) {
        return -1;
    }
    uint64_t since = d->now_ms - d->spool_told_ms;
    if (since < SPOOL_TELL_MS) {
        return (int)(SPOOL_TELL_MS - since);
    }
    d->spool_told_ms = d->now_ms;
    while (has_room(d) && !TAILQ_EMPTY(&d->spools)) {
        struct sup_io *io = TAILQ_FIRST(&d->spools);
        unmark_spool(d, io);
        send_spool(d, io->task);
    }
    return -1;
}

// Writes what is packed and watches for room or input accordingly.
static void write_out(struct sup_driver *d, struct sup_conn *conn) {
    size_t sent = 0;
    while (sent < conn->out.len) {
        ssize_t n = send(conn->watch.fd, conn->out.data + sent, conn->out.len - sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno != EAGAIN) {
            hang_up(d, conn, strerror(errno));
            return;
        }
        if (n < 0) {
            break;
        }
        sent += (size_t)n;
    }
    nl_buf_consume(&conn->out, sent);
    uint32_t events = (conn->out.len > 0 ? (uint32_t)EPOLLOUT : 0) |
                      (conn->out.len < OUT_BYTES_HIGH ? (uint32_t)EPOLLIN : 0);
    if (sup_watch_set(d, &conn->watch, events) != NL_OK) {
        hang_up(d, conn, "can't be watched");
    }
}

int sup_flush_link(struct sup_driver *d) {
    int wait = -1;
    for (size_t before = 1; d->link != NULL && before > 0;) {
        pack_reports(d);
        wait = pack_spools(d);
        if (d->link == NULL) {
            break;
        }
        before = d->link->out.len;
        write_out(d, d->link);
        if (d->link != NULL && d->link->out.len > 0) {
            break;
        }
    }
    return wait;
}

// ---- what the link says ----------------------------------------------------

static bool reported(const struct sup_task *t) {
    return t->phase != SUP_INTENT && t->phase != SUP_SPENT && !t->freeing;
}

static void mark_all(struct sup_driver *d) {
    struct sup_io *io;
    while ((io = TAILQ_FIRST(&d->reports)) != NULL) {
        unmark_report(d, io);
    }
    while ((io = TAILQ_FIRST(&d->spools)) != NULL) {
        unmark_spool(d, io);
    }
    for (struct sup_task *t = sup_core_walk(d->core, NULL); t != NULL;
         t = sup_core_walk(d->core, t)) {
        if (t->io != NULL) {
            ((struct sup_io *)t->io)->releases = 0;
        }
        if (reported(t)) {
            sup_mark_report(d, t->io);
        }
    }
}

static uint32_t count_reported(const struct sup_driver *d) {
    uint32_t n = 0;
    for (struct sup_task *t = sup_core_walk(d->core, NULL); t != NULL;
         t = sup_core_walk(d->core, t)) {
        n += reported(t);
    }
    return n;
}

static int on_attach(struct sup_driver *d, struct sup_conn *conn,
                     const Nodelink__V1__SupAttach *attach) {
    if (attach->version == 0 || attach->version > NL_SUP_PROTOCOL_VERSION || conn == d->link) {
        return NL_EVERSION;
    }
    if (d->link != NULL) {
        hang_up(d, d->link, "another link attached");
    }
    d->link = conn;
    sup_core_set_link(d->core, d->now_ms, true);
    nl_log(NL_LOG_INFO, "supervisor", "link attached", "pid", nl_log_i64(attach->pid).s, NULL);
    Nodelink__V1__FromSupervisor m = NODELINK__V1__FROM_SUPERVISOR__INIT;
    Nodelink__V1__SupAttached attached = NODELINK__V1__SUP_ATTACHED__INIT;
    attached.version = NL_SUP_PROTOCOL_VERSION;
    attached.boot_id = d->boot_id;
    attached.pid = getpid();
    attached.tasks = count_reported(d);
    attached.journal_id = d->journal_id;
    m.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_ATTACHED;
    m.attached = &attached;
    send_message(d, &m);
    mark_all(d);
    return NL_OK;
}

// Names the request without keeping it: commands and environments hold secrets.
static int digest_of(const Nodelink__V1__SupRun *run, uint8_t out[NL_SHA256_LEN]) {
    struct nl_sha256 *hash = nl_sha256_new();
    struct nl_buf bytes;
    nl_buf_init(&bytes, 0);
    const ProtobufCMessage *parts[] = {run->shell != NULL ? &run->shell->base : NULL,
                                       run->options != NULL ? &run->options->base : NULL};
    int rv = hash != NULL ? NL_OK : NL_ENOMEM;
    for (size_t i = 0; i < 2 && rv == NL_OK; i++) {
        size_t len = parts[i] != NULL ? protobuf_c_message_get_packed_size(parts[i]) : 0;
        rv = nl_buf_reserve(&bytes, len);
        if (rv == NL_OK && len > 0) {
            protobuf_c_message_pack(parts[i], bytes.data);
        }
        if (rv == NL_OK) {
            nl_sha256_update(hash, &len, sizeof len);
            nl_sha256_update(hash, bytes.data, len);
        }
    }
    if (rv == NL_OK) {
        nl_sha256_peek(hash, out);
    }
    nl_sha256_free(hash);
    nl_buf_close(&bytes);
    return rv;
}

static const char *disk_refusal(struct sup_driver *d) {
    uint64_t free_bytes = 0;
    if (sup_journal_broken(d->journal)) {
        return "the agent's journal can't be written";
    }
    if (nl_fs_free_bytes(d->options->state_dir, &free_bytes) != NL_OK ||
        free_bytes < d->options->disk_free_bytes_min) {
        return "the agent's disk is full";
    }
    return NULL;
}

static void warn_of_other_request(const struct sup_task *t, const uint8_t *digest) {
    if (memcmp(t->digest, digest, NL_SHA256_LEN) != 0) {
        nl_log(NL_LOG_WARN, "supervisor", "a known task came with another request; not run", "task",
               t->id, NULL);
    }
}

static void on_run(struct sup_driver *d, const Nodelink__V1__SupRun *run) {
    struct sup_spec_context context = {d->options->agent_id, d->journal_id};
    uint8_t digest[NL_SHA256_LEN];
    char reason[256];
    struct sup_event e = {.type = SUP_EV_RUN,
                          .id = run->task_id,
                          .attempt = run->attempt,
                          .epoch = run->epoch,
                          .digest = digest};
    if (digest_of(run, digest) != NL_OK) {
        e.text = "out of memory";
        memset(digest, 0, sizeof digest);
    }
    struct sup_task *known = sup_core_find(d->core, run->task_id, run->attempt);
    if (known != NULL) {
        warn_of_other_request(known, digest);
    } else if (e.text == NULL) {
        e.text = disk_refusal(d);
        if (e.text == NULL && sup_spec_new(run, &context, reason, &d->run_spec) != NL_OK) {
            e.text = reason;
        }
    }
    if (run->options != NULL) {
        e.timeout_ms = run->options->timeout_ms;
        e.grace_ms = run->options->kill_grace_ms;
    }
    sup_driver_step(d, &e);
    sup_spec_free(d->run_spec);  // when the run was refused or known
    d->run_spec = NULL;
}

static void on_release(struct sup_driver *d, const Nodelink__V1__SupRelease *release) {
    struct sup_event e = {.type = SUP_EV_RELEASE,
                          .id = release->task_id,
                          .attempt = release->attempt,
                          .offsets = {release->stdout_offset, release->stderr_offset},
                          .flag = release->no_reader};
    sup_driver_step(d, &e);
    struct sup_task *t = sup_core_find(d->core, release->task_id, release->attempt);
    if (t != NULL && t->io != NULL) {
        ((struct sup_io *)t->io)->releases++;
        // Answered always: from here on the link knows what is still there for a reader.
        sup_mark_spool(d, t->io);
    }
}

static void on_named(struct sup_driver *d, enum sup_event_type type, const char *id,
                     uint32_t attempt, const char *text) {
    struct sup_event e = {.type = type, .id = id, .attempt = attempt, .text = text};
    sup_driver_step(d, &e);
}

// The task that a message is about; NULL: about none.
static const char *name_in(const Nodelink__V1__ToSupervisor *m, uint32_t *ret_attempt) {
    switch (m->body_case) {
        case NODELINK__V1__TO_SUPERVISOR__BODY_RUN:
            *ret_attempt = m->run->attempt;
            return m->run->task_id;
        case NODELINK__V1__TO_SUPERVISOR__BODY_CANCEL:
            *ret_attempt = m->cancel->attempt;
            return m->cancel->task_id;
        case NODELINK__V1__TO_SUPERVISOR__BODY_FORGET:
            *ret_attempt = m->forget->attempt;
            return m->forget->task_id;
        case NODELINK__V1__TO_SUPERVISOR__BODY_RELEASE:
            *ret_attempt = m->release->attempt;
            return m->release->task_id;
        default:
            return NULL;
    }
}

static int dispatch(struct sup_driver *d, const Nodelink__V1__ToSupervisor *m) {
    struct sup_event stop = {.type = SUP_EV_STOP};
    switch (m->body_case) {
        case NODELINK__V1__TO_SUPERVISOR__BODY_RUN:
            on_run(d, m->run);
            return NL_OK;
        case NODELINK__V1__TO_SUPERVISOR__BODY_CANCEL:
            on_named(d, SUP_EV_CANCEL, m->cancel->task_id, m->cancel->attempt, m->cancel->reason);
            return NL_OK;
        case NODELINK__V1__TO_SUPERVISOR__BODY_FORGET:
            on_named(d, SUP_EV_FORGET, m->forget->task_id, m->forget->attempt, NULL);
            return NL_OK;
        case NODELINK__V1__TO_SUPERVISOR__BODY_RELEASE:
            on_release(d, m->release);
            return NL_OK;
        case NODELINK__V1__TO_SUPERVISOR__BODY_STOP:
            stop.flag = m->stop->kill_tasks;
            sup_driver_step(d, &stop);
            return NL_OK;
        default:
            return NL_OK;  // of a later version: nothing to do with it
    }
}

static int handle(struct sup_driver *d, struct sup_conn *conn,
                  const Nodelink__V1__ToSupervisor *m) {
    if (m->body_case == NODELINK__V1__TO_SUPERVISOR__BODY_ATTACH) {
        return on_attach(d, conn, m->attach);
    }
    if (conn != d->link) {
        return NL_EINVAL;  // the first message is SupAttach
    }
    uint32_t attempt = 0;
    const char *id = name_in(m, &attempt);
    if (id != NULL && !nl_text_id_ok(id)) {
        sup_send_refused(d, strlen(id) <= ECHO_BYTES_MAX ? id : "", attempt,
                         "the task's id is malformed");
        return NL_OK;
    }
    return dispatch(d, m);
}

// Handles the frames that are complete, as long as there is room for answers.
static void process(struct sup_driver *d, struct sup_conn *conn) {
    size_t at = 0;
    int rv = NL_OK;
    for (int frames = 0; rv == NL_OK && !conn->closed && conn->out.len < OUT_BYTES_HIGH; frames++) {
        if (frames == FRAMES_PER_TURN) {
            d->again = true;
            break;
        }
        Nodelink__V1__ToSupervisor *m = NULL;
        size_t used = 0;
        rv = nl_sup_decode_to(conn->in.data + at, conn->in.len - at, &m, &used);
        if (rv == NL_OK) {
            at += used;
            rv = handle(d, conn, m);
            nodelink__v1__to_supervisor__free_unpacked(m, NULL);
        }
    }
    nl_buf_consume(&conn->in, at);
    if (rv != NL_OK && rv != NL_EAGAIN) {
        nl_log(NL_LOG_WARN, "supervisor", "malformed frame from the link", "error", nl_strerror(rv),
               NULL);
        hang_up(d, conn, "it sent what it must not");
    }
}

// ---- connections -----------------------------------------------------------

static void read_in(struct sup_driver *d, struct sup_conn *conn) {
    if (nl_buf_reserve(&conn->in, IN_BYTES_STEP) != NL_OK) {
        return;  // full of frames that wait for room: process() makes some
    }
    ssize_t n = recv(conn->watch.fd, conn->in.data + conn->in.len, IN_BYTES_STEP, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        hang_up(d, conn, n == 0 ? "the peer closed it" : strerror(errno));
        return;
    }
    conn->in.len += (size_t)n;
}

static void conn_ready(struct sup_driver *d, struct sup_watch *w, uint32_t events) {
    struct sup_conn *conn = (struct sup_conn *)w;
    if ((events & EPOLLOUT) != 0) {
        write_out(d, conn);
    }
    if (!conn->closed && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        read_in(d, conn);
    }
    if (!conn->closed) {
        process(d, conn);
    }
}

static bool same_user(int fd) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

// A stranger that holds connections open must not keep the link out.
static void drop_oldest_stranger(struct sup_driver *d) {
    struct sup_conn *conn;
    TAILQ_FOREACH(conn, &d->conns, all) {
        if (conn != d->link && !conn->closed) {
            hang_up(d, conn, "too many connections");
            return;
        }
    }
}

static void accept_one(struct sup_driver *d, struct sup_watch *w, uint32_t events) {
    (void)events;
    int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    struct sup_conn *conn = same_user(fd) ? calloc(1, sizeof *conn) : NULL;
    if (conn == NULL) {
        close(fd);
        return;
    }
    if (d->conn_count >= CONNS_MAX) {
        drop_oldest_stranger(d);
    }
    conn->watch = (struct sup_watch){.ready = conn_ready, .fd = fd};
    nl_buf_init(&conn->in, NL_SUP_FRAME_HEADER + NL_SUP_FRAME_BYTES_MAX + IN_BYTES_STEP);
    nl_buf_init(&conn->out, 0);
    TAILQ_INSERT_TAIL(&d->conns, conn, all);
    d->conn_count++;
    if (sup_watch_set(d, &conn->watch, EPOLLIN) != NL_OK) {
        hang_up(d, conn, "can't be watched");
    }
}

// Frames that were left because of FRAMES_PER_TURN, or for want of room for answers.
static void process_leftovers(struct sup_driver *d) {
    struct sup_conn *conn;
    TAILQ_FOREACH(conn, &d->conns, all) {
        if (!conn->closed && conn->in.len > 0) {
            process(d, conn);
        }
    }
}

void sup_bury_conns(struct sup_driver *d) {
    struct sup_conn *conn = TAILQ_FIRST(&d->conns);
    while (conn != NULL) {
        struct sup_conn *next = TAILQ_NEXT(conn, all);
        if (conn->closed) {
            TAILQ_REMOVE(&d->conns, conn, all);
            d->conn_count--;
            nl_buf_close(&conn->in);
            nl_buf_close(&conn->out);
            free(conn);
        }
        conn = next;
    }
}

void sup_process_again(struct sup_driver *d) {
    if (d->again) {
        d->again = false;
        process_leftovers(d);
    }
}

int sup_listen(struct sup_driver *d) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char *path = nl_sup_socket_path(d->options->state_dir);
    if (path == NULL) {
        return NL_ENOMEM;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);  // its length was checked at the start
    unlink(path);                                      // we hold the lock: it is a dead one's
    free(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rv = fd < 0 ? nl_err_from_errno(errno) : NL_OK;
    if (rv == NL_OK && (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
                        listen(fd, CONNS_MAX) != 0)) {
        rv = nl_err_from_errno(errno);
    }
    d->listener = (struct sup_watch){.ready = accept_one, .fd = fd};
    if (rv == NL_OK) {
        rv = sup_watch_set(d, &d->listener, EPOLLIN);
    }
    if (rv != NL_OK && fd >= 0) {
        sup_watch_close(d, &d->listener);
        unlink(address.sun_path);
    }
    return rv;
}

void sup_hang_up_all(struct sup_driver *d) {
    struct sup_conn *conn;
    TAILQ_FOREACH(conn, &d->conns, all) {
        hang_up(d, conn, "the supervisor exits");
    }
    sup_bury_conns(d);
    sup_watch_close(d, &d->listener);
}
