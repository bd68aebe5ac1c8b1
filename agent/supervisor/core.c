#include "agent/supervisor/core_internal.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "common/base/err.h"
#include "common/base/text.h"

// ---- actions ---------------------------------------------------------------

// Room for what one event can cause is made when a task is made, so this does not fail in
// practice; without memory for a few hundred bytes no decision could be carried out.
struct sup_action *sup_push(struct sup_core *c, enum sup_action_type type, struct sup_task *task) {
    if (c->first == c->last) {
        c->first = c->last = 0;
    }
    if (c->last == c->cap) {
        size_t cap = c->cap == 0 ? 64 : c->cap * 2;
        struct sup_action *actions = realloc(c->actions, cap * sizeof *actions);
        if (actions == NULL) {
            abort();
        }
        c->actions = actions;
        c->cap = cap;
    }
    struct sup_action *a = &c->actions[c->last++];
    memset(a, 0, sizeof *a);
    a->type = type;
    a->task = task;
    return a;
}

void sup_push_stream(struct sup_core *c, enum sup_action_type type, struct sup_task *task,
                     unsigned stream, uint64_t arg) {
    struct sup_action *a = sup_push(c, type, task);
    a->stream = stream;
    a->arg = arg;
}

static void refuse(struct sup_core *c, const char *id, uint32_t attempt, const char *text) {
    struct sup_action *a = sup_push(c, SUP_DO_REFUSE, NULL);
    snprintf(a->id, sizeof a->id, "%s", id != NULL ? id : "");
    a->attempt = attempt;
    snprintf(a->text, sizeof a->text, "%s", text);
}

bool sup_core_next(struct sup_core *c, struct sup_action *ret) {
    if (c->first == c->last) {
        return false;
    }
    *ret = c->actions[c->first++];
    return true;
}

// ---- timers ----------------------------------------------------------------

void sup_set_timer(struct sup_core *c, uint64_t *timer, uint64_t delay_ms) {
    uint64_t at = delay_ms > UINT64_MAX / 2 ? UINT64_MAX / 2 : c->now + delay_ms;
    *timer = at == 0 ? 1 : at;
    if (c->next_tick == 0 || *timer < c->next_tick) {
        c->next_tick = *timer;
    }
}

static bool fires(const struct sup_core *c, uint64_t *timer) {
    if (*timer == 0 || *timer > c->now) {
        return false;
    }
    *timer = 0;
    return true;
}

static void earliest(uint64_t *next, uint64_t timer) {
    if (timer != 0 && (*next == 0 || timer < *next)) {
        *next = timer;
    }
}

static bool idle(const struct sup_core *c) {
    return !c->link && c->running == 0 && c->limits.idle_exit_ms > 0;
}

static uint64_t find_next_tick(const struct sup_core *c) {
    uint64_t next = 0;
    const struct sup_task *t;
    TAILQ_FOREACH(t, &c->tasks, order) {
        const struct sup_timers *m = &t->timers;
        earliest(&next, m->timeout_at);
        earliest(&next, m->kill_at);
        earliest(&next, m->scan_at);
        earliest(&next, m->give_up_at);
        earliest(&next, m->drain_at);
        earliest(&next, m->retry_at);
        earliest(&next, m->keep_at);
    }
    if (idle(c)) {
        earliest(&next, c->idle_since + c->limits.idle_exit_ms);
    }
    return next;
}

static void start_idling(struct sup_core *c) {
    c->idle_since = c->now;
    if (idle(c)) {
        earliest(&c->next_tick, c->idle_since + c->limits.idle_exit_ms);
    }
}

uint64_t sup_core_deadline(const struct sup_core *c) {
    return c->next_tick;
}

// ---- the table of tasks ----------------------------------------------------

static unsigned bucket_of(const char *id, uint32_t attempt) {
    uint32_t hash = 2166136261u;  // FNV-1a
    for (; *id != '\0'; id++) {
        hash = (hash ^ (unsigned char)*id) * 16777619u;
    }
    hash = (hash ^ attempt) * 16777619u;
    return hash % BUCKETS;
}

struct sup_task *sup_core_find(const struct sup_core *c, const char *id, uint32_t attempt) {
    struct sup_task *t;
    LIST_FOREACH(t, &c->buckets[bucket_of(id, attempt)], bucket) {
        if (t->attempt == attempt && strcmp(t->id, id) == 0 && !t->freeing) {
            return t;
        }
    }
    return NULL;
}

static unsigned pid_bucket_of(int32_t pid) {
    return (uint32_t)pid % PID_BUCKETS;
}

struct sup_task *sup_core_find_pid(const struct sup_core *c, int32_t pid) {
    struct sup_task *t;
    LIST_FOREACH(t, &c->pids[pid_bucket_of(pid)], pid_bucket) {
        if (t->pid == pid) {
            return t;
        }
    }
    return NULL;
}

static void unlink_pid(struct sup_task *t) {
    if (t->by_pid) {
        t->by_pid = false;
        LIST_REMOVE(t, pid_bucket);
    }
}

struct sup_task *sup_core_walk(const struct sup_core *c, const struct sup_task *after) {
    return after == NULL ? TAILQ_FIRST(&c->tasks) : TAILQ_NEXT(after, order);
}

static struct sup_task *add_task(struct sup_core *c, const char *id, uint32_t attempt) {
    struct sup_task *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return NULL;
    }
    snprintf(t->id, sizeof t->id, "%s", id);
    snprintf(t->key, sizeof t->key, "%s.%u", id, attempt);
    t->attempt = attempt;
    LIST_INSERT_HEAD(&c->buckets[bucket_of(id, attempt)], t, bucket);
    TAILQ_INSERT_TAIL(&c->tasks, t, order);
    c->count++;
    return t;
}

void sup_core_free_task(struct sup_core *c, struct sup_task *t) {
    assert(t->freeing && t->io == NULL);
    unlink_pid(t);
    LIST_REMOVE(t, bucket);
    TAILQ_REMOVE(&c->tasks, t, order);
    c->count--;
    free(t);
}

static void discard(struct sup_core *c, struct sup_task *t) {
    t->freeing = true;
    sup_unshelve(c, t);
    t->timers = (struct sup_timers){0};
    sup_push(c, SUP_DO_FREE, t);
}

int sup_core_restore(struct sup_core *c, const char *id, uint32_t attempt, struct sup_task **ret) {
    if (!nl_text_id_ok(id)) {
        return NL_EINVAL;
    }
    if (sup_core_find(c, id, attempt) != NULL) {
        return NL_EEXIST;
    }
    struct sup_task *t = add_task(c, id, attempt);
    if (t == NULL) {
        return NL_ENOMEM;
    }
    *ret = t;
    return NL_OK;
}

int sup_core_new(const struct sup_limits *limits, struct sup_core **ret) {
    struct sup_core *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return NL_ENOMEM;
    }
    c->limits = *limits;
    TAILQ_INIT(&c->tasks);
    TAILQ_INIT(&c->forgotten);
    TAILQ_INIT(&c->spent);
    *ret = c;
    return NL_OK;
}

void sup_core_free(struct sup_core *c) {
    if (c == NULL) {
        return;
    }
    for (struct sup_task *t = TAILQ_FIRST(&c->tasks); t != NULL;) {
        struct sup_task *next = TAILQ_NEXT(t, order);
        free(t);
        t = next;
    }
    free(c->actions);
    free(c);
}

void sup_note(struct sup_result *r, const char *text) {
    size_t len = strlen(r->reason);
    snprintf(r->reason + len, sizeof r->reason - len, "%s%s", len > 0 ? "; " : "", text);
}

// ---- end of a task ---------------------------------------------------------

static bool output_done(const struct sup_task *t) {
    return t->out[0].eof && t->out[1].eof && t->out[0].stuck_since_ms == 0 &&
           t->out[1].stuck_since_ms == 0;
}

static void judge(struct sup_task *t) {
    struct sup_result *r = &t->result;
    if (t->exited && t->pid != 0 && t->why != SUP_WHY_LOST) {
        r->exit_code = WIFEXITED(t->wait_status) ? WEXITSTATUS(t->wait_status) : 0;
        r->signal = WIFSIGNALED(t->wait_status) ? WTERMSIG(t->wait_status) : 0;
    }
    if (t->why == SUP_WHY_LOST) {
        r->kind = SUP_KIND_LOST;
    } else if (t->why == SUP_WHY_CANCEL) {
        r->kind = SUP_KIND_CANCELLED;
    } else if (t->not_started) {
        r->kind = SUP_KIND_NOT_STARTED;
        r->exit_code = r->signal = 0;
    } else if (t->why == SUP_WHY_TIMEOUT) {
        r->kind = SUP_KIND_TIMED_OUT;
    } else {
        r->kind = r->signal != 0 ? SUP_KIND_SIGNALLED : SUP_KIND_EXITED;
    }
    r->started_wall_ms = t->started_wall_ms;
}

void sup_maybe_record(struct sup_core *c, struct sup_task *t) {
    bool killing = t->kill != SUP_KILL_NONE && t->kill != SUP_KILL_DONE;
    if (t->phase != SUP_DRAINING || !output_done(t) || killing) {
        return;
    }
    judge(t);
    t->result.finished_wall_ms = c->wall;
    t->phase = SUP_RECORDING;
    t->timers = (struct sup_timers){0};
    sup_push(c, SUP_DO_CLOSE_OUTPUT, t);
    sup_push(c, SUP_DO_JOURNAL_RESULT, t);
}

// Ended without a process: nothing to drain.
static void end_unstarted(struct sup_core *c, struct sup_task *t) {
    t->phase = SUP_DRAINING;
    t->exited = true;
    t->out[0].eof = t->out[1].eof = true;
    sup_maybe_record(c, t);
}

static void on_exited(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    if (t->exited || t->phase == SUP_INTENT) {
        return;
    }
    t->exited = true;
    unlink_pid(t);
    t->wait_status = e->wait_status;
    t->result.user_us = e->user_us;
    t->result.system_us = e->system_us;
    t->result.max_rss_kb = e->max_rss_kb;
    t->phase = SUP_DRAINING;
    t->timers.timeout_at = 0;
    sup_set_timer(c, &t->timers.drain_at, c->limits.drain_ms);
    for (unsigned i = 0; i < 2; i++) {
        t->out[i].overshoot_end = t->out[i].end + SUP_OVERSHOOT_BYTES;
        sup_resume(c, t, i);
    }
    if (t->kill != SUP_KILL_NONE && t->kill != SUP_KILL_DONE) {
        sup_push(c, SUP_DO_SCAN, t);
    }
    sup_maybe_record(c, t);
}

// Somebody who outlives the main process holds the pipe: take what is there and close it.
static void end_drain(struct sup_core *c, struct sup_task *t) {
    bool waiting = false;
    for (unsigned i = 0; i < 2; i++) {
        struct sup_stream *s = &t->out[i];
        if (s->stuck_since_ms != 0) {
            waiting = true;  // bounded by stuck_ms
        } else if (!s->eof) {
            sup_push_stream(c, SUP_DO_READ_LAST, t, i, SUP_OVERSHOOT_BYTES);
        }
    }
    if (waiting) {
        sup_set_timer(c, &t->timers.drain_at, RETRY_MS);
    }
}

static void on_eof(struct sup_core *c, const struct sup_event *e) {
    e->task->out[e->stream].eof = true;
    sup_maybe_record(c, e->task);
}

static void on_result_written(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    if (!e->flag) {
        sup_set_timer(c, &t->timers.retry_at, RECORD_RETRY_MS);
        return;
    }
    t->phase = SUP_FINISHED;
    c->running--;
    start_idling(c);
    sup_push(c, SUP_DO_REPORT, t);
}

// ---- kill ------------------------------------------------------------------

static void signal_tree(struct sup_core *c, struct sup_task *t, int sig) {
    sup_push_stream(c, SUP_DO_SIGNAL, t, 0, (uint64_t)sig);
}

static void kill_hard(struct sup_core *c, struct sup_task *t) {
    t->kill = SUP_KILL_KILL;
    t->timers.kill_at = 0;
    sup_set_timer(c, &t->timers.give_up_at, GIVE_UP_MS);
    signal_tree(c, t, SIGKILL);
}

static void start_kill(struct sup_core *c, struct sup_task *t) {
    if (t->kill != SUP_KILL_NONE) {
        return;
    }
    t->kill = SUP_KILL_TERM;
    sup_set_timer(c, &t->timers.kill_at, t->grace_ms);
    signal_tree(c, t, SIGTERM);
}

static void on_tree(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    if (t->kill != SUP_KILL_TERM && t->kill != SUP_KILL_KILL) {
        return;
    }
    if (e->bytes == 0 && t->exited) {
        t->kill = SUP_KILL_DONE;
        t->timers.kill_at = t->timers.scan_at = t->timers.give_up_at = 0;
        sup_maybe_record(c, t);
        return;
    }
    if (t->exited || t->kill == SUP_KILL_KILL) {
        sup_set_timer(c, &t->timers.scan_at, SCAN_MS);
    }
}

static void look_again(struct sup_core *c, struct sup_task *t) {
    if (t->kill == SUP_KILL_KILL) {
        signal_tree(c, t, SIGKILL);
    } else {
        sup_push(c, SUP_DO_SCAN, t);
    }
}

static void give_up(struct sup_core *c, struct sup_task *t) {
    if (!t->exited) {
        return;  // no result without an exit status; the scans go on
    }
    sup_note(&t->result, "some of its processes could not be killed");
    t->kill = SUP_KILL_DONE;
    t->timers.scan_at = 0;
    sup_maybe_record(c, t);
}

static void cancel(struct sup_core *c, struct sup_task *t, const char *reason) {
    if (t->phase >= SUP_RECORDING) {
        sup_push(c, SUP_DO_REPORT, t);
        return;
    }
    // The main process's own end decides; a cancel after it only takes down what is left.
    if (!t->exited && t->why == SUP_WHY_NONE) {
        t->why = SUP_WHY_CANCEL;
        sup_note(&t->result, reason != NULL && reason[0] != '\0' ? reason : "cancelled");
    }
    if (t->phase != SUP_INTENT) {
        start_kill(c, t);
    }
}

static void on_cancel(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = sup_core_find(c, e->id, e->attempt);
    if (t == NULL) {
        refuse(c, e->id, e->attempt, "cancel: no such task");
        return;
    }
    cancel(c, t, e->text);
}

// ---- start -----------------------------------------------------------------

static void on_run(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = sup_core_find(c, e->id, e->attempt);
    if (t != NULL) {
        t->epoch = e->epoch > t->epoch ? e->epoch : t->epoch;
        if (t->phase != SUP_INTENT) {
            sup_push(c, SUP_DO_REPORT, t);
        }
        return;
    }
    const char *why_not = e->text;
    if (c->stopping) {
        why_not = "the agent is stopping";
    } else if (why_not == NULL && c->running >= c->limits.tasks_max) {
        why_not = "too many tasks are running";
    }
    t = why_not == NULL ? add_task(c, e->id, e->attempt) : NULL;
    if (t == NULL) {
        refuse(c, e->id, e->attempt, why_not != NULL ? why_not : "out of memory");
        return;
    }
    t->epoch = e->epoch;
    memcpy(t->digest, e->digest, sizeof t->digest);
    t->timeout_ms = e->timeout_ms;
    t->grace_ms = e->grace_ms != 0 ? e->grace_ms : c->limits.kill_grace_ms;
    t->phase = SUP_INTENT;
    c->running++;
    sup_push(c, SUP_DO_JOURNAL_INTENT, t);
}

static void on_intent_written(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    if (!e->flag) {
        c->running--;
        start_idling(c);
        refuse(c, t->id, t->attempt, e->text);
        discard(c, t);
        return;
    }
    t->started_wall_ms = c->wall;
    if (t->why == SUP_WHY_CANCEL) {
        end_unstarted(c, t);
        return;
    }
    t->phase = SUP_STARTING;
    sup_push(c, SUP_DO_SPAWN, t);
}

static void on_spawned(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    t->pid = e->pid;
    t->pid_start = e->pid_start;
    t->by_pid = true;
    LIST_INSERT_HEAD(&c->pids[pid_bucket_of(t->pid)], t, pid_bucket);
    if (t->timeout_ms > 0) {
        sup_set_timer(c, &t->timers.timeout_at, t->timeout_ms);
    }
    sup_push(c, SUP_DO_JOURNAL_STARTED, t);
}

static void on_exec_ok(struct sup_core *c, const struct sup_event *e) {
    if (e->task->phase == SUP_STARTING) {
        e->task->phase = SUP_RUNNING;
        sup_push(c, SUP_DO_REPORT, e->task);
    }
}

static void on_not_started(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    t->not_started = true;
    sup_note(&t->result, e->text);
    if (!e->flag) {
        end_unstarted(c, t);
    }
}

// ---- after the end ---------------------------------------------------------

static void on_forget(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = sup_core_find(c, e->id, e->attempt);
    if (t == NULL || t->phase != SUP_FINISHED) {
        return;
    }
    if (t->out[0].end == 0 && t->out[1].end == 0) {
        sup_spend(c, t);  // nothing to keep for a reader
        return;
    }
    t->phase = SUP_FORGOTTEN;
    sup_shelve(c, t);
    sup_set_timer(c, &t->timers.keep_at, c->limits.keep_ms);
    sup_push(c, SUP_DO_JOURNAL_FORGOTTEN, t);
    if (c->forgotten_count > SUP_FORGOTTEN_MAX) {
        sup_spend(c, TAILQ_FIRST(&c->forgotten));
    }
}

static void keep_expired(struct sup_core *c, struct sup_task *t) {
    if (t->phase == SUP_FORGOTTEN) {
        sup_spend(c, t);
        sup_resume_all(c);
        return;
    }
    discard(c, t);
}

static void limit_spent(struct sup_core *c) {
    while (c->spent_count > SUP_SPENT_MAX) {
        discard(c, TAILQ_FIRST(&c->spent));
    }
}

// ---- stop, recovery, time --------------------------------------------------

static void on_stop(struct sup_core *c, bool kill_tasks) {
    c->stopping = true;
    c->stop_kills = c->stop_kills || kill_tasks;
    struct sup_task *t;
    if (kill_tasks) {
        TAILQ_FOREACH(t, &c->tasks, order) {
            if (t->phase < SUP_RECORDING) {
                cancel(c, t, "the agent was stopped");
            }
        }
    }
}

static void recover_lost(struct sup_core *c, struct sup_task *t) {
    bool may_live = t->pid != 0;
    t->why = SUP_WHY_LOST;
    t->phase = SUP_DRAINING;
    t->exited = true;
    t->out[0].eof = t->out[1].eof = true;
    sup_note(&t->result, may_live ? "supervisor lost: its outcome is not known"
                                  : "supervisor lost: whether it started is not known");
    if (c->limits.leave_lost) {
        sup_maybe_record(c, t);
    } else {
        // Without a pid too: the fork may have come just before the end.
        start_kill(c, t);
    }
}

static void on_recover(struct sup_core *c) {
    struct sup_task *t;
    TAILQ_FOREACH(t, &c->tasks, order) {
        c->held += sup_held_by(t);
        if (t->phase < SUP_RECORDING) {
            c->running++;
            recover_lost(c, t);
        } else if (t->phase == SUP_FORGOTTEN) {
            sup_shelve(c, t);
            sup_set_timer(c, &t->timers.keep_at, c->limits.keep_ms);
        } else if (t->phase == SUP_SPENT) {
            sup_shelve(c, t);
            sup_set_timer(c, &t->timers.keep_at, c->limits.spent_ms);
        }
    }
    start_idling(c);
}

static void tick_task(struct sup_core *c, struct sup_task *t) {
    struct sup_timers *m = &t->timers;
    if (fires(c, &m->timeout_at) && !t->exited && t->why == SUP_WHY_NONE) {
        t->why = SUP_WHY_TIMEOUT;
        start_kill(c, t);
    }
    if (fires(c, &m->kill_at)) {
        kill_hard(c, t);
        m->scan_at = 0;
    }
    if (fires(c, &m->scan_at)) {
        look_again(c, t);
    }
    if (fires(c, &m->give_up_at)) {
        give_up(c, t);
    }
    if (fires(c, &m->drain_at)) {
        end_drain(c, t);
    }
    if (fires(c, &m->retry_at)) {
        if (t->phase == SUP_RECORDING) {
            sup_push(c, SUP_DO_JOURNAL_RESULT, t);
        } else {
            sup_retry_spool(c, t);
        }
    }
    if (fires(c, &m->keep_at)) {
        keep_expired(c, t);
    }
}

static void on_tick(struct sup_core *c) {
    if (c->next_tick == 0 || c->now < c->next_tick) {
        return;
    }
    struct sup_task *t;
    TAILQ_FOREACH(t, &c->tasks, order) {
        tick_task(c, t);
    }
    c->next_tick = find_next_tick(c);
}

void sup_core_set_link(struct sup_core *c, uint64_t now_ms, bool attached) {
    c->now = now_ms;
    c->link = attached;
    if (attached && !c->stop_kills && !c->exit_said) {
        c->stopping = false;  // the agent was only started again
    }
    start_idling(c);
}

static void maybe_exit(struct sup_core *c) {
    bool idle_long = idle(c) && c->now - c->idle_since >= c->limits.idle_exit_ms;
    if (c->exit_said || c->running > 0 || !(c->stopping || idle_long)) {
        return;
    }
    c->exit_said = true;
    sup_push(c, SUP_DO_EXIT, NULL);
}

static void dispatch(struct sup_core *c, const struct sup_event *e) {
    switch (e->type) {
        case SUP_EV_RUN:
            on_run(c, e);
            break;
        case SUP_EV_CANCEL:
            on_cancel(c, e);
            break;
        case SUP_EV_FORGET:
            on_forget(c, e);
            break;
        case SUP_EV_RELEASE:
            sup_on_release(c, e);
            break;
        case SUP_EV_STOP:
            on_stop(c, e->flag);
            break;
        case SUP_EV_RECOVER:
            on_recover(c);
            break;
        case SUP_EV_INTENT_WRITTEN:
            on_intent_written(c, e);
            break;
        case SUP_EV_SPAWNED:
            on_spawned(c, e);
            break;
        case SUP_EV_EXEC_OK:
            on_exec_ok(c, e);
            break;
        case SUP_EV_NOT_STARTED:
            on_not_started(c, e);
            break;
        case SUP_EV_EXITED:
            on_exited(c, e);
            break;
        case SUP_EV_READABLE:
            sup_on_readable(c, e);
            break;
        case SUP_EV_OUTPUT:
            sup_on_output(c, e);
            break;
        case SUP_EV_EOF:
            on_eof(c, e);
            break;
        case SUP_EV_SPOOL_FAILED:
            sup_on_spool_failed(c, e);
            break;
        case SUP_EV_TREE:
            on_tree(c, e);
            break;
        case SUP_EV_RESULT_WRITTEN:
            on_result_written(c, e);
            break;
        case SUP_EV_TICK:
            on_tick(c);
            break;
    }
}

void sup_core_step(struct sup_core *c, uint64_t now_ms, uint64_t wall_ms,
                   const struct sup_event *e) {
    c->now = now_ms;
    c->wall = wall_ms;
    dispatch(c, e);
    limit_spent(c);
    maybe_exit(c);
}

size_t sup_core_running(const struct sup_core *c) {
    return c->running;
}

size_t sup_core_count(const struct sup_core *c) {
    return c->count;
}

uint64_t sup_core_held_bytes(const struct sup_core *c) {
    return c->held;
}

bool sup_core_stopping(const struct sup_core *c) {
    return c->stopping;
}

const char *sup_phase_name(enum sup_phase phase) {
    static const char *const names[] = {"intent",    "starting", "running",   "draining",
                                        "recording", "finished", "forgotten", "spent"};
    return names[phase];
}

const char *sup_action_name(enum sup_action_type type) {
    static const char *const names[] = {"journal-intent",
                                        "refuse",
                                        "spawn",
                                        "journal-started",
                                        "report",
                                        "signal",
                                        "scan",
                                        "read",
                                        "read-last",
                                        "pause",
                                        "resume",
                                        "retry",
                                        "cut",
                                        "drop",
                                        "close-output",
                                        "journal-result",
                                        "journal-forgotten",
                                        "delete-spool",
                                        "free",
                                        "exit"};
    return names[type];
}
