// The supervisor process: parent of every task, outlives the link process. Single-threaded,
// no gRPC. `nodelink-agent supervisor ...` calls nl_supervisor_main and returns its result.
// README.md describes the state directory, the journal and what is promised.
#ifndef NODELINK_AGENT_SUPERVISOR_SUPERVISOR_H
#define NODELINK_AGENT_SUPERVISOR_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>

// Strings are borrowed for the life of the call. Zero means the default in brackets, for
// bounds and times; use the SUP_* constants to say so in --help.
struct nl_supervisor_options {
    const char *state_dir;           // made if missing, mode 0700
    const char *agent_id;            // for NODELINK_AGENT_ID; NULL: not set in the tasks
    uint64_t kill_grace_ms;          // between TERM and KILL unless the task says [10 s]
    uint64_t drain_ms;               // wait for the pipes' end after the main process exited [2 s]
    uint64_t spool_task_bytes_max;   // per task, both streams together [1 GiB]
    uint64_t spool_total_bytes_max;  // [8 GiB]
    uint64_t spool_keep_ms;          // spool of a forgotten task [1 h]
    uint64_t spool_stuck_ms;         // a spool that can't be written for so long is cut [30 s]
    uint64_t disk_free_bytes_min;    // below it new runs are refused [64 MiB]
    uint64_t idle_exit_ms;           // without link and running tasks; 0: never
    uint32_t tasks_max;              // running at once; beyond it runs are refused [4096]
    bool leave_lost_running;         // don't kill what is left of a task whose supervisor died
    bool drop_unread;  // at a spool bound output that nobody reads goes, instead of waiting
};

#define NL_SUP_KILL_GRACE_MS 10000u
#define NL_SUP_DRAIN_MS 2000u
#define NL_SUP_SPOOL_TASK_BYTES_MAX (1ull << 30)
#define NL_SUP_SPOOL_TOTAL_BYTES_MAX (8ull << 30)
#define NL_SUP_SPOOL_KEEP_MS 3600000u
#define NL_SUP_SPOOL_STUCK_MS 30000u
#define NL_SUP_DISK_FREE_BYTES_MIN (64ull << 20)
#define NL_SUP_TASKS_MAX 4096u

// Runs until told to stop (SIGTERM, SIGINT, SIGQUIT, SupStop, idle exit). The caller has one
// thread, has set the log up, and exits with the result:
//   0  stopped cleanly
//   1  the state directory can't be used (corrupt journal, no permission, path too long); logged
//   3  another supervisor holds the state directory: nothing to do
int nl_supervisor_main(const struct nl_supervisor_options *options);

enum { NL_SUP_EXIT_OK = 0, NL_SUP_EXIT_FAILED = 1, NL_SUP_EXIT_HELD = 3 };

#endif
