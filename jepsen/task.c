// The command that a fault-injection run gives to the agents. It leaves evidence that nodelink
// never touches, and its output can be computed again from the task's id (evidence.py does).
//
//   jepsen_task JOURNAL TASK
//
// JOURNAL gets one line at the start and one at the end, each in one write, synced before the
// command goes on:
//   start TASK ATTEMPT PID CLOCK_MONOTONIC_NS
//   end TASK ATTEMPT PID CLOCK_MONOTONIC_NS SHA256_OF_STDOUT EXIT_CODE
// Sizes, delay and exit code come from SHA-256(TASK); byte i of a stream is byte i % 32 of
// SHA-256(TASK ":" STREAM ":" (i / 32)). A TASK named drip-... writes more, and in more pieces, so
// that faults fall into the middle of its output.

#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    DIGEST = 32,
    TASK_MAX = 128,
    STDOUT_MASK = 0xfff,        // up to 4 KiB
    STDOUT_LARGE = 256 * 1024,  // more, of one in 64
    DRIP_MASK = 0x3fff,         // up to 16 KiB
    DRIP_LARGE = 2048 * 1024,   // more, of one in 64
    EVIDENCE_FAILED = 99,       // no evidence: the run must see that something is wrong
};

struct plan {
    const char *task;
    const char *attempt;
    size_t stdout_size, stderr_size;
    unsigned delay_ms;  // in all, between the pieces
    unsigned pieces;    // of stdout
    int exit_code;
};

static bool digest(const void *data, size_t len, uint8_t out[DIGEST]) {
    return EVP_Digest(data, len, out, NULL, EVP_sha256(), NULL) == 1;
}

static void make_plan(struct plan *plan) {
    uint8_t d[DIGEST];
    if (!digest(plan->task, strlen(plan->task), d)) {
        exit(EVIDENCE_FAILED);
    }
    bool drip = strncmp(plan->task, "drip-", 5) == 0;
    plan->stdout_size = (size_t)((d[0] | d[1] << 8) & (drip ? DRIP_MASK : STDOUT_MASK));
    plan->stdout_size += d[2] % 64 > 0 ? 0 : drip ? DRIP_LARGE : STDOUT_LARGE;
    plan->stderr_size = d[3];
    plan->pieces = drip ? 8 : 2;
    plan->delay_ms = d[4] % 16 > 0 ? d[5] / 4U : d[5] * (drip ? 40U : 12U);
    plan->exit_code = d[6] % 4 == 0 ? d[7] % 90 : 0;
}

static void write_all(int fd, const void *data, size_t len) {
    const uint8_t *p = data;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n <= 0) {
            exit(EVIDENCE_FAILED);
        }
        p += n;
        len -= (size_t)n;
    }
}

static void note(int journal, const struct plan *plan, const char *what, const char *rest) {
    char line[512];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int n =
        snprintf(line, sizeof line, "%s %s %s %d %" PRId64 "%s\n", what, plan->task, plan->attempt,
                 (int)getpid(), (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, rest);
    if (write(journal, line, (size_t)n) != n || fdatasync(journal) != 0) {
        exit(EVIDENCE_FAILED);
    }
}

// Makes bytes [from, to) of a stream at out.
static void make_bytes(const char *task, const char *stream, size_t from, size_t to, uint8_t *out) {
    char seed[TASK_MAX + 64];
    uint8_t block[DIGEST];
    for (size_t i = from; i < to; i++) {
        if (i == from || i % DIGEST == 0) {
            int n = snprintf(seed, sizeof seed, "%s:%s:%zu", task, stream, i / DIGEST);
            if (!digest(seed, (size_t)n, block)) {
                exit(EVIDENCE_FAILED);
            }
        }
        out[i - from] = block[i % DIGEST];
    }
}

// Pauses between the pieces, so that some output is on its way when a process dies.
static void put_output(const struct plan *plan, uint8_t *out) {
    uint8_t err[256];
    unsigned ms = plan->delay_ms / (plan->pieces - 1);
    struct timespec pause = {ms / 1000, (long)(ms % 1000) * 1000000};
    make_bytes(plan->task, "out", 0, plan->stdout_size, out);
    make_bytes(plan->task, "err", 0, plan->stderr_size, err);
    for (size_t i = 0; i < plan->pieces; i++) {
        size_t from = plan->stdout_size * i / plan->pieces;
        size_t to = plan->stdout_size * (i + 1) / plan->pieces;
        write_all(STDOUT_FILENO, out + from, to - from);
        if (i + 1 < plan->pieces) {
            nanosleep(&pause, NULL);
        }
        if (i == 0) {
            write_all(STDERR_FILENO, err, plan->stderr_size);
        }
    }
}

int main(int argc, char **argv) {
    const char *id = getenv("NODELINK_TASK_ID"), *attempt = getenv("NODELINK_ATTEMPT");
    if (argc != 3 || id == NULL || attempt == NULL || strcmp(id, argv[2]) != 0 ||
        strlen(id) > TASK_MAX || strlen(attempt) > 16) {
        fprintf(stderr, "usage: jepsen_task JOURNAL TASK, run by nodelink as TASK\n");
        return EVIDENCE_FAILED;
    }
    struct plan plan = {.task = argv[2], .attempt = attempt};
    uint8_t sum[DIGEST];
    char rest[2 * DIGEST + 16] = " ";
    int journal = open(argv[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (journal < 0) {
        return EVIDENCE_FAILED;
    }
    make_plan(&plan);
    uint8_t *out = malloc(plan.stdout_size + 1);
    if (out == NULL) {
        return EVIDENCE_FAILED;
    }
    note(journal, &plan, "start", "");
    put_output(&plan, out);
    if (!digest(out, plan.stdout_size, sum)) {
        free(out);
        return EVIDENCE_FAILED;
    }
    for (size_t i = 0; i < DIGEST; i++) {
        snprintf(rest + 1 + 2 * i, 3, "%02x", sum[i]);
    }
    snprintf(rest + 1 + 2 * DIGEST, 8, " %d", plan.exit_code);
    note(journal, &plan, "end", rest);
    free(out);
    return plan.exit_code;
}
