// A node whose disk fails or hangs stops itself, before it goes on with what isn't stored. Each
// case runs in a child process with a fail point set.

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "tests/unit/cluster/fixture.h"

#ifdef NL_FAILPOINTS

static bool never(struct fixture *f, void *arg) {
    (void)f;
    (void)arg;
    return false;
}

static void on_nothing(void *user, int result, struct nl_outcome outcome, uint64_t index,
                       uint64_t term) {
    (void)user;
    (void)result;
    (void)outcome;
    (void)index;
    (void)term;
}

static void propose_noop(struct fixture *f, unsigned node) {
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__Noop noop = NODELINK__V1__NOOP__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_NOOP;
    command.noop = &noop;
    nl_cluster_propose(f->nodes[node].cluster, &command, 0, on_nothing, NULL);
}

// Writes through a single node until it stops.
static void child_alone(void) {
    static struct fixture f;
    fixture_open(&f, 1);
    f.snapshot_threshold = 8;
    f.snapshot_trailing = 2;
    printf("%s\n", f.dir);
    fflush(stdout);
    fixture_start(&f, 0);
    for (int i = 0; i < 100; i++) {
        propose_noop(&f, 0);
        fixture_until(&f, 20, never, NULL);
    }
    fixture_until(&f, 10000, never, NULL);
}

// Three nodes: elections and votes need more than one.
static void child_three(void) {
    static struct fixture f;
    fixture_open(&f, 3);
    printf("%s\n", f.dir);
    fflush(stdout);
    for (unsigned i = 0; i < 3; i++) {
        fixture_start(&f, i);
    }
    fixture_until(&f, 20000, never, NULL);
}

// A node's directory is lost and made anew under the same id: it could vote a second time.
static void child_lost_directory(void) {
    static struct fixture f;
    fixture_open(&f, 3);
    printf("%s\n", f.dir);
    fflush(stdout);
    for (unsigned i = 0; i < 3; i++) {
        fixture_start(&f, i);
    }
    unsigned lost = (unsigned)(fixture_leader(&f) + 1) % 3;
    fixture_stop(&f, lost);
    fixture_start(&f, lost);
    fixture_leader(&f);
    fixture_node_up(&f, lost);
    fixture_stop(&f, lost);
    fixture_remove(f.nodes[lost].dir);
    fixture_start(&f, lost);
    fixture_until(&f, 20000, never, NULL);
}

static int run_child(const char *failpoint, void (*child)(void), char *dir, size_t dir_size,
                     uint64_t *ret_ms) {
    int fds[2], status = 0;
    uint64_t start = nl_clock_mono_ms();
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        setenv("NODELINK_FAILPOINTS", failpoint, 1);
        child();
        _exit(1);
    }
    close(fds[1]);
    ssize_t n = read(fds[0], dir, dir_size - 1);
    assert_true(n > 1);
    dir[n - 1] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    *ret_ms = nl_clock_mono_ms() - start;
    return status;
}

static void expect_stop(const char *failpoint, void (*child)(void), uint64_t ms_max) {
    char dir[128];
    uint64_t ms;
    int status = run_child(failpoint, child, dir, sizeof dir, &ms);
    fixture_remove(dir);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != FIXTURE_FATAL) {
        fail_msg("%s: status %x", failpoint, (unsigned)status);
    }
    assert_true(ms < ms_max);
}

static void append_error(void **state) {
    (void)state;
    expect_stop("raft.append=error@3", child_alone, 5000);
}

static void append_hangs(void **state) {
    (void)state;
    expect_stop("raft.append_hang=error@3", child_alone, 8000);
}

static void snapshot_error(void **state) {
    (void)state;
    expect_stop("raft.snapshot_put=error", child_alone, 8000);
}

static void term_error(void **state) {
    (void)state;
    expect_stop("raft.set_term=error@3", child_three, 8000);
}

static void vote_error(void **state) {
    (void)state;
    expect_stop("raft.set_vote=error", child_three, 8000);
}

static void lost_directory(void **state) {
    (void)state;
    expect_stop("", child_lost_directory, 15000);
}

static void bootstrap_error(void **state) {
    static struct fixture f;
    static const struct nl_cluster_events events;
    char text[512] = "";
    struct nl_cluster *cluster = NULL;
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("NODELINK_FAILPOINTS", "raft.bootstrap=error", 1);
        fixture_open(&f, 1);
        struct nl_cluster_options options = fixture_options(&f, 0);
        int rv = nl_cluster_open(&options, &events, NULL, &cluster, text, sizeof text);
        fixture_close(&f);
        _exit(rv == NL_EIO && strstr(text, "first configuration") != NULL ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(append_error),   cmocka_unit_test(append_hangs),
        cmocka_unit_test(snapshot_error), cmocka_unit_test(term_error),
        cmocka_unit_test(vote_error),     cmocka_unit_test(bootstrap_error),
        cmocka_unit_test(lost_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    printf("no fail points in this build\n");
    return 77;  // skipped
}

#endif
