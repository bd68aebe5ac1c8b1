// The bare loop beside which scripts/bench-peers puts whole tasks on one agent: posix_spawn and
// waitpid for a while, nothing else, so what the machine can do in processes per second.
//
//   spawn_loop IN_FLIGHT SECONDS PROGRAM [ARGUMENT...]
//
// Prints JSON like `nodelink bench`; a spawn or a program that fails ends it with 1. A second of
// warm-up isn't counted. cpu_us_per_op is this process and its children, read from the kernel.
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "common/base/clock.h"

extern char **environ;

enum { WARMUP_US = 1000000, IN_FLIGHT_MAX = 1024 };

static bool start(char **argv) {
    pid_t pid;
    int rv = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);
    if (rv != 0) {
        fprintf(stderr, "spawn_loop: %s: %s\n", argv[0], strerror(rv));
    }
    return rv == 0;
}

static bool wait_for_one(void) {
    int status = 0;
    bool good = waitpid(-1, &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!good) {
        fprintf(stderr, "spawn_loop: wait status %d\n", status);
    }
    return good;
}

// `in_flight` processes at any time until `until_us`; all have ended then. False: one failed.
static bool run_until(uint64_t until_us, long in_flight, char **argv, uint64_t *ret_done) {
    long running = 0;
    bool good = true;
    for (bool more = true; good && (more || running > 0); *ret_done += 1) {
        for (; good && more && running < in_flight; running++) {
            good = start(argv);
        }
        good = good && wait_for_one();
        running--;
        more = nl_clock_mono_us() < until_us;
    }
    return good;
}

static uint64_t used_us(int who) {
    struct rusage u;
    getrusage(who, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static uint64_t used_by_all_us(void) {
    return used_us(RUSAGE_SELF) + used_us(RUSAGE_CHILDREN);
}

int main(int argc, char **argv) {
    long in_flight = argc > 3 ? strtol(argv[1], NULL, 10) : 0;
    long seconds = argc > 3 ? strtol(argv[2], NULL, 10) : 0;
    if (in_flight < 1 || in_flight > IN_FLIGHT_MAX || seconds < 1) {
        fprintf(stderr, "usage: spawn_loop IN_FLIGHT SECONDS PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    uint64_t done = 0;
    if (!run_until(nl_clock_mono_us() + WARMUP_US, in_flight, argv + 3, &done)) {
        return 1;
    }
    uint64_t from = nl_clock_mono_us(), used = used_by_all_us();
    done = 0;
    if (!run_until(from + (uint64_t)seconds * 1000000u, in_flight, argv + 3, &done)) {
        return 1;
    }
    double took = (double)(nl_clock_mono_us() - from);
    printf("{\"ops\": %llu, \"ops_per_s\": %.1f, \"cpu_us_per_op\": %.1f}\n",
           (unsigned long long)done, (double)done * 1e6 / took,
           (double)(used_by_all_us() - used) / (double)done);
    return 0;
}
