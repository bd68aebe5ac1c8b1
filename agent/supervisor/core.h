// The supervisor's decisions, without processes, files, sockets or clocks: a machine that
// takes one event at a time and says what to do. The driver (loop.c and its parts) does it
// and reports back with further events. Single-threaded.
//
//   RUN --> INTENT --durable--> STARTING --exec--> RUNNING --main exited--> DRAINING
//             |                    |                                          |
//             | not written        | did not start                   output and tree done
//             v                    +------------------------------------------+
//          refused                                                            v
//   SPENT <--kept long enough-- FORGOTTEN <--forget-- FINISHED <--durable-- RECORDING
//     ^--------------forget, and there is no output---------+
//
// After a restart a task that was before RECORDING comes back as DRAINING with why = LOST:
// what is left of it is killed, then it is recorded as lost; it is never started again.
//
// A kill (cancel, timeout, stop, lost) runs beside the phases: NONE -> TERM -> KILL; it is
// over when the tree is empty. A task being killed is not recorded before that.
#ifndef NODELINK_AGENT_SUPERVISOR_CORE_H
#define NODELINK_AGENT_SUPERVISOR_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/base/crypto.h"

#define SUP_ID_LEN_MAX 128
#define SUP_KEY_SIZE (SUP_ID_LEN_MAX + 12)  // "ID.ATTEMPT" and NUL
#define SUP_READ_BYTES_MAX (64u * 1024u)
// What a pipe can still hold when its main process exits; read beyond the bounds so that no
// byte of the main process is lost.
#define SUP_OVERSHOOT_BYTES (1024u * 1024u)
#define SUP_SPENT_MAX 4096u
#define SUP_FORGOTTEN_MAX 16384u

enum sup_phase {
    SUP_INTENT,
    SUP_STARTING,
    SUP_RUNNING,
    SUP_DRAINING,
    SUP_RECORDING,
    SUP_FINISHED,
    SUP_FORGOTTEN,  // acknowledged; its output stays for readers
    SUP_SPENT,      // only remembered, so that a late duplicate is not started
};

enum sup_why { SUP_WHY_NONE, SUP_WHY_CANCEL, SUP_WHY_TIMEOUT, SUP_WHY_LOST };
enum sup_kill { SUP_KILL_NONE, SUP_KILL_TERM, SUP_KILL_KILL, SUP_KILL_DONE };

// The numbers are TaskResult.Kind's.
enum sup_kind {
    SUP_KIND_NONE,
    SUP_KIND_EXITED,
    SUP_KIND_SIGNALLED,
    SUP_KIND_TIMED_OUT,
    SUP_KIND_CANCELLED,
    SUP_KIND_NOT_STARTED,
    SUP_KIND_LOST,
};

struct sup_result {
    enum sup_kind kind;
    int32_t exit_code;
    int32_t signal;
    uint64_t bytes[2];  // of stdout, stderr
    uint8_t sha256[2][NL_SHA256_LEN];
    bool sha256_known[2];
    uint64_t started_wall_ms, finished_wall_ms;
    uint64_t user_us, system_us, max_rss_kb;
    char reason[384];
};

struct sup_stream {
    uint64_t base;            // lowest offset still in the spool
    uint64_t end;             // bytes so far
    uint64_t released;        // delivered to every reader
    uint64_t overshoot_end;   // set at exit: how far the bound may be exceeded
    uint64_t stuck_since_ms;  // 0: the spool can be written
    bool eof;
    bool paused;  // the driver does not watch the pipe
    bool cut;     // bytes from here on are read and dropped; the result says so
};

struct sup_timers {  // monotonic ms, 0: not set
    uint64_t timeout_at, kill_at, scan_at, give_up_at, drain_at, retry_at, keep_at;
};

struct sup_task {
    char id[SUP_ID_LEN_MAX + 1];
    char key[SUP_KEY_SIZE];  // also the name of its spool directory
    uint32_t attempt;
    uint64_t epoch;
    uint8_t digest[NL_SHA256_LEN];  // of the request, to notice another one of the same name
    enum sup_phase phase;
    enum sup_why why;
    enum sup_kill kill;
    uint64_t timeout_ms, grace_ms;
    int32_t pid;         // 0: none yet; process group and session have the same number
    uint64_t pid_start;  // from /proc, with pid it names one process of this boot
    uint64_t started_wall_ms;
    bool exited;  // the main process
    int32_t wait_status;
    bool no_reader;
    bool freeing;      // SUP_DO_FREE is under way: no longer found
    bool not_started;  // the result's reason says why
    struct sup_stream out[2];
    struct sup_timers timers;
    struct sup_result result;
    bool by_pid;  // in the table of processes
    void *io;     // the driver's; freed on SUP_DO_FREE
    LIST_ENTRY(sup_task) bucket;
    LIST_ENTRY(sup_task) pid_bucket;
    TAILQ_ENTRY(sup_task) order;  // all tasks, in the order they came
    TAILQ_ENTRY(sup_task) shelf;  // forgotten or spent ones, in the order they became so
};
TAILQ_HEAD(sup_task_list, sup_task);

enum sup_event_type {
    SUP_EV_RUN,             // id, attempt, epoch, digest, timeout_ms, grace_ms, text (refusal)
    SUP_EV_CANCEL,          // id, attempt, text (reason)
    SUP_EV_FORGET,          // id, attempt
    SUP_EV_RELEASE,         // id, attempt, offsets, flag (no_reader)
    SUP_EV_STOP,            // flag: kill the tasks
    SUP_EV_RECOVER,         // once, after the journal was read
    SUP_EV_INTENT_WRITTEN,  // task, flag (durable), text (why not)
    SUP_EV_SPAWNED,         // task, pid, pid_start
    SUP_EV_EXEC_OK,         // task
    SUP_EV_NOT_STARTED,     // task, text; flag: there is a process that will exit
    SUP_EV_EXITED,          // task, wait_status, user_us, system_us, max_rss_kb
    SUP_EV_READABLE,        // task, stream
    SUP_EV_OUTPUT,          // task, stream, bytes: written to the spool
    SUP_EV_EOF,             // task, stream
    SUP_EV_SPOOL_FAILED,    // task, stream, text
    SUP_EV_TREE,            // task, bytes: living processes
    SUP_EV_RESULT_WRITTEN,  // task, flag (durable)
    SUP_EV_TICK,
};

struct sup_event {
    enum sup_event_type type;
    struct sup_task *task;
    const char *id;
    uint32_t attempt;
    uint64_t epoch;
    const uint8_t *digest;
    uint64_t timeout_ms, grace_ms;
    const char *text;
    bool flag;
    unsigned stream;
    uint64_t bytes;
    uint64_t offsets[2];
    int32_t pid;
    uint64_t pid_start;
    int32_t wait_status;
    uint64_t user_us, system_us, max_rss_kb;
};

enum sup_action_type {
    SUP_DO_JOURNAL_INTENT,  // then SUP_EV_INTENT_WRITTEN
    SUP_DO_REFUSE,          // id, attempt, text; task NULL
    SUP_DO_SPAWN,           // then SPAWNED or NOT_STARTED
    SUP_DO_JOURNAL_STARTED,
    SUP_DO_REPORT,          // tell the link
    SUP_DO_SIGNAL,          // arg: signal for the whole tree, then SUP_EV_TREE
    SUP_DO_SCAN,            // then SUP_EV_TREE
    SUP_DO_READ,            // stream, arg bytes at most; then OUTPUT, EOF or SPOOL_FAILED
    SUP_DO_READ_LAST,       // stream: what there is, then EOF whatever comes
    SUP_DO_PAUSE,           // stream
    SUP_DO_RESUME,          // stream
    SUP_DO_RETRY,           // stream: write what is left over from a failure
    SUP_DO_CUT,             // stream: drop it, and what comes after
    SUP_DO_DROP,            // journal the new bases durably, then free the bytes below
    SUP_DO_CLOSE_OUTPUT,    // close the pipes, put totals and digests into the result
    SUP_DO_JOURNAL_RESULT,  // then SUP_EV_RESULT_WRITTEN
    SUP_DO_JOURNAL_FORGOTTEN,
    SUP_DO_DELETE_SPOOL,
    SUP_DO_FREE,  // the task leaves the core: free io, then sup_core_free_task
    SUP_DO_EXIT,
};

struct sup_action {
    enum sup_action_type type;
    struct sup_task *task;
    unsigned stream;
    uint64_t arg;
    char id[SUP_ID_LEN_MAX + 1];  // for SUP_DO_REFUSE
    uint32_t attempt;
    char text[256];
};

struct sup_limits {
    uint64_t kill_grace_ms, drain_ms;
    uint64_t task_bytes_max, total_bytes_max;
    uint64_t keep_ms, spent_ms, stuck_ms, idle_exit_ms;
    uint32_t tasks_max;
    bool leave_lost, drop_unread;
};

struct sup_core;

// NL_ENOMEM.
int sup_core_new(const struct sup_limits *limits, struct sup_core **ret);
// Frees the tasks too; their `io` is the driver's to free before.
void sup_core_free(struct sup_core *core);

// Journal replay: adds a task as it was read; the caller fills in the fields, phase included,
// before SUP_EV_RECOVER. NL_ENOMEM, NL_EINVAL (id), NL_EEXIST.
int sup_core_restore(struct sup_core *core, const char *id, uint32_t attempt,
                     struct sup_task **ret);
// One event. The actions wait in sup_core_next; all must be done before the next wait.
void sup_core_step(struct sup_core *core, uint64_t now_ms, uint64_t wall_ms,
                   const struct sup_event *event);
// False: nothing to do.
bool sup_core_next(struct sup_core *core, struct sup_action *ret);
// Monotonic ms of the next SUP_EV_TICK that is needed, 0: none.
uint64_t sup_core_deadline(const struct sup_core *core);
// Answers SUP_DO_FREE.
void sup_core_free_task(struct sup_core *core, struct sup_task *task);

struct sup_task *sup_core_find(const struct sup_core *core, const char *id, uint32_t attempt);
// The task whose main process this is, if it has not been said to have ended.
struct sup_task *sup_core_find_pid(const struct sup_core *core, int32_t pid);
// Known tasks in the order they came; NULL at the end. `after` NULL: the first.
struct sup_task *sup_core_walk(const struct sup_core *core, const struct sup_task *after);
size_t sup_core_running(const struct sup_core *core);  // before FINISHED
size_t sup_core_count(const struct sup_core *core);    // all
uint64_t sup_core_held_bytes(const struct sup_core *core);
bool sup_core_stopping(const struct sup_core *core);
// For the idle exit: whether a link is attached.
void sup_core_set_link(struct sup_core *core, uint64_t now_ms, bool attached);

const char *sup_phase_name(enum sup_phase phase);
const char *sup_action_name(enum sup_action_type type);

#endif
