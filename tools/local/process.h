// Processes that outlive the command that started them. A pid alone names nobody for long: with
// the start time of /proc/PID/stat it does, and a signal goes through a pidfd that was opened
// before that was checked, so that a foreign process is never hit.
#ifndef NODELINK_TOOLS_LOCAL_PROCESS_H
#define NODELINK_TOOLS_LOCAL_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct nl_process {
    pid_t pid;       // 0: none
    uint64_t start;  // clock ticks since boot
};

enum nl_process_state { NL_PROCESS_GONE, NL_PROCESS_RUNNING, NL_PROCESS_PAUSED };

// As /proc knows the pid now. NL_ENOTFOUND: no such process (a zombie is none).
int nl_process_of_pid(pid_t pid, struct nl_process *ret);
// Of the pid in a file written by `program` (base name of its executable) itself: a process that
// is younger than the file, or runs another program, is not the one. NL_ENOTFOUND.
int nl_process_of_file(const char *path, const char *program, struct nl_process *ret);
enum nl_process_state nl_process_state(const struct nl_process *process);
// NL_ENOTFOUND: it is gone; NL_EPERM.
int nl_process_signal(const struct nl_process *process, int number);

// Starts argv[0] in a session of its own, stdin from /dev/null, output appended to `log`, every
// other descriptor closed. `environment` ends with NULL. NL_ENOTFOUND, NL_EPERM, NL_EIO.
int nl_process_start(char *const argv[], char *const environment[], const char *log,
                     struct nl_process *ret);

// All descendants of a process. *ret is owned.
int nl_process_descendants(const struct nl_process *root, struct nl_process **ret,
                           size_t *ret_count);

// All processes that were started with `entry` ("KEY=VALUE") in their environment and whose
// environment we may read. *ret is owned.
int nl_process_with_environment(const char *entry, struct nl_process **ret, size_t *ret_count);

#endif
