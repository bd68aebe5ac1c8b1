#include "agent/supervisor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// No sanitizer may follow the child: it would take its stack for the supervisor's.
#define CHILD __attribute__((no_sanitize("address"), no_sanitize("thread")))

// As the kernel has it; zeros are SIG_DFL without flags.
struct kernel_sigaction {
    unsigned long handler, flags, restorer, mask;
};

// ---- system calls without errno --------------------------------------------

// Returns the result, or a negative errno.
#if defined(__x86_64__)
enum { SHARE = CLONE_VM };

CHILD static long call(long number, long a, long b, long c, long d) {
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
enum { SHARE = CLONE_VM };

CHILD static long call(long number, long a, long b, long c, long d) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
#else
enum { SHARE = 0 };  // a fork: errno is the child's own

static long call(long number, long a, long b, long c, long d) {
    long result = syscall(number, a, b, c, d);
    return result < 0 ? -errno : result;
}
#endif

// ---- the child -------------------------------------------------------------

CHILD _Noreturn static void report_and_exit(int fd, enum sup_child_stage stage, long result) {
    int32_t status[2] = {(int32_t)stage, (int32_t)-result};
    call(SYS_write, fd, (long)status, sizeof status, 0);
    for (;;) {
        call(SYS_exit_group, 127, 0, 0, 0);
    }
}

CHILD static void reset_signals(void) {
    static const struct kernel_sigaction action;
    static const unsigned long none;
    for (int sig = 1; sig <= 64; sig++) {
        call(SYS_rt_sigaction, sig, (long)&action, 0, sizeof action.mask);
    }
    call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof none);
}

// Returns why none of them could be run, as a negative errno.
CHILD static long try_programs(const struct sup_child_request *r) {
    long kept = -ENOENT;
    for (char *const *candidate = r->candidates; *candidate != NULL; candidate++) {
        long rv = call(SYS_execve, (long)*candidate, (long)r->argv, (long)r->envp, 0);
        if (rv != -ENOENT && rv != -ENOTDIR) {
            kept = rv;
        }
        if (rv != -ENOENT && rv != -ENOTDIR && rv != -EACCES) {
            break;
        }
    }
    return kept;
}

// The status pipe is descriptor 3 and closes itself on exec; everything above goes.
CHILD static long arrange_fds(const struct sup_child_request *r) {
    const int from[] = {r->in, r->out[0], r->out[1]};
    for (int i = 0; i < 3; i++) {
        long rv = call(SYS_dup3, from[i], i, 0, 0);
        if (rv < 0) {
            return rv;
        }
    }
    long rv = r->status != 3 ? call(SYS_dup3, r->status, 3, O_CLOEXEC, 0) : 3;
    return rv < 0 ? rv : call(SYS_close_range, 4, ~0u, 0, 0);
}

CHILD static int run(void *user) {
    const struct sup_child_request *r = user;
    // Until the exec this process has no mark by which a later supervisor could find it.
    call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
    if (call(SYS_getppid, 0, 0, 0, 0) != r->parent) {
        report_and_exit(r->status, SUP_CHILD_SETUP, -ECHILD);
    }
    call(SYS_setsid, 0, 0, 0, 0);
    long rv = arrange_fds(r);
    if (rv < 0) {
        report_and_exit(r->status, SUP_CHILD_SETUP, rv);
    }
    call(SYS_umask, (long)r->base->umask, 0, 0, 0);
    call(SYS_prlimit64, 0, RLIMIT_NOFILE, (long)&r->base->nofile, 0);
    rv = r->working_dir != NULL ? call(SYS_chdir, (long)r->working_dir, 0, 0, 0) : 0;
    if (rv < 0) {
        report_and_exit(3, SUP_CHILD_DIRECTORY, rv);
    }
    reset_signals();
    call(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0);
    report_and_exit(3, SUP_CHILD_PROGRAM, try_programs(r));
}

pid_t sup_child_start(struct sup_child *child) {
    return clone(run, child->stack + sizeof child->stack, SHARE | SIGCHLD, &child->request);
}
