// A real supervisor in a child process, and a link that talks to it. Everything waits for a
// condition with a deadline; nothing sleeps for a guess.
#ifndef NODELINK_TESTS_UNIT_SUPERVISOR_HARNESS_H
#define NODELINK_TESTS_UNIT_SUPERVISOR_HARNESS_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/supervisor/supervisor.h"
#include "common/base/buf.h"

#define HARNESS_DEADLINE_MS 30000u
#define HARNESS_TASKS_MAX 512u

// The last that was heard of a task.
struct seen {
    char key[160];
    Nodelink__V1__SupTask *task;  // owned; NULL: only spool or refusal
    uint64_t end[2], base[2];
    unsigned reports;
    char refused[256];
};

struct harness {
    char dir[64];  // holds everything; removed at the end
    char state_dir[96];
    const char *agent_id;  // unique: the last part of dir
    struct nl_supervisor_options options;
    const char *failpoints;
    uint64_t file_bytes_max;  // RLIMIT_FSIZE of the supervisor, 0: none
    pid_t pid;                // of the supervisor, 0: none
    int fd;                   // attached, -1: not
    struct nl_buf in;
    struct seen seen[HARNESS_TASKS_MAX];
    unsigned count;
    Nodelink__V1__SupAttached *attached;  // owned
    bool closed;                          // the supervisor closed the connection
};

// What a test runs; zero fields are left out.
struct run {
    const char *id;
    uint32_t attempt;  // 0 means 1
    const char *cmd;
    char *const *argv;  // ends with NULL
    char *const *env;
    const char *working_dir;
    uint64_t timeout_ms, grace_ms;
};

void harness_open(struct harness *h);   // a fresh directory, short times
void harness_close(struct harness *h);  // stops, kills what is left, removes the directory

void harness_start(struct harness *h);     // and attaches
void harness_kill(struct harness *h);      // SIGKILL, reaps
int harness_wait_exit(struct harness *h);  // exit status as from waitpid
int harness_connect(struct harness *h);    // a second connection, not attached
void harness_attach(struct harness *h);    // (again) on a new connection

void harness_send(struct harness *h, Nodelink__V1__ToSupervisor *m);
void harness_run(struct harness *h, const struct run *run);
void harness_shell(struct harness *h, const char *id, const char *cmd);
void harness_cancel(struct harness *h, const char *id, const char *reason);
void harness_forget(struct harness *h, const char *id);
void harness_release(struct harness *h, const char *id, uint64_t out, uint64_t err, bool no_reader);
void harness_stop(struct harness *h, bool kill_tasks);

// Handles what has come; waits for something at most wait_ms.
void harness_pump(struct harness *h, int wait_ms);
struct seen *harness_seen(struct harness *h, const char *id);  // attempt 1; never NULL
// Wait, fail the test after the deadline.
const Nodelink__V1__TaskResult *harness_finished(struct harness *h, const char *id);
void harness_running(struct harness *h, const char *id);
const char *harness_refused(struct harness *h, const char *id);
void harness_until(struct harness *h, bool (*done)(struct harness *h, void *arg), void *arg,
                   const char *what);

// Whole spool file of a stream ("stdout", "stderr"); owned.
char *harness_output(struct harness *h, const char *id, const char *stream, size_t *ret_len);
void harness_assert_output(struct harness *h, const char *id, const char *stream, const char *want);
// Processes of this harness's tasks (by NODELINK_AGENT_ID) with this text in their environment:
// other runs of the tests on the machine are neither counted nor killed.
unsigned harness_count_marked(struct harness *h, const char *text);
void harness_kill_marked(struct harness *h, const char *text);
char *harness_read_file(const char *path, size_t *ret_len);     // owned, NULL: not there
const char *harness_path(struct harness *h, const char *name);  // in dir; static buffer

#endif
