#include "agent/supervisor/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/supervisor/client.h"
#include "agent/supervisor/driver.h"
#include "agent/supervisor/spool.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/fs.h"
#include "common/base/text.h"

enum {
    SPENT_MS = 24 * 3600 * 1000,
    REWRITE_SIZE_FIRST = 4 * 1024 * 1024,
    LOCK_TRIES = 200,
    LOCK_PAUSE_NS = 10 * 1000 * 1000,
};

static int fail(const char *what, const char *path, const char *why) {
    nl_log(NL_LOG_ERROR, "supervisor", what, "path", path, "error", why, NULL);
    return NL_SUP_EXIT_FAILED;
}

static uint64_t or_default(uint64_t value, uint64_t fallback) {
    return value != 0 ? value : fallback;
}

static struct nl_supervisor_options with_defaults(const struct nl_supervisor_options *given) {
    struct nl_supervisor_options o = *given;
    o.kill_grace_ms = or_default(o.kill_grace_ms, NL_SUP_KILL_GRACE_MS);
    o.drain_ms = or_default(o.drain_ms, NL_SUP_DRAIN_MS);
    o.spool_task_bytes_max = or_default(o.spool_task_bytes_max, NL_SUP_SPOOL_TASK_BYTES_MAX);
    o.spool_total_bytes_max = or_default(o.spool_total_bytes_max, NL_SUP_SPOOL_TOTAL_BYTES_MAX);
    o.spool_keep_ms = or_default(o.spool_keep_ms, NL_SUP_SPOOL_KEEP_MS);
    o.spool_stuck_ms = or_default(o.spool_stuck_ms, NL_SUP_SPOOL_STUCK_MS);
    o.disk_free_bytes_min = or_default(o.disk_free_bytes_min, NL_SUP_DISK_FREE_BYTES_MIN);
    o.tasks_max = (uint32_t)or_default(o.tasks_max, NL_SUP_TASKS_MAX);
    return o;
}

static struct sup_limits limits_of(const struct nl_supervisor_options *o) {
    return (struct sup_limits){.kill_grace_ms = o->kill_grace_ms,
                               .drain_ms = o->drain_ms,
                               .task_bytes_max = o->spool_task_bytes_max,
                               .total_bytes_max = o->spool_total_bytes_max,
                               .keep_ms = o->spool_keep_ms,
                               .spent_ms = SPENT_MS,
                               .stuck_ms = o->spool_stuck_ms,
                               .idle_exit_ms = o->idle_exit_ms,
                               .tasks_max = o->tasks_max,
                               .leave_lost = o->leave_lost_running,
                               .drop_unread = o->drop_unread};
}

// ---- replay ----------------------------------------------------------------

static int replay_intent(struct sup_driver *d, const struct sup_record *r) {
    struct sup_task *t = sup_core_find(d->core, r->id, r->attempt);
    int rv = NL_OK;
    if (t == NULL) {
        rv = sup_core_restore(d->core, r->id, r->attempt, &t);
    } else if (t->phase != SUP_SPENT) {
        return NL_ECORRUPT;
    }
    if (rv != NL_OK) {
        return rv;
    }
    // A spent one may have been dropped from memory and its name used again.
    t->phase = SUP_INTENT;
    t->pid = 0;
    memset(t->out, 0, sizeof t->out);
    memset(&t->result, 0, sizeof t->result);
    t->epoch = r->epoch;
    t->timeout_ms = r->timeout_ms;
    t->grace_ms = or_default(r->grace_ms, d->options->kill_grace_ms);
    memcpy(t->digest, r->digest, sizeof t->digest);
    return t->io != NULL || sup_io_new(t) != NULL ? NL_OK : NL_ENOMEM;
}

// A start time of another boot proves nothing.
static int replay_started(struct sup_driver *d, struct sup_task *t, const struct sup_record *r) {
    struct sup_io *io = t->io;
    bool same_boot = memcmp(r->boot, d->kernel_boot, sizeof r->boot) == 0;
    t->pid = r->pid;
    t->pid_start = same_boot ? r->pid_start : 0;
    t->started_wall_ms = r->started_wall_ms;
    memcpy(io->boot, r->boot, sizeof io->boot);
    t->phase = SUP_RUNNING;
    return NL_OK;
}

static int replay_result(struct sup_task *t, const struct sup_record *r) {
    t->result = r->result;
    t->started_wall_ms = r->result.started_wall_ms;
    t->exited = true;
    t->out[0].eof = t->out[1].eof = true;
    t->phase = SUP_FINISHED;
    return NL_OK;
}

// An append that failed leaves out FORGOTTEN or STARTED, so those may be missing.
static int replay(void *user, const struct sup_record *r) {
    struct sup_driver *d = user;
    if (r->type == SUP_REC_INTENT) {
        return replay_intent(d, r);
    }
    struct sup_task *t = sup_core_find(d->core, r->id, r->attempt);
    if (t == NULL) {
        return NL_ECORRUPT;
    }
    switch (r->type) {
        case SUP_REC_STARTED:
            return t->phase == SUP_INTENT ? replay_started(d, t, r) : NL_ECORRUPT;
        case SUP_REC_RESULT:
            return t->phase < SUP_FINISHED ? replay_result(t, r) : NL_ECORRUPT;
        case SUP_REC_FORGOTTEN:
        case SUP_REC_SPENT:
            if (t->phase < SUP_FINISHED) {
                return NL_ECORRUPT;
            }
            t->phase = r->type == SUP_REC_SPENT ? SUP_SPENT : SUP_FORGOTTEN;
            return NL_OK;
        case SUP_REC_DROPPED:
            t->out[0].base = r->base[0];
            t->out[1].base = r->base[1];
            return NL_OK;
        case SUP_REC_INTENT:
            break;
    }
    return NL_ECORRUPT;
}

static void measure(struct sup_driver *d, struct sup_task *t) {
    uint64_t size[2];
    sup_spool_measure(d->spool_fd, t->key, size);
    ((struct sup_io *)t->io)->spool_made = true;
    for (unsigned i = 0; i < 2; i++) {
        struct sup_stream *s = &t->out[i];
        s->end = t->phase >= SUP_FINISHED ? t->result.bytes[i] : size[i];
        // The output is durable before the result; a shorter file was damaged from outside.
        bool gone = t->phase == SUP_SPENT || size[i] < s->end;
        if (gone && t->phase != SUP_SPENT) {
            nl_log(NL_LOG_ERROR, "supervisor", "output of a finished task is gone", "task", t->id,
                   NULL);
        }
        s->base = gone || s->base > s->end ? s->end : s->base;
    }
}

static bool is_known_key(void *user, const char *key) {
    const struct sup_driver *d = user;
    char id[SUP_KEY_SIZE];
    const char *dot = strrchr(key, '.');
    if (dot == NULL) {
        return false;
    }
    snprintf(id, sizeof id, "%.*s", (int)(dot - key), key);
    struct sup_task *t = sup_core_find(d->core, id, (uint32_t)strtoul(dot + 1, NULL, 10));
    return t != NULL && t->phase != SUP_SPENT && strcmp(t->key, key) == 0;
}

static void after_replay(struct sup_driver *d) {
    for (struct sup_task *t = sup_core_walk(d->core, NULL); t != NULL;
         t = sup_core_walk(d->core, t)) {
        measure(d, t);
    }
    sup_spool_sweep(d->spool_fd, is_known_key, d);
    const struct sup_event recover = {.type = SUP_EV_RECOVER};
    sup_driver_step(d, &recover);
}

// ---- the state directory ---------------------------------------------------

static char *in_state(const struct sup_driver *d, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", d->options->state_dir, name) < 0 ? NULL : path;
}

// A process that a dead supervisor had just forked holds the lock until its exec, or until it
// notices; only such a holder is waited for.
static int lock_of_dead(const char *path, int *ret_fd, pid_t *ret_holder) {
    int rv = nl_fs_lock(path, ret_fd, ret_holder);
    for (int i = 0; i < LOCK_TRIES; i++) {
        bool dead = *ret_holder > 0 && kill(*ret_holder, 0) != 0 && errno == ESRCH;
        if (rv != NL_EBUSY || !dead) {
            return rv;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
        rv = nl_fs_lock(path, ret_fd, ret_holder);
    }
    return rv;
}

static int take_lock(struct sup_driver *d) {
    char *path = in_state(d, "lock");
    pid_t holder = 0;
    int rv = path == NULL ? NL_ENOMEM : lock_of_dead(path, &d->lock_fd, &holder);
    free(path);
    if (rv == NL_EBUSY) {
        nl_log(NL_LOG_INFO, "supervisor", "another supervisor holds the state directory", "path",
               d->options->state_dir, "pid", nl_log_i64(holder).s, NULL);
    }
    return rv;
}

static int new_journal_id(struct sup_driver *d, const char *path) {
    nl_random_id(d->journal_id);
    return nl_fs_write_atomic(path, d->journal_id, strlen(d->journal_id), 0600);
}

// The id says which journal this is: without the journal there is a new one.
static int load_journal_id(struct sup_driver *d) {
    char *path = in_state(d, "journal_id"), *journal = in_state(d, "journal"), *text = NULL;
    size_t len = 0;
    int rv = path == NULL || journal == NULL ? NL_ENOMEM : NL_OK;
    if (rv == NL_OK && access(journal, F_OK) != 0) {
        rv = errno == ENOENT ? new_journal_id(d, path) : nl_err_from_errno(errno);
    } else if (rv == NL_OK) {
        rv = nl_fs_read(path, sizeof d->journal_id - 1, &text, &len);
        if (rv == NL_ENOTFOUND) {
            rv = new_journal_id(d, path);
        } else if (rv == NL_OK && (len != sizeof d->journal_id - 1 || !nl_text_id_ok(text))) {
            rv = NL_ECORRUPT;
        } else if (rv == NL_OK) {
            memcpy(d->journal_id, text, sizeof d->journal_id);
        }
    }
    free(text);
    free(path);
    free(journal);
    return rv;
}

static int write_pid_file(struct sup_driver *d) {
    char text[32], *path = in_state(d, "supervisor.pid");
    int len = snprintf(text, sizeof text, "%d\n", (int)getpid());
    int rv = path == NULL ? NL_ENOMEM : nl_fs_write_atomic(path, text, (size_t)len, 0600);
    free(path);
    return rv;
}

static int open_state(struct sup_driver *d) {
    const char *dir = d->options->state_dir;
    char why[512];
    if (nl_sup_socket_path_check(dir) != NL_OK) {
        return fail("the state directory's path is too long for a socket (at most 91 bytes)", dir,
                    nl_strerror(NL_ETOOBIG));
    }
    int rv = nl_fs_mkdirs(dir, 0700);
    if (rv == NL_OK && chmod(dir, 0700) != 0) {
        rv = nl_err_from_errno(errno);
    }
    if (rv == NL_OK) {
        rv = NL_FAILPOINT("supervisor.start.lock") ? NL_EIO : take_lock(d);
    }
    if (rv == NL_EBUSY) {
        return NL_SUP_EXIT_HELD;
    }
    if (rv == NL_OK) {
        rv = NL_FAILPOINT("supervisor.start.journal_id") ? NL_EIO : load_journal_id(d);
    }
    if (rv == NL_OK) {
        rv = NL_FAILPOINT("supervisor.start.spool") ? NL_EIO : sup_spool_open(dir, &d->spool_fd);
    }
    if (rv != NL_OK) {
        return fail("can't use the state directory", dir, nl_strerror(rv));
    }
    snprintf(why, sizeof why, "fail point");
    rv = NL_FAILPOINT("supervisor.start.journal")
             ? NL_EIO
             : sup_journal_open(dir, replay, d, why, &d->journal);
    if (rv != NL_OK) {
        return fail("can't use the journal; nothing was changed", dir, why);
    }
    return NL_SUP_EXIT_OK;
}

// ---- the process -----------------------------------------------------------

// A pipe of a task must never become descriptor 0, 1 or 2.
static void fill_standard_fds(void) {
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2) {
        fd = dup(fd);
    }
    if (fd > 2) {
        close(fd);
    }
}

static void prepare_process(struct sup_driver *d) {
    fill_standard_fds();
    d->spawn_base.null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    d->spawn_base.umask = umask(077);
    getrlimit(RLIMIT_NOFILE, &d->spawn_base.nofile);
    struct rlimit raised = d->spawn_base.nofile;
    raised.rlim_cur = raised.rlim_max;  // up to six descriptors for each running task
    setrlimit(RLIMIT_NOFILE, &raised);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    sup_proc_boot_id(d->kernel_boot);
    nl_random_id(d->boot_id);
    d->now_ms = nl_clock_mono_ms();
    d->wall_ms = nl_clock_wall_ms();
}

static int open_memory(struct sup_driver *d) {
    struct sup_limits limits = limits_of(d->options);
    int rv = sup_core_new(&limits, &d->core);
    d->tree = rv == NL_OK ? sup_tree_new(d->core, d->journal_id) : NULL;
    d->buffer = malloc(SUP_READ_BYTES_MAX);
    return d->tree != NULL && d->buffer != NULL ? NL_OK : NL_ENOMEM;
}

static void init_driver(struct sup_driver *d, const struct nl_supervisor_options *options) {
    *d = (struct sup_driver){.options = options, .spool_fd = -1, .lock_fd = -1, .epoll_fd = -1};
    d->signals.fd = d->listener.fd = -1;
    d->rewrite_size = REWRITE_SIZE_FIRST;
    TAILQ_INIT(&d->waiting);
    TAILQ_INIT(&d->reports);
    TAILQ_INIT(&d->spools);
    TAILQ_INIT(&d->garbage);
    TAILQ_INIT(&d->conns);
}

static int start(struct sup_driver *d) {
    int rv = NL_FAILPOINT("supervisor.start.memory") ? NL_ENOMEM : open_memory(d);
    if (rv != NL_OK) {
        return fail("can't start", "", nl_strerror(rv));
    }
    rv = open_state(d);
    if (rv != NL_SUP_EXIT_OK) {
        return rv;
    }
    rv = NL_FAILPOINT("supervisor.start.loop") ? NL_EIO : sup_loop_open(d);
    if (rv == NL_OK) {
        rv = NL_FAILPOINT("supervisor.start.listen") ? NL_EIO : sup_listen(d);
    }
    if (rv == NL_OK) {
        rv = NL_FAILPOINT("supervisor.start.pid_file") ? NL_EIO : write_pid_file(d);
    }
    if (rv != NL_OK) {
        return fail("can't make the socket or supervisor.pid", d->options->state_dir,
                    nl_strerror(rv));
    }
    (void)NL_FAILPOINT("supervisor.start.replayed");
    after_replay(d);
    (void)NL_FAILPOINT("supervisor.start.ready");
    nl_log(NL_LOG_INFO, "supervisor", "ready", "journal", d->journal_id, "tasks",
           nl_log_u64(sup_core_count(d->core)).s, NULL);
    return NL_SUP_EXIT_OK;
}

static void remove_names(struct sup_driver *d) {
    static const char *const names[] = {"supervisor.sock", "supervisor.pid"};
    for (size_t i = 0; i < 2; i++) {
        char *path = in_state(d, names[i]);
        if (path != NULL) {
            unlink(path);
        }
        free(path);
    }
}

static void free_ios(struct sup_driver *d) {
    for (struct sup_task *t = d->core != NULL ? sup_core_walk(d->core, NULL) : NULL; t != NULL;
         t = sup_core_walk(d->core, t)) {
        if (t->io != NULL) {
            sup_unmark(d, t->io);
            sup_io_free(d, t->io);
            t->io = NULL;
        }
    }
}

// Names go before the lock, so that none of a successor's is removed.
static void stop(struct sup_driver *d) {
    if (d->listener.fd >= 0) {  // a start that failed later than that has names, too
        sup_hang_up_all(d);
        remove_names(d);
    }
    if (d->journal != NULL) {
        sup_journal_sync(d->journal);
    }
    free_ios(d);
    sup_loop_close(d);
    sup_tree_free(d->tree);
    sup_core_free(d->core);
    sup_journal_close(d->journal);
    free(d->buffer);
    if (d->spawn_base.null_fd >= 0) {
        close(d->spawn_base.null_fd);
    }
    if (d->spool_fd >= 0) {
        close(d->spool_fd);
    }
    if (d->lock_fd >= 0) {
        close(d->lock_fd);
    }
}

int nl_supervisor_main(const struct nl_supervisor_options *given) {
    struct nl_supervisor_options options = with_defaults(given);
    struct sup_driver d;
    init_driver(&d, &options);
    prepare_process(&d);
    int rv = start(&d);
    if (rv == NL_SUP_EXIT_OK) {
        sup_loop_run(&d);
        nl_log(NL_LOG_INFO, "supervisor", "stopped", NULL);
    }
    stop(&d);
    return rv;
}
