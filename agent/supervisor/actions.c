#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/supervisor/driver.h"
#include "agent/supervisor/spool.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"

enum { REWRITE_SIZE_MIN = 4 * 1024 * 1024, REWRITE_RETRY_MS = 5000 };

// ---- io objects ------------------------------------------------------------

static void status_ready(struct sup_driver *d, struct sup_watch *w, uint32_t events);

struct sup_io *sup_io_new(struct sup_task *t) {
    struct sup_io *io = calloc(1, sizeof *io);
    if (io == NULL) {
        return NULL;
    }
    io->task = t;
    io->status = (struct sup_watch){.ready = status_ready, .fd = -1};
    sup_pipe_init(&io->out[0], io, 0);
    sup_pipe_init(&io->out[1], io, 1);
    t->io = io;
    return io;
}

void sup_io_free(struct sup_driver *d, struct sup_io *io) {
    sup_pipe_free(d, &io->out[0]);
    sup_pipe_free(d, &io->out[1]);
    sup_watch_close(d, &io->status);
    sup_spec_free(io->spec);
    free(io);
}

static void bury(struct sup_driver *d, struct sup_task *t) {
    struct sup_io *io = t->io;
    if (io != NULL) {
        sup_unmark(d, io);
        if (io->waits_intent || io->waits_result) {
            TAILQ_REMOVE(&d->waiting, io, waiting);
        }
        sup_watch_close(d, &io->status);
        sup_watch_close(d, &io->out[0].watch);
        sup_watch_close(d, &io->out[1].watch);
        io->dead = true;
        io->task = NULL;
        t->io = NULL;
        TAILQ_INSERT_TAIL(&d->garbage, io, garbage);
    }
    sup_core_free_task(d->core, t);
}

// ---- journal ---------------------------------------------------------------

static void name_record(struct sup_record *r, enum sup_record_type type, const struct sup_task *t) {
    memset(r, 0, sizeof *r);
    r->type = type;
    memcpy(r->id, t->id, sizeof r->id);
    r->attempt = t->attempt;
}

static int append_intent(struct sup_journal *j, const struct sup_task *t) {
    struct sup_record r;
    name_record(&r, SUP_REC_INTENT, t);
    r.epoch = t->epoch;
    r.timeout_ms = t->timeout_ms;
    r.grace_ms = t->grace_ms;
    memcpy(r.digest, t->digest, sizeof r.digest);
    return sup_journal_append(j, &r);
}

static int append_started(struct sup_journal *j, const struct sup_task *t) {
    struct sup_record r;
    const struct sup_io *io = t->io;
    name_record(&r, SUP_REC_STARTED, t);
    r.pid = t->pid;
    r.pid_start = t->pid_start;
    r.started_wall_ms = t->started_wall_ms;
    memcpy(r.boot, io->boot, sizeof r.boot);
    return sup_journal_append(j, &r);
}

static int append_result(struct sup_journal *j, const struct sup_task *t) {
    struct sup_record r;
    name_record(&r, SUP_REC_RESULT, t);
    r.result = t->result;
    return sup_journal_append(j, &r);
}

static int append_dropped(struct sup_journal *j, const struct sup_task *t) {
    struct sup_record r;
    name_record(&r, SUP_REC_DROPPED, t);
    r.base[0] = t->out[0].base;
    r.base[1] = t->out[1].base;
    return sup_journal_append(j, &r);
}

static int append_bare(struct sup_journal *j, enum sup_record_type type, const struct sup_task *t) {
    struct sup_record r;
    name_record(&r, type, t);
    return sup_journal_append(j, &r);
}

// All that the journal has to say about one task.
static int emit_task(struct sup_journal *fresh, const struct sup_task *t) {
    int rv = append_intent(fresh, t);
    if (rv == NL_OK && t->pid != 0) {
        rv = append_started(fresh, t);
    }
    if (rv == NL_OK && (t->out[0].base > 0 || t->out[1].base > 0)) {
        rv = append_dropped(fresh, t);
    }
    if (rv == NL_OK && t->phase >= SUP_FINISHED) {
        rv = append_result(fresh, t);
    }
    if (rv == NL_OK && t->phase >= SUP_FORGOTTEN) {
        rv = append_bare(fresh, SUP_REC_FORGOTTEN, t);
    }
    if (rv == NL_OK && t->phase >= SUP_SPENT) {
        rv = append_bare(fresh, SUP_REC_SPENT, t);
    }
    return rv;
}

int sup_journal_emit_all(void *user, struct sup_journal *fresh) {
    struct sup_driver *d = user;
    int rv = NL_OK;
    for (struct sup_task *t = sup_core_walk(d->core, NULL); t != NULL && rv == NL_OK;
         t = sup_core_walk(d->core, t)) {
        // An intent that waits is written again by its own retry or was refused.
        const struct sup_io *io = t->io;
        if (!t->freeing && io != NULL && t->phase != SUP_INTENT) {
            rv = emit_task(fresh, t);
        }
    }
    return rv;
}

void sup_maintain_journal(struct sup_driver *d) {
    bool broken = sup_journal_broken(d->journal);
    bool large = sup_journal_size(d->journal) > d->rewrite_size;
    if ((!broken && !large) || d->now_ms < d->rewrite_after_ms) {
        return;
    }
    int rv = sup_journal_rewrite(d->journal, sup_journal_emit_all, d);
    if (rv != NL_OK) {
        nl_log(NL_LOG_ERROR, "supervisor", "the journal can't be rewritten", "error",
               nl_strerror(rv), "broken", broken ? "yes" : "no", NULL);
        d->rewrite_after_ms = d->now_ms + REWRITE_RETRY_MS;
        return;
    }
    uint64_t twice = 2 * sup_journal_size(d->journal);
    d->rewrite_size = twice > REWRITE_SIZE_MIN ? twice : REWRITE_SIZE_MIN;
    nl_log(NL_LOG_INFO, "supervisor", "journal rewritten", "bytes",
           nl_log_u64(sup_journal_size(d->journal)).s, NULL);
}

static void wait_for_journal(struct sup_driver *d, struct sup_io *io, int rv) {
    io->failed = rv != NL_OK ? nl_strerror(rv) : NULL;
    TAILQ_INSERT_TAIL(&d->waiting, io, waiting);
}

static void do_intent(struct sup_driver *d, struct sup_task *t) {
    struct sup_io *io = sup_io_new(t);
    if (io == NULL) {
        struct sup_event e = {.type = SUP_EV_INTENT_WRITTEN, .task = t, .text = "out of memory"};
        sup_driver_step(d, &e);
        return;
    }
    io->spec = d->run_spec;
    d->run_spec = NULL;
    int rv = NL_FAILPOINT("journal.before_intent") ? NL_EIO : append_intent(d->journal, t);
    io->waits_intent = true;
    wait_for_journal(d, io, rv);
}

static void do_result(struct sup_driver *d, struct sup_task *t) {
    struct sup_io *io = t->io;
    int rv = NL_FAILPOINT("exit.before_record") ? NL_EIO : append_result(d->journal, t);
    io->waits_result = true;
    wait_for_journal(d, io, rv);
}

static void step_written(struct sup_driver *d, struct sup_io *io, const char *failed) {
    struct sup_event e = {.task = io->task, .flag = failed == NULL};
    char text[200];
    if (failed != NULL) {
        snprintf(text, sizeof text, "the agent's journal or spool can't be written: %s", failed);
        e.text = text;
        uint32_t suppressed = 0;
        if (nl_log_allow(&d->journal_log, d->now_ms, 5, 10000, &suppressed)) {
            nl_log(NL_LOG_ERROR, "supervisor", text, "task", io->task->id, NULL);
        }
    }
    if (io->waits_intent) {
        io->waits_intent = false;
        e.type = SUP_EV_INTENT_WRITTEN;
        (void)NL_FAILPOINT("journal.after_intent");
    } else {
        io->waits_result = false;
        e.type = SUP_EV_RESULT_WRITTEN;
        (void)NL_FAILPOINT("exit.after_record");
    }
    sup_driver_step(d, &e);
}

// One fsync for all that came in this turn; what they cause may wait for the journal again.
void sup_commit(struct sup_driver *d) {
    while (!TAILQ_EMPTY(&d->waiting)) {
        int rv = sup_journal_sync(d->journal);
        struct sup_io *last = TAILQ_LAST(&d->waiting, sup_io_list);
        bool more = true;
        while (more) {
            struct sup_io *io = TAILQ_FIRST(&d->waiting);
            more = io != last;
            TAILQ_REMOVE(&d->waiting, io, waiting);
            const char *failed = io->failed != NULL ? io->failed
                                 : rv != NL_OK      ? nl_strerror(rv)
                                                    : NULL;
            step_written(d, io, failed);
        }
    }
}

// ---- processes -------------------------------------------------------------

static void step_not_started(struct sup_driver *d, struct sup_task *t, const char *reason,
                             bool process) {
    struct sup_event e = {.type = SUP_EV_NOT_STARTED, .task = t, .text = reason, .flag = process};
    sup_driver_step(d, &e);
}

static void do_spawn(struct sup_driver *d, struct sup_task *t) {
    struct sup_io *io = t->io;
    struct sup_spawned s;
    char reason[256];
    if (sup_spawn(io->spec, &d->spawn_base, reason, &s) != NL_OK) {
        step_not_started(d, t, reason, false);
        return;
    }
    (void)NL_FAILPOINT("spawn.after_fork");
    io->status.fd = s.status_fd;
    io->out[0].watch.fd = s.out_fds[0];
    io->out[1].watch.fd = s.out_fds[1];
    memcpy(io->boot, d->kernel_boot, sizeof io->boot);
    int rv = sup_watch_set(d, &io->status, EPOLLIN);
    for (unsigned i = 0; i < 2 && rv == NL_OK; i++) {
        rv = sup_watch_set(d, &io->out[i].watch, EPOLLIN);
    }
    if (rv != NL_OK) {
        // epoll without memory: the task can't be served, so it does not run.
        kill(s.pid, SIGKILL);
        step_not_started(d, t, "the supervisor can't watch its output", true);
    }
    struct sup_event e = {.type = SUP_EV_SPAWNED, .task = t, .pid = s.pid, .pid_start = s.start};
    sup_driver_step(d, &e);
}

// Before the exit status is looked at, and when epoll says so.
static void read_status(struct sup_driver *d, struct sup_io *io) {
    uint8_t status[SUP_STATUS_LEN];
    if (io->status.fd < 0) {
        return;
    }
    ssize_t n = read(io->status.fd, status, sizeof status);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    sup_watch_close(d, &io->status);
    if (n == (ssize_t)sizeof status) {
        char reason[256];
        sup_spawn_explain(io->spec, status, reason);
        step_not_started(d, io->task, reason, true);
        return;
    }
    sup_spec_free(io->spec);
    io->spec = NULL;
    struct sup_event e = {.type = SUP_EV_EXEC_OK, .task = io->task};
    sup_driver_step(d, &e);
}

static void status_ready(struct sup_driver *d, struct sup_watch *w, uint32_t events) {
    (void)events;
    struct sup_io *io = (struct sup_io *)(void *)((char *)w - offsetof(struct sup_io, status));
    read_status(d, io);
}

static uint64_t microseconds(const struct timeval *tv) {
    return (uint64_t)tv->tv_sec * 1000000u + (uint64_t)tv->tv_usec;
}

void sup_reap(struct sup_driver *d) {
    for (;;) {
        int status = 0;
        struct rusage usage;
        pid_t pid = wait4(-1, &status, WNOHANG, &usage);
        if (pid <= 0) {
            return;
        }
        d->tree_fresh = false;
        struct sup_task *t = sup_core_find_pid(d->core, pid);
        if (t == NULL) {
            continue;  // an orphan that came to us as the subreaper
        }
        read_status(d, t->io);
        struct sup_event e = {.type = SUP_EV_EXITED,
                              .task = t,
                              .wait_status = status,
                              .user_us = microseconds(&usage.ru_utime),
                              .system_us = microseconds(&usage.ru_stime),
                              .max_rss_kb = (uint64_t)usage.ru_maxrss};
        sup_driver_step(d, &e);
    }
}

static bool any_lost(const struct sup_driver *d) {
    for (struct sup_task *t = sup_core_walk(d->core, NULL); t != NULL;
         t = sup_core_walk(d->core, t)) {
        if (t->why == SUP_WHY_LOST && t->phase < SUP_RECORDING) {
            return true;
        }
    }
    return false;
}

// One picture of /proc serves all kills of a turn.
static void do_tree(struct sup_driver *d, struct sup_task *t, int sig) {
    int rv = d->tree_fresh ? NL_OK : sup_tree_refresh(d->tree, any_lost(d));
    d->tree_fresh = rv == NL_OK;
    // Without a picture nothing is proven gone.
    size_t count = rv == NL_OK ? sup_tree_count(d->tree, t) : 1;
    if (sig != 0) {
        sup_tree_signal(d->tree, t, sig);
    }
    struct sup_event e = {.type = SUP_EV_TREE, .task = t, .bytes = count};
    sup_driver_step(d, &e);
}

// ---- the rest --------------------------------------------------------------

// Durable first: after a restart a hole must not be taken for zeros that the task wrote.
static void do_drop(struct sup_driver *d, struct sup_task *t) {
    int rv = append_dropped(d->journal, t);
    if (rv == NL_OK) {
        rv = sup_journal_sync(d->journal);
    }
    if (rv == NL_OK) {
        rv = sup_spool_punch(d->spool_fd, t->key, (uint64_t[]){t->out[0].base, t->out[1].base});
    }
    uint32_t suppressed = 0;
    if (rv != NL_OK && nl_log_allow(&d->spool_log, d->now_ms, 5, 10000, &suppressed)) {
        nl_log(NL_LOG_WARN, "supervisor", "space of dropped output can't be freed", "task", t->id,
               "error", nl_strerror(rv), NULL);
    }
    sup_mark_spool(d, t->io);
}

static void note_append(struct sup_driver *d, const struct sup_task *t, int rv) {
    uint32_t suppressed = 0;
    if (rv != NL_OK && nl_log_allow(&d->journal_log, d->now_ms, 5, 10000, &suppressed)) {
        nl_log(NL_LOG_ERROR, "supervisor", "a journal record could not be written", "task", t->id,
               "error", nl_strerror(rv), NULL);
    }
}

// False: there was none.
static bool remove_spool(struct sup_driver *d, const struct sup_task *t) {
    struct sup_io *io = t->io;
    if (io == NULL || !io->spool_made) {
        return false;
    }
    io->spool_made = false;
    sup_spool_delete(d->spool_fd, t->key);
    return true;
}

static void do_delete_spool(struct sup_driver *d, struct sup_task *t) {
    note_append(d, t, append_bare(d->journal, SUP_REC_SPENT, t));
    if (remove_spool(d, t)) {
        sup_mark_spool(d, t->io);
    }
}

static void do_stream(struct sup_driver *d, const struct sup_action *a) {
    struct sup_io *io = a->task->io;
    struct sup_pipe *p = &io->out[a->stream];
    switch (a->type) {
        case SUP_DO_READ:
            sup_pipe_read(d, p, a->arg);
            break;
        case SUP_DO_READ_LAST:
            sup_pipe_read_last(d, p, a->arg);
            break;
        case SUP_DO_PAUSE:
            sup_watch_set(d, &p->watch, 0);
            break;
        case SUP_DO_RESUME:
            if (p->watch.fd >= 0 && sup_watch_set(d, &p->watch, EPOLLIN) != NL_OK) {
                sup_pipe_read_last(d, p, SUP_OVERSHOOT_BYTES);
            }
            break;
        case SUP_DO_RETRY:
            sup_pipe_retry(d, p);
            break;
        case SUP_DO_CUT:
            sup_pipe_cut(p);
            break;
        default:
            break;
    }
}

void sup_do(struct sup_driver *d, const struct sup_action *a) {
    struct sup_task *t = a->task;
    switch (a->type) {
        case SUP_DO_JOURNAL_INTENT:
            do_intent(d, t);
            break;
        case SUP_DO_REFUSE:
            sup_send_refused(d, a->id, a->attempt, a->text);
            break;
        case SUP_DO_SPAWN:
            do_spawn(d, t);
            break;
        case SUP_DO_JOURNAL_STARTED:
            note_append(d, t, append_started(d->journal, t));
            break;
        case SUP_DO_REPORT:
            sup_mark_report(d, t->io);
            break;
        case SUP_DO_SIGNAL:
            do_tree(d, t, (int)a->arg);
            break;
        case SUP_DO_SCAN:
            do_tree(d, t, 0);
            break;
        case SUP_DO_DROP:
            do_drop(d, t);
            break;
        case SUP_DO_CLOSE_OUTPUT:
            sup_close_output(d, t->io);
            break;
        case SUP_DO_JOURNAL_RESULT:
            do_result(d, t);
            break;
        case SUP_DO_JOURNAL_FORGOTTEN:
            note_append(d, t, append_bare(d->journal, SUP_REC_FORGOTTEN, t));
            break;
        case SUP_DO_DELETE_SPOOL:
            do_delete_spool(d, t);
            break;
        case SUP_DO_FREE:
            remove_spool(d, t);
            bury(d, t);
            break;
        case SUP_DO_EXIT:
            d->exiting = true;
            break;
        default:
            do_stream(d, a);
            break;
    }
}
