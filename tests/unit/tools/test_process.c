#include "tools/local/process.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"

static char directory[] = "/tmp/nodelink-process-XXXXXX";
static char log_path[64];

static int make_directory(void **state) {
    (void)state;
    if (mkdtemp(directory) == NULL) {
        return -1;
    }
    snprintf(log_path, sizeof log_path, "%s/log", directory);
    return 0;
}

static int remove_directory(void **state) {
    (void)state;
    char path[64];
    unlink(log_path);
    snprintf(path, sizeof path, "%s/pid", directory);
    unlink(path);
    return rmdir(directory);
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 10 * 1000000}, NULL);
}

static void start(const char *script, struct nl_process *ret) {
    char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
    char *environment[] = {(char *)"PATH=/usr/bin:/bin", NULL};
    assert_int_equal(nl_process_start(argv, environment, log_path, ret), NL_OK);
    assert_true(ret->pid > 0);
}

static void wait_for(const struct nl_process *process, enum nl_process_state state) {
    for (int i = 0; i < 500 && nl_process_state(process) != state; i++) {
        nap();
    }
    assert_int_equal(nl_process_state(process), state);
}

static void test_life(void **state) {
    (void)state;
    struct nl_process process;
    start("exec sleep 60", &process);
    assert_int_equal(nl_process_state(&process), NL_PROCESS_RUNNING);
    assert_int_equal(getsid(process.pid), process.pid);
    assert_int_equal(nl_process_signal(&process, SIGSTOP), NL_OK);
    wait_for(&process, NL_PROCESS_PAUSED);
    assert_int_equal(nl_process_signal(&process, SIGCONT), NL_OK);
    wait_for(&process, NL_PROCESS_RUNNING);
    assert_int_equal(nl_process_signal(&process, SIGKILL), NL_OK);
    wait_for(&process, NL_PROCESS_GONE);
    assert_int_equal(nl_process_signal(&process, SIGKILL), NL_ENOTFOUND);
}

static void *stay(void *unused) {
    (void)unused;
    pause();
    return NULL;
}

static char state_letter(pid_t pid) {
    char path[64];
    char letter = '?';
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d %*s %c", &letter), 1);
    fclose(f);
    return letter;
}

// Its first thread is a zombie; what another thread holds, ports and locks, is still held.
static void test_first_thread_ended(void **state) {
    (void)state;
    struct nl_process process;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, stay, NULL);
        pthread_exit(NULL);
    }
    assert_int_equal(nl_process_of_pid(pid, &process), NL_OK);
    for (int i = 0; i < 500 && state_letter(pid) != 'Z'; i++) {
        nap();
    }
    assert_int_equal(state_letter(pid), 'Z');
    assert_int_equal(nl_process_state(&process), NL_PROCESS_RUNNING);
    kill(pid, SIGKILL);
    wait_for(&process, NL_PROCESS_GONE);
}

static void test_another_process_of_the_pid_is_not_hit(void **state) {
    (void)state;
    struct nl_process process, other;
    start("exec sleep 60", &process);
    other = (struct nl_process){process.pid, process.start + 1};
    assert_int_equal(nl_process_state(&other), NL_PROCESS_GONE);
    assert_int_equal(nl_process_signal(&other, SIGKILL), NL_ENOTFOUND);
    assert_int_equal(nl_process_state(&process), NL_PROCESS_RUNNING);
    nl_process_signal(&process, SIGKILL);
    wait_for(&process, NL_PROCESS_GONE);
}

static void write_pid(const char *path, pid_t pid) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "%d\n", (int)pid);
    fclose(file);
}

static void test_pid_file(void **state) {
    (void)state;
    char path[64];
    struct nl_process process, found;
    snprintf(path, sizeof path, "%s/pid", directory);
    start("exec sleep 60", &process);
    for (int i = 0; i < 500 && nl_process_of_file(path, "sleep", &found) != NL_OK; i++) {
        write_pid(path, process.pid);
        nap();
    }
    assert_int_equal(nl_process_of_file(path, "sleep", &found), NL_OK);
    assert_int_equal(found.pid, process.pid);
    assert_int_equal(nl_process_of_file(path, "slee", &found), NL_ENOTFOUND);
    assert_int_equal(nl_process_of_file(path, "nodelink-agent", &found), NL_ENOTFOUND);
    // A file older than the process was written by a former one of the same pid.
    struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    assert_int_equal(futimens(fileno(file), old), 0);
    fclose(file);
    assert_int_equal(nl_process_of_file(path, "sleep", &found), NL_ENOTFOUND);
    write_pid(path, 0);
    assert_int_equal(nl_process_of_file(path, "sleep", &found), NL_ENOTFOUND);
    nl_process_signal(&process, SIGKILL);
    wait_for(&process, NL_PROCESS_GONE);
}

static void test_descendants(void **state) {
    (void)state;
    struct nl_process process;
    struct nl_process *found = NULL;
    size_t n = 0;
    start("sh -c 'sleep 60 & wait' & sleep 60 & wait", &process);
    for (int i = 0; i < 500 && n < 3; i++) {
        free(found);
        found = NULL;
        assert_int_equal(nl_process_descendants(&process, &found, &n), NL_OK);
        nap();
    }
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++) {
        nl_process_signal(&found[i], SIGKILL);
    }
    free(found);
    nl_process_signal(&process, SIGKILL);
    wait_for(&process, NL_PROCESS_GONE);
    assert_int_equal(nl_process_descendants(&process, &found, &n), NL_OK);
    assert_int_equal(n, 0);
    free(found);
}

static void test_environment(void **state) {
    (void)state;
    struct nl_process process;
    struct nl_process *found = NULL;
    size_t n = 0;
    char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)"sleep 60 & wait", NULL};
    char mark[64];
    snprintf(mark, sizeof mark, "NODELINK_TEST_MARK=%d", (int)getpid());
    char *environment[] = {(char *)"PATH=/usr/bin:/bin", mark, NULL};
    assert_int_equal(nl_process_start(argv, environment, log_path, &process), NL_OK);
    for (int i = 0; i < 500 && n < 2; i++) {
        free(found);
        found = NULL;
        assert_int_equal(nl_process_with_environment(mark, &found, &n), NL_OK);
        nap();
    }
    assert_int_equal(n, 2);
    for (size_t i = 0; i < n; i++) {
        nl_process_signal(&found[i], SIGKILL);
    }
    free(found);
    wait_for(&process, NL_PROCESS_GONE);
    mark[strlen(mark) - 1] = 'x';
    assert_int_equal(nl_process_with_environment(mark, &found, &n), NL_OK);
    assert_int_equal(n, 0);
    free(found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_first_thread_ended),
        cmocka_unit_test(test_another_process_of_the_pid_is_not_hit),
        cmocka_unit_test(test_pid_file),
        cmocka_unit_test(test_descendants),
        cmocka_unit_test(test_environment),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
