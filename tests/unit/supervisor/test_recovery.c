// The supervisor dies, stops, is refused its disk: P2 (never a second start), P11 (correct or
// stopped with a clear error). A command's own file is the evidence of its starts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/supervisor/journal.h"
#include "agent/supervisor/tree.h"
#include "common/base/err.h"
#include "common/base/fs.h"
#include "tests/unit/supervisor/harness.h"

#define KIND(name) NODELINK__V1__TASK_RESULT__KIND__##name

static int setup(void **state) {
    struct harness *h = malloc(sizeof *h);
    harness_open(h);
    *state = h;
    return 0;
}

static int teardown(void **state) {
    harness_close(*state);
    free(*state);
    return 0;
}

// How often `command_with_evidence` was started.
static unsigned starts(struct harness *h) {
    size_t len = 0;
    char *text = harness_read_file(harness_path(h, "starts"), &len);
    free(text);
    return (unsigned)len / 6;  // "start\n"
}

static const char *with_evidence(struct harness *h, const char *then) {
    static char cmd[400];
    snprintf(cmd, sizeof cmd, "echo start >> %s; %s", harness_path(h, "starts"), then);
    return cmd;
}

static bool has_started(struct harness *h, void *arg) {
    (void)arg;
    return starts(h) > 0;
}

static bool has_output(struct harness *h, void *id) {
    return harness_seen(h, id)->end[0] > 0;
}

static bool has_tree(struct harness *h, void *arg) {
    (void)arg;
    return harness_count_marked(h, "NODELINK_TASK_ID=lost") >= 2;
}

static void killed_in_the_middle(void **state) {
    struct harness *h = *state;
    harness_start(h);
    char journal_id[27], boot_id[27];
    snprintf(journal_id, sizeof journal_id, "%s", h->attached->journal_id);
    snprintf(boot_id, sizeof boot_id, "%s", h->attached->boot_id);
    harness_shell(h, "done", "echo result");
    harness_finished(h, "done");
    const char *cmd = with_evidence(h, "echo some; setsid sh -c 'sleep 100' & sleep 100");
    harness_shell(h, "lost", cmd);
    harness_until(h, has_output, (void *)(uintptr_t) "lost", "output of the task");
    harness_until(h, has_tree, NULL, "its processes");
    harness_kill(h);
    assert_true(harness_count_marked(h, "NODELINK_TASK_ID=lost") >= 2);  // tasks don't notice
    harness_start(h);
    assert_string_equal(h->attached->journal_id, journal_id);
    assert_string_not_equal(h->attached->boot_id, boot_id);
    const Nodelink__V1__TaskResult *r = harness_finished(h, "lost");
    assert_int_equal(r->kind, KIND(LOST));
    assert_non_null(strstr(r->reason, "supervisor lost"));
    assert_int_equal(r->stdout_bytes, 5);
    assert_int_equal(r->stdout_sha256.len, 32);
    assert_int_equal(harness_count_marked(h, "NODELINK_TASK_ID=lost"), 0);
    assert_int_equal(harness_finished(h, "done")->kind, KIND(EXITED));
    harness_assert_output(h, "done", "stdout", "result\n");
    // The cluster asks again, and again after another restart.
    harness_shell(h, "lost", cmd);
    harness_shell(h, "probe", "true");
    harness_finished(h, "probe");
    harness_kill(h);
    harness_start(h);
    harness_shell(h, "lost", cmd);
    assert_int_equal(harness_finished(h, "lost")->kind, KIND(LOST));
    assert_int_equal(starts(h), 1);
}

static bool is_lost(struct harness *h, void *id) {
    const struct seen *s = harness_seen(h, id);
    return s->task != NULL && s->task->lost;
}

// What is left of it may take a while to take down: that it is lost is said at once.
static void lost_is_said_before_the_result(void **state) {
    struct harness *h = *state;
    harness_start(h);
    harness_shell(h, "t", with_evidence(h, "trap '' TERM; while :; do sleep 1; done"));
    harness_until(h, has_started, NULL, "the task's start");
    assert_false(is_lost(h, (void *)(uintptr_t) "t"));
    harness_kill(h);
    harness_start(h);
    harness_until(h, is_lost, (void *)(uintptr_t) "t", "word that it is lost");
    assert_int_equal(harness_seen(h, "t")->task->phase, NODELINK__V1__TASK_REF__PHASE__RUNNING);
    assert_int_equal(harness_finished(h, "t")->kind, KIND(LOST));
    assert_false(harness_seen(h, "t")->task->lost);
    assert_int_equal(harness_count_marked(h, "NODELINK_TASK_ID=t"), 0);
}

static void lost_may_be_left_running(void **state) {
    struct harness *h = *state;
    h->options.leave_lost_running = true;
    harness_start(h);
    harness_shell(h, "left", with_evidence(h, "exec sleep 100"));
    harness_until(h, has_started, NULL, "the task's start");
    harness_kill(h);
    harness_start(h);
    assert_int_equal(harness_finished(h, "left")->kind, KIND(LOST));
    assert_int_equal(harness_count_marked(h, "NODELINK_TASK_ID=left"), 1);
    harness_kill_marked(h, "NODELINK_TASK_ID=left");
}

// A journal that says that task "t" was started as this process.
static void write_journal(struct harness *h, const uint8_t boot[16], pid_t pid, uint64_t start) {
    struct sup_journal *j = NULL;
    char why[512];
    struct sup_record intent = {.type = SUP_REC_INTENT, .id = "t", .attempt = 1, .epoch = 1};
    struct sup_record started = intent;
    started.type = SUP_REC_STARTED;
    started.pid = pid;
    started.pid_start = start;
    memcpy(started.boot, boot, sizeof started.boot);
    assert_int_equal(nl_fs_mkdirs(h->state_dir, 0700), NL_OK);
    assert_int_equal(sup_journal_open(h->state_dir, NULL, NULL, why, &j), NL_OK);
    assert_int_equal(sup_journal_append(j, &intent), NL_OK);
    assert_int_equal(sup_journal_append(j, &started), NL_OK);
    assert_int_equal(sup_journal_sync(j), NL_OK);
    sup_journal_close(j);
}

// A process without any mark of ours, leader of its session like a task's main process.
static pid_t unmarked(void) {
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        execl("/bin/sleep", "sleep", "100", (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0);
    while (getsid(pid) != pid) {
        sched_yield();
    }
    return pid;
}

static bool is_alive(pid_t pid) {
    return waitpid(pid, NULL, WNOHANG) == 0;
}

// After a reboot the recorded number is another's: that one is left alone. In the same boot pid
// and start time name the task's own process, also where it carries no mark.
static void recorded_process(void **state) {
    struct harness *h = *state;
    uint8_t boot[16], other_boot[16];
    sup_proc_boot_id(boot);
    memcpy(other_boot, boot, sizeof boot);
    other_boot[0] ^= 1;
    const struct {
        const uint8_t *boot;
        uint64_t older;  // by so many ticks
        bool dies;
    } cases[] = {{other_boot, 0, false}, {boot, 1, false}, {boot, 0, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[200];
        snprintf(path, sizeof path, "%s/journal", h->state_dir);
        unlink(path);
        pid_t pid = unmarked();
        write_journal(h, cases[i].boot, pid, sup_proc_start(pid) - cases[i].older);
        harness_start(h);
        const Nodelink__V1__TaskResult *r = harness_finished(h, "t");
        assert_int_equal(r->kind, KIND(LOST));
        assert_non_null(strstr(r->reason, "supervisor lost"));
        assert_int_equal(is_alive(pid), !cases[i].dies);
        if (!cases[i].dies) {
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
        }
        harness_kill(h);
    }
}

#ifdef NL_FAILPOINTS
// kill -9 at each point of a task's life. What was started is LOST or has its result; what was
// not is known as LOST or not at all; never a second start.
static void killed_at_each_point(void **state) {
    struct harness *h = *state;
    static const struct {
        const char *failpoint;
        bool journalled;  // known after the restart, without being asked again
        bool may_have_started;
        Nodelink__V1__TaskResult__Kind kind;
    } cases[] = {
        {"journal.before_intent=kill", false, false, KIND(EXITED)},
        {"journal.after_intent=kill", true, false, KIND(LOST)},
        {"spawn.after_fork=kill", true, true, KIND(LOST)},
        {"spool.during_output=kill", true, true, KIND(LOST)},
        {"exit.before_record=kill", true, true, KIND(LOST)},
        {"exit.after_record=kill", true, true, KIND(EXITED)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *cmd = with_evidence(h, "echo out");
        char id[20];
        snprintf(id, sizeof id, "fp%zu", i % 100);
        unlink(harness_path(h, "starts"));
        h->failpoints = cases[i].failpoint;
        harness_start(h);
        harness_shell(h, id, cmd);
        int status = harness_wait_exit(h);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        h->failpoints = NULL;
        harness_start(h);
        struct seen *s = harness_seen(h, id);
        assert_int_equal(s->task != NULL, cases[i].journalled);
        harness_shell(h, id, cmd);
        assert_int_equal(harness_finished(h, id)->kind, cases[i].kind);
        assert_true(starts(h) <= 1);
        assert_true(cases[i].may_have_started || starts(h) == (unsigned)!cases[i].journalled);
        harness_kill(h);
    }
}

static void journal_write_fails(void **state) {
    struct harness *h = *state;
    h->failpoints = "journal.append=error@1,journal.sync=error@2";
    harness_start(h);
    harness_shell(h, "append", with_evidence(h, "true"));
    assert_non_null(strstr(harness_refused(h, "append"), "can't be written"));
    harness_shell(h, "first", "true");  // sync 1
    harness_finished(h, "first");       // sync 2 fails: told only after it is durable
    harness_shell(h, "append", with_evidence(h, "true"));
    harness_finished(h, "append");
    assert_int_equal(starts(h), 1);
    harness_kill(h);
    h->failpoints = NULL;
    harness_start(h);
    assert_int_equal(harness_finished(h, "first")->kind, KIND(EXITED));
    assert_int_equal(harness_finished(h, "append")->kind, KIND(EXITED));
}

static void spool_write_fails_for_a_while(void **state) {
    struct harness *h = *state;
    h->failpoints = "spool.during_output=error@1";
    harness_start(h);
    harness_shell(h, "retry", "seq 1 20000");
    const Nodelink__V1__TaskResult *r = harness_finished(h, "retry");
    assert_int_equal(r->exit_code, 0);
    assert_int_equal(r->stdout_bytes, 108894);
    assert_string_equal(r->reason, "");
}
#endif

// The spool can't grow beyond a file size limit: the task ends by itself, its result says
// where the output stops, the rest works on.
static void spool_full_for_good(void **state) {
    struct harness *h = *state;
    h->file_bytes_max = 100000;
    h->options.spool_stuck_ms = 600;
    harness_start(h);
    harness_shell(h, "big", "head -c 500000 /dev/zero; exit 4");
    const Nodelink__V1__TaskResult *r = harness_finished(h, "big");
    assert_int_equal(r->kind, KIND(EXITED));
    assert_int_equal(r->exit_code, 4);
    assert_int_equal(r->stdout_bytes, 100000);
    assert_non_null(strstr(r->reason, "stdout cut at byte 100000: File too large"));
    harness_shell(h, "small", "echo fits");
    harness_finished(h, "small");
    harness_assert_output(h, "small", "stdout", "fits\n");
}

static bool has_no_spool(struct harness *h, void *id) {
    const struct seen *s = harness_seen(h, id);
    return s->base[0] == s->end[0] && s->end[0] > 0;
}

static void forgotten_stays_forgotten(void **state) {
    struct harness *h = *state;
    h->options.spool_keep_ms = 100;
    harness_start(h);
    harness_shell(h, "f", with_evidence(h, "echo x"));
    harness_finished(h, "f");
    harness_forget(h, "f");
    harness_until(h, has_no_spool, (void *)(uintptr_t) "f", "its spool goes");
    char path[200];
    snprintf(path, sizeof path, "%s/spool/f.1", h->state_dir);
    assert_int_not_equal(access(path, F_OK), 0);
    harness_kill(h);
    harness_start(h);
    assert_int_equal(h->attached->tasks, 0);
    harness_shell(h, "f", with_evidence(h, "echo x"));
    harness_finished(h, "f");
    assert_true(harness_seen(h, "f")->task->forgotten);
    assert_string_equal(harness_seen(h, "f")->task->spool_dir, "");
    assert_int_equal(starts(h), 1);
}

static void stops(void **state) {
    struct harness *h = *state;
    harness_start(h);
    harness_shell(h, "slow", "sleep 0.4; echo end");
    harness_running(h, "slow");
    kill(h->pid, SIGTERM);
    harness_shell(h, "late", "true");
    assert_non_null(strstr(harness_refused(h, "late"), "stopping"));
    assert_int_equal(harness_finished(h, "slow")->kind, KIND(EXITED));
    assert_int_equal(harness_wait_exit(h), 0);
    char path[200];
    snprintf(path, sizeof path, "%s/supervisor.sock", h->state_dir);
    assert_int_not_equal(access(path, F_OK), 0);
    harness_start(h);
    assert_int_equal(harness_finished(h, "slow")->kind, KIND(EXITED));
    harness_shell(h, "endless", "sleep 100");
    harness_running(h, "endless");
    harness_stop(h, true);
    assert_int_equal(harness_finished(h, "endless")->kind, KIND(CANCELLED));
    assert_int_equal(harness_wait_exit(h), 0);
    harness_start(h);
    harness_shell(h, "endless2", "sleep 100");
    harness_running(h, "endless2");
    kill(h->pid, SIGINT);
    assert_int_equal(harness_wait_exit(h), 0);
    assert_int_equal(harness_count_marked(h, "NODELINK_TASK_ID=endless"), 0);
}

static void idle_exit(void **state) {
    struct harness *h = *state;
    h->options.idle_exit_ms = 150;
    harness_start(h);
    harness_shell(h, "kept", "true");
    harness_finished(h, "kept");
    close(h->fd);
    h->fd = -1;
    assert_int_equal(harness_wait_exit(h), 0);
    harness_start(h);
    assert_int_equal(harness_finished(h, "kept")->kind, KIND(EXITED));
}

static int second_supervisor(struct harness *h) {
    pid_t pid = fork();
    if (pid == 0) {
        _exit(nl_supervisor_main(&h->options));
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WEXITSTATUS(status);
}

static void one_at_a_time(void **state) {
    struct harness *h = *state;
    harness_start(h);
    assert_int_equal(second_supervisor(h), NL_SUP_EXIT_HELD);
    harness_shell(h, "fine", "true");
    harness_finished(h, "fine");
}

static void unusable_state(void **state) {
    struct harness *h = *state;
    char path[200], longer[200] = "/tmp/";
    memset(longer + 5, 'x', 100);
    longer[105] = '\0';
    h->options.state_dir = longer;
    assert_int_equal(second_supervisor(h), NL_SUP_EXIT_FAILED);
    h->options.state_dir = h->state_dir;
    harness_start(h);
    struct stat st;
    assert_int_equal(stat(h->state_dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    snprintf(path, sizeof path, "%s/supervisor.sock", h->state_dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0077, 0);
    harness_shell(h, "t", "true");
    harness_finished(h, "t");
    harness_kill(h);
    snprintf(path, sizeof path, "%s/journal", h->state_dir);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "X", 1, 50), 1);
    close(fd);
    assert_int_equal(second_supervisor(h), NL_SUP_EXIT_FAILED);
}

// Without its journal a state directory is another agent's memory: it gets another id.
static void lost_journal_changes_the_id(void **state) {
    struct harness *h = *state;
    char path[200], id[27];
    harness_start(h);
    snprintf(id, sizeof id, "%s", h->attached->journal_id);
    harness_kill(h);
    snprintf(path, sizeof path, "%s/journal", h->state_dir);
    unlink(path);
    harness_start(h);
    assert_string_not_equal(h->attached->journal_id, id);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(killed_in_the_middle),
        TEST(lost_is_said_before_the_result),
        TEST(lost_may_be_left_running),
        TEST(recorded_process),
#ifdef NL_FAILPOINTS
        TEST(killed_at_each_point),
        TEST(journal_write_fails),
        TEST(spool_write_fails_for_a_while),
#endif
        TEST(spool_full_for_good),
        TEST(forgotten_stays_forgotten),
        TEST(stops),
        TEST(idle_exit),
        TEST(one_at_a_time),
        TEST(unusable_state),
        TEST(lost_journal_changes_the_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
