// SubmitTasks for benchmarks: a stream for each line of the load, opened when the first request
// goes. Loop thread only.
#ifndef NODELINK_TOOLS_BENCH_SUBMITS_H
#define NODELINK_TOOLS_BENCH_SUBMITS_H

#include <nodelink/v1/control.pb-c.h>

#include "tools/bench/bench.h"

struct nl_bench_submits;

struct nl_bench_submits_events {
    // The answer to one request; index: of the log, when it was accepted.
    void (*answered)(void *user, const char *task_id, const struct nl_rpc_status *status,
                     uint64_t index);
    // The stream of this line has ended; what it has not answered is lost.
    void (*ended)(void *user, size_t line, const struct nl_rpc_status *status);
};

// NULL: no memory. All is borrowed and outlives it.
struct nl_bench_submits *nl_bench_submits_new(struct nl_bench *bench,
                                              const struct nl_bench_submits_events *events,
                                              void *user);
// After nl_bench_close, which ends the streams. NULL is allowed.
void nl_bench_submits_free(struct nl_bench_submits *submits);
// As nl_rpc_call_send.
int nl_bench_submits_send(struct nl_bench_submits *submits, size_t line,
                          const Nodelink__V1__SubmitTaskRequest *request);

#endif
