// Starting a task's process. The spec is built before; until the exec the child reads it in the
// memory of the supervisor (child.h). Single-threaded.
#ifndef NODELINK_AGENT_SUPERVISOR_SPAWN_H
#define NODELINK_AGENT_SUPERVISOR_SPAWN_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

struct sup_spec {
    char **argv;              // ends with NULL
    char **envp;              // ends with NULL
    char **candidates;        // paths that are tried in turn; ends with NULL
    char *working_dir;        // NULL: the supervisor's
    struct sup_child *child;  // once it was started
};

struct sup_spec_context {
    const char *agent_id;    // or NULL
    const char *journal_id;  // marks the processes of this supervisor's tasks
};

// Copies what it needs of the request. NL_ENOMEM; NL_EINVAL with `reason`: nothing that can
// be run (no command, an environment entry without '=').
int sup_spec_new(const Nodelink__V1__SupRun *run, const struct sup_spec_context *context,
                 char reason[256], struct sup_spec **ret);
void sup_spec_free(struct sup_spec *spec);  // also NULL; not while a child may read it

// What the supervisor changed for itself and a task must not inherit, and what tasks share.
struct sup_spawn_base {
    int null_fd;  // open for reading
    mode_t umask;
    struct rlimit nofile;
};

struct sup_spawned {
    pid_t pid;
    uint64_t start;  // sup_proc_start, 0: not known
    int status_fd;   // readable when the exec has failed (SUP_STATUS_LEN bytes) or worked (end)
    int out_fds[2];  // stdout, stderr; non-blocking
};

#define SUP_STATUS_LEN 8u

// All descriptors are close-on-exec and the caller's. NL_E* of the system (`reason` says
// which); then there is no process. The spec and `base` must stay until status_fd is at its end or
// the process was waited for.
int sup_spawn(struct sup_spec *spec, const struct sup_spawn_base *base, char reason[256],
              struct sup_spawned *ret);
// Text for SUP_STATUS_LEN bytes read from status_fd.
void sup_spawn_explain(const struct sup_spec *spec, const uint8_t status[SUP_STATUS_LEN],
                       char reason[256]);

#endif
