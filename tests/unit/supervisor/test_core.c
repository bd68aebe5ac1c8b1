// The supervisor's decisions without processes: golden transcripts. A step is an event; what
// follows it is what the core wants done. Times are monotonic ms.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>

#include "agent/supervisor/core.h"
#include "common/base/buf.h"
#include "common/base/err.h"

struct machine {
    struct sup_core *core;
    struct nl_buf said;
    uint64_t now;
};

static struct sup_limits limits(void) {
    return (struct sup_limits){.kill_grace_ms = 1000,
                               .drain_ms = 200,
                               .task_bytes_max = 100,
                               .total_bytes_max = 250,
                               .keep_ms = 5000,
                               .spent_ms = 50000,
                               .stuck_ms = 3000,
                               .tasks_max = 3};
}

static void open_with(struct machine *m, const struct sup_limits *l) {
    memset(m, 0, sizeof *m);
    m->now = 1000;
    nl_buf_init(&m->said, 0);
    assert_int_equal(sup_core_new(l, &m->core), NL_OK);
}

static int setup(void **state) {
    struct machine *m = malloc(sizeof *m);
    struct sup_limits l = limits();
    open_with(m, &l);
    *state = m;
    return 0;
}

static int teardown(void **state) {
    struct machine *m = *state;
    sup_core_free(m->core);
    nl_buf_close(&m->said);
    free(m);
    return 0;
}

// "read(t.1 out 64)" and the like, one word per action.
static void say(struct machine *m, const struct sup_action *a) {
    static const char *const streams[] = {"out", "err"};
    const char *name = sup_action_name(a->type);
    struct nl_buf *b = &m->said;
    nl_buf_printf(b, "%s%s", b->len > 0 ? " " : "", name);
    switch (a->type) {
        case SUP_DO_REFUSE:
            nl_buf_printf(b, "(%s.%u: %s)", a->id, a->attempt, a->text);
            break;
        case SUP_DO_SIGNAL:
            nl_buf_printf(b, "(%s %s)", a->task->key, a->arg == SIGKILL ? "KILL" : "TERM");
            break;
        case SUP_DO_READ:
            nl_buf_printf(b, "(%s %s %u)", a->task->key, streams[a->stream], (unsigned)a->arg);
            break;
        case SUP_DO_READ_LAST:
        case SUP_DO_PAUSE:
        case SUP_DO_RESUME:
        case SUP_DO_RETRY:
        case SUP_DO_CUT:
            nl_buf_printf(b, "(%s %s)", a->task->key, streams[a->stream]);
            break;
        case SUP_DO_DROP:
            nl_buf_printf(b, "(%s %u %u)", a->task->key, (unsigned)a->task->out[0].base,
                          (unsigned)a->task->out[1].base);
            break;
        case SUP_DO_EXIT:
            break;
        default:
            nl_buf_printf(b, "(%s)", a->task->key);
    }
    if (a->type == SUP_DO_FREE) {
        sup_core_free_task(m->core, a->task);
    }
}

static void expect(struct machine *m, const struct sup_event *e, const char *want) {
    struct sup_action a;
    nl_buf_clear(&m->said);
    sup_core_step(m->core, m->now, 1700000000000u + m->now, e);
    while (sup_core_next(m->core, &a)) {
        say(m, &a);
    }
    assert_int_equal(nl_buf_append(&m->said, "", 1), NL_OK);
    assert_string_equal((char *)m->said.data, want);
}

#define EXPECT(m, want, ...) expect(m, &(struct sup_event){__VA_ARGS__}, want)

static void tick_at(struct machine *m, uint64_t now, const char *want) {
    m->now = now;
    EXPECT(m, want, .type = SUP_EV_TICK);
}

static struct sup_task *run(struct machine *m, const char *id, uint64_t timeout_ms) {
    static const uint8_t digest[NL_SHA256_LEN];
    char want[80];
    snprintf(want, sizeof want, "journal-intent(%s.1)", id);
    EXPECT(m, want, .type = SUP_EV_RUN, .id = id, .attempt = 1, .digest = digest,
           .timeout_ms = timeout_ms);
    return sup_core_find(m->core, id, 1);
}

static struct sup_task *start(struct machine *m, const char *id, uint64_t timeout_ms) {
    struct sup_task *t = run(m, id, timeout_ms);
    char want[80];
    snprintf(want, sizeof want, "spawn(%s.1)", id);
    EXPECT(m, want, .type = SUP_EV_INTENT_WRITTEN, .task = t, .flag = true);
    snprintf(want, sizeof want, "journal-started(%s.1)", id);
    EXPECT(m, want, .type = SUP_EV_SPAWNED, .task = t, .pid = 77, .pid_start = 5);
    snprintf(want, sizeof want, "report(%s.1)", id);
    EXPECT(m, want, .type = SUP_EV_EXEC_OK, .task = t);
    return t;
}

static void finish(struct machine *m, struct sup_task *t) {
    char want[400];
    EXPECT(m, "", .type = SUP_EV_EXITED, .task = t, .wait_status = 0);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    snprintf(want, sizeof want, "close-output(%s) journal-result(%s)", t->key, t->key);
    EXPECT(m, want, .type = SUP_EV_EOF, .task = t, .stream = 1);
    snprintf(want, sizeof want, "report(%s)", t->key);
    EXPECT(m, want, .type = SUP_EV_RESULT_WRITTEN, .task = t, .flag = true);
}

static void life_of_a_task(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    assert_int_equal(sup_core_running(m->core), 1);
    EXPECT(m, "read(t.1 out 100)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 0, .bytes = 30);
    finish(m, t);
    assert_int_equal(t->result.kind, SUP_KIND_EXITED);
    assert_int_equal(sup_core_running(m->core), 0);
    assert_int_equal(sup_core_held_bytes(m->core), 30);
    EXPECT(m, "report(t.1)", .type = SUP_EV_CANCEL, .id = "t", .attempt = 1);  // too late
    assert_int_equal(t->result.kind, SUP_KIND_EXITED);
    EXPECT(m, "journal-forgotten(t.1)", .type = SUP_EV_FORGET, .id = "t", .attempt = 1);
    EXPECT(m, "", .type = SUP_EV_FORGET, .id = "t", .attempt = 1);
    tick_at(m, 5999, "");
    assert_int_equal(sup_core_deadline(m->core), 6000);
    tick_at(m, 6000, "delete-spool(t.1)");
    assert_int_equal(sup_core_held_bytes(m->core), 0);
    EXPECT(m, "report(t.1)", .type = SUP_EV_RUN, .id = "t", .attempt = 1);  // not again
    tick_at(m, 56000, "free(t.1)");
    assert_int_equal(sup_core_count(m->core), 0);
    assert_int_equal(sup_core_deadline(m->core), 0);
}

// There is nothing to keep for a reader, but a late duplicate is still not started.
static void silent_task_is_spent_at_once(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    finish(m, t);
    EXPECT(m, "delete-spool(t.1)", .type = SUP_EV_FORGET, .id = "t", .attempt = 1);
    EXPECT(m, "", .type = SUP_EV_FORGET, .id = "t", .attempt = 1);
    EXPECT(m, "report(t.1)", .type = SUP_EV_RUN, .id = "t", .attempt = 1);
    tick_at(m, 50999, "");
    tick_at(m, 51000, "free(t.1)");
    assert_int_equal(sup_core_count(m->core), 0);
}

static void finds_the_task_of_a_process(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    assert_ptr_equal(sup_core_find_pid(m->core, 77), t);
    assert_null(sup_core_find_pid(m->core, 77 + 1024));
    finish(m, t);
    assert_null(sup_core_find_pid(m->core, 77));  // the number may be given again
    struct sup_task *other = start(m, "other", 0);
    assert_ptr_equal(sup_core_find_pid(m->core, 77), other);
}

static void keeps_so_many_outputs(void **state) {
    struct machine *m = *state;
    struct sup_limits l = limits();
    sup_core_free(m->core);
    nl_buf_close(&m->said);
    l.total_bytes_max = 10 * SUP_FORGOTTEN_MAX;
    open_with(m, &l);
    for (unsigned i = 0; i < SUP_FORGOTTEN_MAX; i++) {
        struct sup_task *t;
        char id[20];
        snprintf(id, sizeof id, "f%u", i);
        assert_int_equal(sup_core_restore(m->core, id, 1, &t), NL_OK);
        t->phase = SUP_FORGOTTEN;
        t->out[0].end = 1;
    }
    EXPECT(m, "", .type = SUP_EV_RECOVER);
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "read(t.1 out 100)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 0, .bytes = 1);
    finish(m, t);
    EXPECT(m, "journal-forgotten(t.1) delete-spool(f0.1)", .type = SUP_EV_FORGET, .id = "t",
           .attempt = 1);
}

static void nothing_starts_without_a_durable_intent(void **state) {
    struct machine *m = *state;
    struct sup_task *t = run(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_RUN, .id = "t", .attempt = 1);  // a duplicate meanwhile
    EXPECT(m, "refuse(t.1: disk) free(t.1)", .type = SUP_EV_INTENT_WRITTEN, .task = t,
           .flag = false, .text = "disk");
    assert_int_equal(sup_core_running(m->core), 0);
    start(m, "t", 0);  // asked again, it may
}

static void result_is_told_when_durable(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_EXITED, .task = t);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    EXPECT(m, "close-output(t.1) journal-result(t.1)", .type = SUP_EV_EOF, .task = t, .stream = 1);
    EXPECT(m, "", .type = SUP_EV_RESULT_WRITTEN, .task = t, .flag = false);
    EXPECT(m, "", .type = SUP_EV_FORGET, .id = "t", .attempt = 1);  // of what was not told
    tick_at(m, 1999, "");
    tick_at(m, 2000, "journal-result(t.1)");
    EXPECT(m, "report(t.1)", .type = SUP_EV_RESULT_WRITTEN, .task = t, .flag = true);
}

static void cancel_before_the_start(void **state) {
    struct machine *m = *state;
    struct sup_task *t = run(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_CANCEL, .id = "t", .attempt = 1, .text = "why");
    EXPECT(m, "close-output(t.1) journal-result(t.1)", .type = SUP_EV_INTENT_WRITTEN, .task = t,
           .flag = true);
    assert_int_equal(t->result.kind, SUP_KIND_CANCELLED);
    assert_string_equal(t->result.reason, "why");
}

static void cancel_term_grace_kill(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "signal(t.1 TERM)", .type = SUP_EV_CANCEL, .id = "t", .attempt = 1);
    EXPECT(m, "", .type = SUP_EV_TREE, .task = t, .bytes = 3);
    EXPECT(m, "", .type = SUP_EV_CANCEL, .id = "t", .attempt = 1);
    tick_at(m, 1999, "");
    EXPECT(m, "scan(t.1)", .type = SUP_EV_EXITED, .task = t, .wait_status = SIGTERM);
    EXPECT(m, "", .type = SUP_EV_TREE, .task = t, .bytes = 2);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 1);  // the tree is not gone
    tick_at(m, 2000, "signal(t.1 KILL)");
    EXPECT(m, "", .type = SUP_EV_TREE, .task = t, .bytes = 2);
    tick_at(m, 2050, "signal(t.1 KILL)");
    EXPECT(m, "close-output(t.1) journal-result(t.1)", .type = SUP_EV_TREE, .task = t, .bytes = 0);
    assert_int_equal(t->result.kind, SUP_KIND_CANCELLED);
    assert_int_equal(t->result.signal, SIGTERM);
}

static void what_can_not_be_killed(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "signal(t.1 TERM)", .type = SUP_EV_CANCEL, .id = "t", .attempt = 1);
    EXPECT(m, "scan(t.1)", .type = SUP_EV_EXITED, .task = t, .wait_status = SIGTERM);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 1);
    tick_at(m, 2000, "signal(t.1 KILL)");
    EXPECT(m, "", .type = SUP_EV_TREE, .task = t, .bytes = 1);
    tick_at(m, 62000, "signal(t.1 KILL) close-output(t.1) journal-result(t.1)");
    assert_non_null(strstr(t->result.reason, "could not be killed"));
}

// The end came first: the cancel takes down what is left and changes nothing else.
static void cancel_while_draining(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_EXITED, .task = t, .wait_status = 3 << 8);
    EXPECT(m, "signal(t.1 TERM)", .type = SUP_EV_CANCEL, .id = "t", .attempt = 1);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 1);
    EXPECT(m, "close-output(t.1) journal-result(t.1)", .type = SUP_EV_TREE, .task = t, .bytes = 0);
    assert_int_equal(t->result.kind, SUP_KIND_EXITED);
    assert_int_equal(t->result.exit_code, 3);
}

static void timeout(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 500);
    tick_at(m, 1499, "");
    tick_at(m, 1500, "signal(t.1 TERM)");
    EXPECT(m, "", .type = SUP_EV_CANCEL, .id = "t", .attempt = 1);  // the timeout was first
    EXPECT(m, "scan(t.1)", .type = SUP_EV_EXITED, .task = t, .wait_status = SIGTERM);
    EXPECT(m, "", .type = SUP_EV_TREE, .task = t, .bytes = 0);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    EXPECT(m, "close-output(t.1) journal-result(t.1)", .type = SUP_EV_EOF, .task = t, .stream = 1);
    assert_int_equal(t->result.kind, SUP_KIND_TIMED_OUT);
}

static void not_started(void **state) {
    struct machine *m = *state;
    struct sup_task *t = run(m, "a", 0);
    EXPECT(m, "spawn(a.1)", .type = SUP_EV_INTENT_WRITTEN, .task = t, .flag = true);
    EXPECT(m, "close-output(a.1) journal-result(a.1)", .type = SUP_EV_NOT_STARTED, .task = t,
           .text = "no process");
    assert_int_equal(t->result.kind, SUP_KIND_NOT_STARTED);
    t = run(m, "b", 0);
    EXPECT(m, "spawn(b.1)", .type = SUP_EV_INTENT_WRITTEN, .task = t, .flag = true);
    EXPECT(m, "journal-started(b.1)", .type = SUP_EV_SPAWNED, .task = t, .pid = 9);
    EXPECT(m, "", .type = SUP_EV_NOT_STARTED, .task = t, .text = "no program", .flag = true);
    EXPECT(m, "", .type = SUP_EV_EXITED, .task = t, .wait_status = 127 << 8);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    EXPECT(m, "close-output(b.1) journal-result(b.1)", .type = SUP_EV_EOF, .task = t, .stream = 1);
    assert_int_equal(t->result.kind, SUP_KIND_NOT_STARTED);
    assert_int_equal(t->result.exit_code, 0);
    assert_string_equal(t->result.reason, "no program");
}

static void drain_is_bounded(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_EXITED, .task = t);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 1);
    tick_at(m, 1200, "read-last(t.1 out)");
    EXPECT(m, "close-output(t.1) journal-result(t.1)", .type = SUP_EV_EOF, .task = t, .stream = 0);
}

// A task over its bound is slowed; it goes on when its readers have caught up.
static void bound_slows(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 0, .bytes = 60);
    EXPECT(m, "read(t.1 err 40)", .type = SUP_EV_READABLE, .task = t, .stream = 1);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 1, .bytes = 40);
    EXPECT(m, "pause(t.1 out)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
    EXPECT(m, "pause(t.1 err)", .type = SUP_EV_READABLE, .task = t, .stream = 1);
    EXPECT(m, "resume(t.1 out) resume(t.1 err)", .type = SUP_EV_RELEASE, .id = "t", .attempt = 1,
           .offsets = {20, 0});
    EXPECT(m, "drop(t.1 20 0) read(t.1 out 20)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 0, .bytes = 20);
    EXPECT(m, "pause(t.1 out)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
    // Its end is not held up by the bound: what the pipe holds is read beyond it.
    EXPECT(m, "resume(t.1 out)", .type = SUP_EV_EXITED, .task = t);
    EXPECT(m, "read(t.1 out 65536)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
}

// Only what readers have had may go: the rest waits for one, unless asked otherwise.
static void nobody_reads(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 0, .bytes = 100);
    EXPECT(m, "", .type = SUP_EV_RELEASE, .id = "t", .attempt = 1, .flag = true);
    EXPECT(m, "pause(t.1 out)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
    EXPECT(m, "resume(t.1 out)", .type = SUP_EV_RELEASE, .id = "t", .attempt = 1, .flag = true,
           .offsets = {30, 0});
    EXPECT(m, "drop(t.1 30 0) read(t.1 out 30)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
}

static void unread_may_be_dropped(void **state) {
    struct machine *m = *state;
    struct sup_limits l = limits();
    l.drop_unread = true;
    sup_core_free(m->core);
    nl_buf_close(&m->said);
    open_with(m, &l);
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_RELEASE, .id = "t", .attempt = 1, .flag = true);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 0, .bytes = 100);
    EXPECT(m, "drop(t.1 100 0) read(t.1 out 100)", .type = SUP_EV_READABLE, .task = t, .stream = 0);
    assert_int_equal(t->out[0].base, 100);
    assert_int_equal(t->out[0].end, 100);
}

// The bound of all: old spools for late readers go first, then others' delivered bytes.
static void total_bound(void **state) {
    struct machine *m = *state;
    struct sup_task *a = start(m, "a", 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = a, .stream = 0, .bytes = 90);
    finish(m, a);
    EXPECT(m, "journal-forgotten(a.1)", .type = SUP_EV_FORGET, .id = "a", .attempt = 1);
    struct sup_task *b = start(m, "b", 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = b, .stream = 0, .bytes = 90);
    struct sup_task *c = start(m, "c", 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = c, .stream = 0, .bytes = 70);
    EXPECT(m, "delete-spool(a.1) read(c.1 out 30)", .type = SUP_EV_READABLE, .task = c,
           .stream = 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = c, .stream = 0, .bytes = 30);
    struct sup_task *d = start(m, "d", 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = d, .stream = 0, .bytes = 60);
    EXPECT(m, "pause(d.1 out)", .type = SUP_EV_READABLE, .task = d, .stream = 0);
    EXPECT(m, "resume(d.1 out)", .type = SUP_EV_RELEASE, .id = "b", .attempt = 1,
           .offsets = {50, 0});
    EXPECT(m, "drop(b.1 50 0) read(d.1 out 40)", .type = SUP_EV_READABLE, .task = d, .stream = 0);
}

static void spool_fails_and_recovers(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "pause(t.1 out)", .type = SUP_EV_SPOOL_FAILED, .task = t, .stream = 0, .text = "x");
    tick_at(m, 1250, "retry(t.1 out)");
    EXPECT(m, "", .type = SUP_EV_SPOOL_FAILED, .task = t, .stream = 0, .text = "x");
    tick_at(m, 1500, "retry(t.1 out)");
    EXPECT(m, "resume(t.1 out)", .type = SUP_EV_OUTPUT, .task = t, .stream = 0, .bytes = 9);
    finish(m, t);
    assert_string_equal(t->result.reason, "");
}

static void spool_fails_for_good(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_OUTPUT, .task = t, .stream = 1, .bytes = 12);
    EXPECT(m, "pause(t.1 err)", .type = SUP_EV_SPOOL_FAILED, .task = t, .stream = 1,
           .text = "No space");
    tick_at(m, 3900, "retry(t.1 err)");
    m->now = 4000;
    EXPECT(m, "cut(t.1 err) resume(t.1 err)", .type = SUP_EV_SPOOL_FAILED, .task = t, .stream = 1,
           .text = "No space");
    EXPECT(m, "read(t.1 err 65536)", .type = SUP_EV_READABLE, .task = t, .stream = 1);
    finish(m, t);
    assert_int_equal(t->result.kind, SUP_KIND_EXITED);  // the task was not killed
    assert_string_equal(t->result.reason, "stderr cut at byte 12: No space");
}

static struct sup_task *restored(struct machine *m, const char *id, enum sup_phase phase,
                                 int32_t pid) {
    struct sup_task *t = NULL;
    assert_int_equal(sup_core_restore(m->core, id, 1, &t), NL_OK);
    t->phase = phase;
    t->pid = pid;
    t->grace_ms = 100;
    return t;
}

static void recovery(void **state) {
    struct machine *m = *state;
    struct sup_task *started = restored(m, "started", SUP_RUNNING, 44);
    struct sup_task *intent = restored(m, "intent", SUP_INTENT, 0);
    restored(m, "done", SUP_FINISHED, 45);
    restored(m, "old", SUP_FORGOTTEN, 46);
    struct sup_task *none = NULL;
    assert_int_equal(sup_core_restore(m->core, "done", 1, &none), NL_EEXIST);
    assert_int_equal(sup_core_restore(m->core, "../x", 1, &none), NL_EINVAL);
    EXPECT(m, "signal(started.1 TERM) signal(intent.1 TERM)", .type = SUP_EV_RECOVER);
    assert_int_equal(sup_core_running(m->core), 2);
    EXPECT(m, "report(started.1)", .type = SUP_EV_RUN, .id = "started", .attempt = 1);
    EXPECT(m, "close-output(intent.1) journal-result(intent.1)", .type = SUP_EV_TREE,
           .task = intent, .bytes = 0);
    assert_int_equal(intent->result.kind, SUP_KIND_LOST);
    assert_non_null(strstr(intent->result.reason, "whether it started is not known"));
    EXPECT(m, "", .type = SUP_EV_TREE, .task = started, .bytes = 1);
    tick_at(m, 1050, "scan(started.1)");
    EXPECT(m, "", .type = SUP_EV_TREE, .task = started, .bytes = 1);
    tick_at(m, 1100, "signal(started.1 KILL)");
    EXPECT(m, "close-output(started.1) journal-result(started.1)", .type = SUP_EV_TREE,
           .task = started, .bytes = 0);
    assert_int_equal(started->result.kind, SUP_KIND_LOST);
    tick_at(m, 6000, "delete-spool(old.1)");
}

static void stop_kindly_and_not(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_STOP);
    EXPECT(m, "refuse(u.1: the agent is stopping)", .type = SUP_EV_RUN, .id = "u", .attempt = 1);
    EXPECT(m, "signal(t.1 TERM)", .type = SUP_EV_STOP, .flag = true);
    EXPECT(m, "scan(t.1)", .type = SUP_EV_EXITED, .task = t, .wait_status = SIGTERM);
    EXPECT(m, "", .type = SUP_EV_TREE, .task = t, .bytes = 0);
    EXPECT(m, "", .type = SUP_EV_EOF, .task = t, .stream = 0);
    EXPECT(m, "close-output(t.1) journal-result(t.1)", .type = SUP_EV_EOF, .task = t, .stream = 1);
    EXPECT(m, "report(t.1) exit", .type = SUP_EV_RESULT_WRITTEN, .task = t, .flag = true);
}

// A link that attaches after a kind stop means that the agent was only started again.
static void stop_is_taken_back(void **state) {
    struct machine *m = *state;
    struct sup_task *t = start(m, "t", 0);
    EXPECT(m, "", .type = SUP_EV_STOP);
    sup_core_set_link(m->core, m->now, true);
    start(m, "u", 0);
    finish(m, t);
    EXPECT(m, "signal(u.1 TERM)", .type = SUP_EV_STOP, .flag = true);
    sup_core_set_link(m->core, m->now, true);
    EXPECT(m, "refuse(v.1: the agent is stopping)", .type = SUP_EV_RUN, .id = "v", .attempt = 1);
}

static void idle_exit(void **state) {
    struct machine *m = *state;
    struct sup_limits l = limits();
    sup_core_free(m->core);
    nl_buf_close(&m->said);
    l.idle_exit_ms = 700;
    open_with(m, &l);
    EXPECT(m, "", .type = SUP_EV_RECOVER);
    sup_core_set_link(m->core, 1100, true);
    tick_at(m, 5000, "");
    sup_core_set_link(m->core, 5000, false);
    assert_int_equal(sup_core_deadline(m->core), 5700);
    m->now = 5100;
    struct sup_task *t = start(m, "t", 0);
    tick_at(m, 9000, "");
    finish(m, t);
    tick_at(m, 9699, "");
    tick_at(m, 9700, "exit");
}

static void limits_on_tasks(void **state) {
    struct machine *m = *state;
    run(m, "a", 0);
    run(m, "b", 0);
    run(m, "c", 0);
    EXPECT(m, "refuse(d.1: too many tasks are running)", .type = SUP_EV_RUN, .id = "d",
           .attempt = 1);
    EXPECT(m, "refuse(e.1: the disk)", .type = SUP_EV_RUN, .id = "e", .attempt = 1,
           .text = "the disk");
    EXPECT(m, "refuse(z.1: cancel: no such task)", .type = SUP_EV_CANCEL, .id = "z", .attempt = 1);
    EXPECT(m, "", .type = SUP_EV_FORGET, .id = "z", .attempt = 1);
    EXPECT(m, "", .type = SUP_EV_RELEASE, .id = "z", .attempt = 1);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(life_of_a_task),
        TEST(silent_task_is_spent_at_once),
        TEST(finds_the_task_of_a_process),
        TEST(keeps_so_many_outputs),
        TEST(nothing_starts_without_a_durable_intent),
        TEST(result_is_told_when_durable),
        TEST(cancel_before_the_start),
        TEST(cancel_term_grace_kill),
        TEST(what_can_not_be_killed),
        TEST(cancel_while_draining),
        TEST(timeout),
        TEST(not_started),
        TEST(drain_is_bounded),
        TEST(bound_slows),
        TEST(nobody_reads),
        TEST(unread_may_be_dropped),
        TEST(total_bound),
        TEST(spool_fails_and_recovers),
        TEST(spool_fails_for_good),
        TEST(recovery),
        TEST(stop_kindly_and_not),
        TEST(stop_is_taken_back),
        TEST(idle_exit),
        TEST(limits_on_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
