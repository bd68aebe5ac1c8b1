// `nodelink run`: what the command line asked for, and the two ways to do it.
#ifndef NODELINK_TOOLS_RUN_H
#define NODELINK_TOOLS_RUN_H

#include <nodelink/v1/control.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/cli.h"
#include "tools/view.h"

struct nl_run_options {
    bool detach;
    bool all;
    bool no_prefix;
    const char *task_id;
    const char *idempotency_key;
    const char *cwd;
    uint64_t timeout_ms;  // of the task
    uint64_t kill_grace_ms;
    uint64_t wait_for_agent_ms;
    uint64_t attempts;
    const char *retry_on;
    const char *start_by, *finish_by;  // a duration or a time
    uint64_t patience_ms;
    uint64_t parallel;
    struct nl_arg_list env;
    struct nl_arg_list labels;
};

enum { NL_RETRY_ON_MAX = 5 };

struct nl_run_plan {
    const struct nl_run_options *options;
    Nodelink__V1__TaskSpec spec;  // agent_id is set per task; points into the rest of this
    struct nl_labels labels;
    char *cmd;  // owned
    Nodelink__V1__RetryOn retry_on[NL_RETRY_ON_MAX];
};

enum { NL_TASK_ID_SIZE = 65 };
// The id of the task on `agent`: --task-id, or made from --idempotency-key and the agent, or
// random. out holds NL_TASK_ID_SIZE for the last two; the result is borrowed.
const char *nl_run_task_id(const struct nl_run_options *options, const char *agent, char *out);

// --attempts, --retry-on, --start-by, --finish-by into the spec. Says on stderr what is wrong.
// NL_EXIT_OK or NL_EXIT_USAGE.
int nl_run_limits(const struct nl_cli *cli, struct nl_run_plan *plan);

// How long a submit may take: a caller without a quorum should hear of it sooner than one whose
// task runs already.
uint64_t nl_run_submit_ms(const struct nl_run_options *options);

// All of it, or what was written before the reader went away. NL_OK; NL_ECLOSED: nobody reads;
// NL_ECANCELED: Ctrl-C twice; NL_EIO.
int nl_run_write(int fd, const void *data, size_t len);

// Exit codes.
int nl_run_one(struct nl_cli *cli, const struct nl_run_plan *plan, const char *agent);
int nl_run_many(struct nl_cli *cli, const struct nl_run_plan *plan);

#endif
