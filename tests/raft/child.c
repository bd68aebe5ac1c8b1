#include "tests/raft/child.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { ENDED_WELL = 0, FOUND_DEFECT = 1, NOT_REACHED = 2 };

static void stop_unless(bool holds, const char *condition, const char *file, int line, int status) {
    if (!holds) {
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
        _exit(status);
    }
}

void child_require(bool holds, const char *condition, const char *file, int line) {
    stop_unless(holds, condition, file, line, FOUND_DEFECT);
}

void child_reach(bool holds, const char *condition, const char *file, int line) {
    stop_unless(holds, condition, file, line, NOT_REACHED);
}

static int run(void (*scenario)(void)) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        alarm(30);
        scenario();
        _exit(ENDED_WELL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : FOUND_DEFECT;
}

void child_check(void (*scenario)(void)) {
    int result = run(scenario);
    assert_int_not_equal(result, NOT_REACHED);
    if (NL_RAFT_DEFECTS) {
        assert_int_not_equal(result, ENDED_WELL);
    } else {
        assert_int_equal(result, ENDED_WELL);
    }
}
