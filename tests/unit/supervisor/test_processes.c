// Real processes under a real supervisor: P2 (at most one start), P5 (byte-exact output with
// totals and SHA-256), P6 (cancel takes the whole tree down).
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "tests/unit/supervisor/harness.h"

#define KIND(name) NODELINK__V1__TASK_RESULT__KIND__##name

static int setup(void **state) {
    struct harness *h = malloc(sizeof *h);
    harness_open(h);
    *state = h;
    return 0;
}

static int setup_started(void **state) {
    setup(state);
    harness_start(*state);
    return 0;
}

static int teardown(void **state) {
    harness_close(*state);
    free(*state);
    return 0;
}

static void assert_digest(const ProtobufCBinaryData *got, const void *data, size_t len) {
    uint8_t want[NL_SHA256_LEN];
    nl_sha256_of(data, len, want);
    assert_int_equal(got->len, sizeof want);
    assert_memory_equal(got->data, want, sizeof want);
}

static void exit_codes(void **state) {
    struct harness *h = *state;
    static const struct {
        const char *id, *cmd;
        Nodelink__V1__TaskResult__Kind kind;
        int code, signal;
    } cases[] = {
        {"true", "true", KIND(EXITED), 0, 0},
        {"seven", "exit 7", KIND(EXITED), 7, 0},
        {"max", "exit 255", KIND(EXITED), 255, 0},
        {"term", "kill -TERM $$", KIND(SIGNALLED), 0, SIGTERM},
        {"segv", "kill -SEGV $$", KIND(SIGNALLED), 0, SIGSEGV},
        {"killed", "kill -KILL $$", KIND(SIGNALLED), 0, SIGKILL},
        {"unknown", "no-such-program-here", KIND(EXITED), 127, 0},  // the shell's own answer
        {"notexec", "/etc", KIND(EXITED), 126, 0},
    };
    size_t n = sizeof cases / sizeof cases[0];
    for (size_t i = 0; i < n; i++) {
        harness_shell(h, cases[i].id, cases[i].cmd);
    }
    for (size_t i = 0; i < n; i++) {
        const Nodelink__V1__TaskResult *r = harness_finished(h, cases[i].id);
        assert_int_equal(r->kind, cases[i].kind);
        assert_int_equal(r->exit_code, cases[i].code);
        assert_int_equal(r->signal, cases[i].signal);
        assert_true(r->finished_ms >= r->started_ms && r->started_ms > 0);
    }
}

static void output_and_usage(void **state) {
    struct harness *h = *state;
    harness_shell(h, "out",
                  "printf 'to out'; printf 'to err' >&2; i=0; "
                  "while [ $i -lt 20000 ]; do i=$((i+1)); done");
    const Nodelink__V1__TaskResult *r = harness_finished(h, "out");
    harness_assert_output(h, "out", "stdout", "to out");
    harness_assert_output(h, "out", "stderr", "to err");
    assert_int_equal(r->stdout_bytes, 6);
    assert_int_equal(r->stderr_bytes, 6);
    assert_digest(&r->stdout_sha256, "to out", 6);
    assert_digest(&r->stderr_sha256, "to err", 6);
    assert_true(r->user_us + r->system_us > 0);
    assert_true(r->max_rss_kb > 0);
    assert_int_equal(harness_seen(h, "out")->end[0], 6);
    assert_string_equal(harness_seen(h, "out")->task->spool_dir, "spool/out.1");
    assert_int_equal(harness_seen(h, "out")->task->epoch, 7);
}

static void argv_as_it_is(void **state) {
    struct harness *h = *state;
    char *argv[] = {"printf", "%s|", "two words", "$HOME", "it's", "*", "", NULL};
    harness_run(h, &(struct run){.id = "argv", .argv = argv, .cmd = "for display"});
    assert_int_equal(harness_finished(h, "argv")->exit_code, 0);
    harness_assert_output(h, "argv", "stdout", "two words|$HOME|it's|*||");
}

static void environment(void **state) {
    struct harness *h = *state;
    char *env[] = {"A=1", "B=x y", "A=2", "EMPTY=", "NODELINK_TASK_ID=forged", NULL};
    harness_run(h, &(struct run){.id = "env",
                                 .env = env,
                                 .cmd = "echo \"$A|$B|$EMPTY|$NODELINK_TASK_ID|"
                                        "$NODELINK_ATTEMPT|$NODELINK_AGENT_ID|$NL_SECRET\"; "
                                        "[ -n \"$PATH\" ] && [ -n \"$HOME\" ]"});
    assert_int_equal(harness_finished(h, "env")->exit_code, 0);
    char want[120];
    snprintf(want, sizeof want, "2|x y||env|1|%s|\n", h->agent_id);
    harness_assert_output(h, "env", "stdout", want);
}

// stdin is empty, no descriptor but 0, 1, 2, default signals, a session of its own.
static void clean_process(void **state) {
    struct harness *h = *state;
    harness_run(h, &(struct run){.id = "clean",
                                 .working_dir = "/usr",
                                 .cmd = "cat; pwd; i=0; while [ $i -lt 64 ]; do "
                                        "[ -e /proc/$$/fd/$i ] && printf \"$i \"; "
                                        "i=$((i+1)); done; echo; "
                                        "grep -E 'Sig(Blk|Ign)' /proc/$$/status | cut -f2; "
                                        "cut -d' ' -f5,6 /proc/$$/stat | grep -c \"^$$ $$\"; "
                                        "umask; echo $$"});
    assert_int_equal(harness_finished(h, "clean")->exit_code, 0);
    char want[512];
    mode_t mask = umask(0);
    umask(mask);
    snprintf(want, sizeof want, "/usr\n0 1 2 \n0000000000000000\n0000000000000000\n1\n%04o\n%d\n",
             (unsigned)mask, harness_seen(h, "clean")->task->pid);
    harness_assert_output(h, "clean", "stdout", want);
}

static void not_started(void **state) {
    struct harness *h = *state;
    char *missing[] = {"/no/such/program", NULL}, *in_path[] = {"no-such-program", NULL};
    char *no_permission[] = {"/etc/passwd", NULL}, *echo[] = {"echo", "hi", NULL};
    harness_run(h, &(struct run){.id = "dir", .cmd = "true", .working_dir = "/no/such/dir"});
    harness_run(h, &(struct run){.id = "missing", .argv = missing});
    harness_run(h, &(struct run){.id = "path", .argv = in_path});
    harness_run(h, &(struct run){.id = "perm", .argv = no_permission});
    harness_run(h, &(struct run){.id = "good", .argv = echo});
    static const struct {
        const char *id, *reason;
    } cases[] = {{"dir", "working directory '/no/such/dir': No such file or directory"},
                 {"missing", "program '/no/such/program': No such file or directory"},
                 {"path", "program 'no-such-program': No such file or directory"},
                 {"perm", "program '/etc/passwd': Permission denied"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const Nodelink__V1__TaskResult *r = harness_finished(h, cases[i].id);
        assert_int_equal(r->kind, KIND(NOT_STARTED));
        assert_string_equal(r->reason, cases[i].reason);
        assert_int_equal(r->exit_code, 0);
    }
    assert_int_equal(harness_finished(h, "good")->kind, KIND(EXITED));
}

static void refused(void **state) {
    struct harness *h = *state;
    char *bad_env[] = {"=x", NULL};
    harness_run(h, &(struct run){.id = "nothing"});
    assert_non_null(strstr(harness_refused(h, "nothing"), "no command"));
    harness_run(h, &(struct run){.id = "env", .cmd = "true", .env = bad_env});
    assert_non_null(strstr(harness_refused(h, "env"), "KEY=VALUE"));
    harness_cancel(h, "stranger", "");
    assert_non_null(strstr(harness_refused(h, "stranger"), "no such task"));
    static const char *const ids[] = {"../../etc/x", "", ".hidden", "a b", "-rf"};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        harness_shell(h, ids[i], "true");
        assert_non_null(strstr(harness_refused(h, ids[i]), "malformed"));
    }
}

static void disk_nearly_full(void **state) {
    struct harness *h = *state;
    h->options.disk_free_bytes_min = UINT64_MAX;
    harness_start(h);
    harness_shell(h, "full", "true");
    assert_non_null(strstr(harness_refused(h, "full"), "disk is full"));
}

static void too_many_tasks(void **state) {
    struct harness *h = *state;
    h->options.tasks_max = 2;
    harness_start(h);
    harness_shell(h, "a", "sleep 100");
    harness_shell(h, "b", "sleep 100");
    harness_shell(h, "c", "true");
    assert_non_null(strstr(harness_refused(h, "c"), "too many"));
    harness_cancel(h, "a", "");
    harness_finished(h, "a");
    harness_shell(h, "d", "true");
    harness_finished(h, "d");
}

// 50 MB of pseudo-random bytes, NULs and all.
static void binary_output(void **state) {
    struct harness *h = *state;
    char env[300];
    snprintf(env, sizeof env, "COPY=%s", harness_path(h, "copy"));
    char *list[] = {env, NULL};
    harness_run(h, &(struct run){.id = "bytes",
                                 .env = list,
                                 .cmd = "head -c 50000000 /dev/urandom > $COPY; cat $COPY"});
    const Nodelink__V1__TaskResult *r = harness_finished(h, "bytes");
    assert_int_equal(r->stdout_bytes, 50000000);
    size_t got_len = 0, want_len = 0;
    char *got = harness_output(h, "bytes", "stdout", &got_len);
    char *want = harness_read_file(harness_path(h, "copy"), &want_len);
    assert_int_equal(got_len, 50000000);
    assert_int_equal(want_len, got_len);
    assert_int_equal(memcmp(got, want, got_len), 0);
    assert_digest(&r->stdout_sha256, want, want_len);
    assert_int_equal(harness_seen(h, "bytes")->end[0], 50000000);
    free(got);
    free(want);
}

// What a background child writes within the drain time belongs to the output; it is left
// running, its pipe is closed.
static void output_after_main_exit(void **state) {
    struct harness *h = *state;
    harness_shell(h, "after", "(sleep 0.1; printf late; exec sleep 30) & printf early");
    const Nodelink__V1__TaskResult *r = harness_finished(h, "after");
    assert_int_equal(r->kind, KIND(EXITED));
    harness_assert_output(h, "after", "stdout", "earlylate");
    assert_true(r->finished_ms - r->started_ms < 10000);
    assert_int_equal(harness_count_marked(h, "NODELINK_TASK_ID=after"), 1);
    harness_kill_marked(h, "NODELINK_TASK_ID=after");
}

static void closed_stdout(void **state) {
    struct harness *h = *state;
    harness_shell(h, "closed", "exec >&- 2>&-; sleep 0.2; exit 5");
    assert_int_equal(harness_finished(h, "closed")->exit_code, 5);
}

static void timeouts(void **state) {
    struct harness *h = *state;
    enum { LONG_ENOUGH_FOR_TRAP_MS = 2000 };  // a busy machine starts a shell slowly
    harness_run(h, &(struct run){.id = "slow", .cmd = "sleep 100", .timeout_ms = 200});
    harness_run(h, &(struct run){.id = "deaf",
                                 .cmd = "trap '' TERM; while :; do sleep 0.05; done",
                                 .timeout_ms = LONG_ENOUGH_FOR_TRAP_MS,
                                 .grace_ms = 100});
    harness_run(h, &(struct run){.id = "polite",
                                 .cmd = "trap 'exit 9' TERM; while :; do sleep 0.05; done",
                                 .timeout_ms = LONG_ENOUGH_FOR_TRAP_MS});
    const Nodelink__V1__TaskResult *r = harness_finished(h, "slow");
    assert_int_equal(r->kind, KIND(TIMED_OUT));
    assert_int_equal(r->signal, SIGTERM);
    r = harness_finished(h, "deaf");
    assert_int_equal(r->kind, KIND(TIMED_OUT));
    assert_int_equal(r->signal, SIGKILL);
    r = harness_finished(h, "polite");
    assert_int_equal(r->kind, KIND(TIMED_OUT));
    assert_int_equal(r->exit_code, 9);
}

struct marked {
    const char *text;
    unsigned count;
};

static bool has_marked(struct harness *h, void *arg) {
    const struct marked *m = arg;
    return harness_count_marked(h, m->text) >= m->count;
}

static bool has_report(struct harness *h, void *id) {
    return harness_seen(h, id)->reports > 0;
}

// A child that ignores TERM, a daemon (own session, double fork), a stopped process, and one
// that wiped its environment: nothing of it is left when the result is there.
static void cancel_takes_the_tree(void **state) {
    struct harness *h = *state;
    harness_shell(h, "tree",
                  "sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' & "
                  "(setsid sh -c 'trap \"\" TERM; sleep 301 & wait; sleep 302' &) ; "
                  "sh -c 'kill -STOP $$; sleep 303' & "
                  "env -i PATH=$PATH MARK=treewiped "
                  "NODELINK_AGENT_ID=$NODELINK_AGENT_ID setsid sleep 304 & "
                  "wait; sleep 305");
    struct marked daemon = {"NODELINK_TASK_ID=tree", 5}, wiped = {"MARK=treewiped", 1};
    harness_until(h, has_marked, &daemon, "the tree is there");
    harness_until(h, has_marked, &wiped, "the wiped one is there");
    harness_cancel(h, "tree", "not needed");
    const Nodelink__V1__TaskResult *r = harness_finished(h, "tree");
    assert_int_equal(r->kind, KIND(CANCELLED));
    assert_string_equal(r->reason, "not needed");
    assert_int_equal(harness_count_marked(h, "NODELINK_TASK_ID=tree"), 0);
    assert_int_equal(harness_count_marked(h, "MARK=treewiped"), 0);
    // Again, and of what ended by itself: the state as it is.
    harness_seen(h, "tree")->reports = 0;
    harness_cancel(h, "tree", "twice");
    harness_until(h, has_report, (void *)(uintptr_t) "tree", "the answer to the second cancel");
    assert_string_equal(harness_finished(h, "tree")->reason, "not needed");
}

static void cancel_spares_others(void **state) {
    struct harness *h = *state;
    harness_shell(h, "one", "sleep 100");
    harness_shell(h, "one.1", "sleep 0.6; echo alive");
    harness_running(h, "one");
    harness_running(h, "one.1");
    harness_cancel(h, "one", "");
    assert_int_equal(harness_finished(h, "one")->kind, KIND(CANCELLED));
    assert_int_equal(harness_finished(h, "one.1")->kind, KIND(EXITED));
    harness_assert_output(h, "one.1", "stdout", "alive\n");
}

// Cancel and end race: one outcome each, never both, nothing left.
static void cancel_races_the_end(void **state) {
    struct harness *h = *state;
    unsigned cancelled = 0;
    for (int i = 0; i < 60; i++) {
        char id[20];
        snprintf(id, sizeof id, "race%d", i);
        harness_shell(h, id, i % 2 == 0 ? "true" : "sleep 0.002");
        if (i % 3 != 0) {
            harness_pump(h, i % 5);
        }
        harness_cancel(h, id, "");
    }
    for (int i = 0; i < 60; i++) {
        char id[20];
        snprintf(id, sizeof id, "race%d", i);
        const Nodelink__V1__TaskResult *r = harness_finished(h, id);
        assert_true(r->kind == KIND(CANCELLED) || r->kind == KIND(EXITED));
        cancelled += r->kind == KIND(CANCELLED);
    }
    assert_true(cancelled > 0);
    assert_int_equal(harness_count_marked(h, "NODELINK_TASK_ID=race"), 0);
}

static void many_at_once(void **state) {
    struct harness *h = *state;
    for (int i = 0; i < 200; i++) {
        char id[20], cmd[60];
        snprintf(id, sizeof id, "m%d", i);
        snprintf(cmd, sizeof cmd, "echo %d; echo %d >&2; exit %d", i, i * 2, i % 100);
        harness_shell(h, id, cmd);
    }
    for (int i = 0; i < 200; i++) {
        char id[20], want[20];
        snprintf(id, sizeof id, "m%d", i);
        assert_int_equal(harness_finished(h, id)->exit_code, i % 100);
        snprintf(want, sizeof want, "%d\n", i);
        harness_assert_output(h, id, "stdout", want);
        snprintf(want, sizeof want, "%d\n", i * 2);
        harness_assert_output(h, id, "stderr", want);
    }
}

static void silent_task_has_no_files(void **state) {
    static const uint8_t of_nothing[] = {0xe3, 0xb0, 0xc4, 0x42};
    struct harness *h = *state;
    char path[200];
    harness_shell(h, "quiet", "exit 3");
    const Nodelink__V1__TaskResult *r = harness_finished(h, "quiet");
    assert_int_equal(r->exit_code, 3);
    assert_int_equal(r->stdout_bytes, 0);
    assert_int_equal(r->stdout_sha256.len, 32);
    assert_int_equal(r->stderr_sha256.len, 32);
    assert_memory_equal(r->stdout_sha256.data, of_nothing, sizeof of_nothing);
    snprintf(path, sizeof path, "%s/spool/quiet.1", h->state_dir);
    assert_int_not_equal(access(path, F_OK), 0);
    harness_shell(h, "loud", "echo x >&2");
    harness_finished(h, "loud");
    harness_assert_output(h, "loud", "stderr", "x\n");
    harness_assert_output(h, "loud", "stdout", "");
}

static bool is_forgotten(struct harness *h, void *id) {
    return harness_seen(h, id)->task->forgotten;
}

// P2: the command writes its own evidence.
static void duplicates_run_once(void **state) {
    struct harness *h = *state;
    char cmd[300], path[200];
    snprintf(path, sizeof path, "%s", harness_path(h, "starts"));
    snprintf(cmd, sizeof cmd, "echo start >> %s; sleep 0.2", path);
    for (int i = 0; i < 5; i++) {
        harness_shell(h, "dup", cmd);
    }
    harness_running(h, "dup");
    harness_shell(h, "dup", cmd);
    harness_finished(h, "dup");
    harness_shell(h, "dup", "echo other request >> $COPY");
    harness_forget(h, "dup");
    harness_shell(h, "dup", cmd);
    harness_until(h, is_forgotten, (void *)(uintptr_t) "dup", "the answer after the forget");
    harness_run(h, &(struct run){.id = "dup", .attempt = 2, .cmd = cmd});
    harness_shell(h, "last", "true");
    harness_finished(h, "last");
    size_t len = 0;
    char *text = harness_read_file(path, &len);
    // Attempt 2 is another start; it may still be on its way.
    assert_true(strcmp(text, "start\n") == 0 || strcmp(text, "start\nstart\n") == 0);
    free(text);
}

int main(void) {
#define STARTED(test) cmocka_unit_test_setup_teardown(test, setup_started, teardown)
#define FRESH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    setenv("NL_SECRET", "of the supervisor", 1);
    const struct CMUnitTest tests[] = {
        STARTED(exit_codes),
        STARTED(output_and_usage),
        STARTED(silent_task_has_no_files),
        STARTED(argv_as_it_is),
        STARTED(environment),
        STARTED(clean_process),
        STARTED(not_started),
        STARTED(refused),
        FRESH(disk_nearly_full),
        FRESH(too_many_tasks),
        STARTED(binary_output),
        STARTED(output_after_main_exit),
        STARTED(closed_stdout),
        STARTED(timeouts),
        STARTED(cancel_takes_the_tree),
        STARTED(cancel_spares_others),
        STARTED(cancel_races_the_end),
        STARTED(many_at_once),
        STARTED(duplicates_run_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
