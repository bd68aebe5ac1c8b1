// What a task's end means to the caller of `run`: the exit code and the word for it.
#ifndef NODELINK_TOOLS_VERDICT_H
#define NODELINK_TOOLS_VERDICT_H

#include <nodelink/v1/control.pb-c.h>
#include <stdbool.h>

#include "tools/client.h"

struct nl_verdict {
    // completed, failed, timed_out, cancelled, not_started (nothing was run), unknown (it may
    // have run, or runs still)
    const char *outcome;
    int exit_code;
};

// Of a task as last seen; NULL or not terminal: unknown. `by_us`: this caller cancelled it.
struct nl_verdict nl_verdict_of_task(const Nodelink__V1__Task *task, bool by_us);
// Of a submit that failed.
struct nl_verdict nl_verdict_of_submit(const struct nl_client_error *error);

#endif
