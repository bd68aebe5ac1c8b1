// From the start of a task's process to its exec. The child runs in the memory of the supervisor,
// on a stack of its own, while the supervisor goes on: a copy of its page tables (fork) costs more
// than a short command itself, and waiting for the exec (vfork) would let one program or directory
// on a file system that hangs stop all tasks. So the child writes nothing but its stack: it calls
// the kernel directly, because the C library would write the supervisor's errno.
#ifndef NODELINK_AGENT_SUPERVISOR_CHILD_H
#define NODELINK_AGENT_SUPERVISOR_CHILD_H

#include <stdint.h>
#include <sys/types.h>

#include "agent/supervisor/spawn.h"

// Where a child failed; the numbers go through the status pipe.
enum sup_child_stage { SUP_CHILD_SETUP, SUP_CHILD_DIRECTORY, SUP_CHILD_PROGRAM };

struct sup_child_request {
    char *const *candidates, *const *argv, *const *envp;  // as in struct sup_spec
    const char *working_dir;                              // or NULL
    const struct sup_spawn_base *base;
    int in, out[2], status;  // all above 2; status is closed by the exec, or gets SUP_STATUS_LEN
                             // bytes: stage and errno
    pid_t parent;
};

struct sup_child {
    struct sup_child_request request;
    _Alignas(16) uint8_t stack[16 * 1024];
};

// The process's number; -1 with errno. `child` and all that its request points to must stay until
// the status pipe is at its end (the kernel closes it after the memory is let go) or the process
// was waited for.
pid_t sup_child_start(struct sup_child *child);

#endif
