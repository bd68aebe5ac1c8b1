#include "tools/verdict.h"

#include <signal.h>

#include "tools/cli.h"
#include "tools/format.h"

enum { SIGNAL_BASE = 128 };  // as shells report a signal

static const struct nl_verdict UNKNOWN = {"unknown", NL_EXIT_UNKNOWN};

static struct nl_verdict failed_with(const Nodelink__V1__TaskResult *result) {
    switch (result->kind) {
        case NODELINK__V1__TASK_RESULT__KIND__SIGNALLED:
            return (struct nl_verdict){"failed", SIGNAL_BASE + result->signal};
        case NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED:
            return (struct nl_verdict){"not_started", NL_EXIT_CLUSTER};
        case NODELINK__V1__TASK_RESULT__KIND__EXITED:
            // A failed task with exit code 0 must not look like success.
            return (struct nl_verdict){"failed",
                                       result->exit_code != 0 ? result->exit_code : NL_EXIT_FAILED};
        case NODELINK__V1__TASK_RESULT__KIND__TIMED_OUT:
            return (struct nl_verdict){"timed_out", NL_EXIT_TIMED_OUT};
        default:
            return UNKNOWN;
    }
}

// Nothing was started for sure.
static bool unstarted(const Nodelink__V1__TaskResult *result) {
    return result != NULL && result->kind == NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED;
}

// The last attempt was never begun: how the one before it ended, if that is known.
static struct nl_verdict failed_earlier(const Nodelink__V1__AttemptRecords *earlier,
                                        struct nl_verdict otherwise) {
    for (size_t i = earlier->n_attempts; i > 0; i--) {
        const Nodelink__V1__TaskResult *result = earlier->attempts[i - 1]->result;
        if (!unstarted(result)) {
            return result == NULL ? UNKNOWN : failed_with(result);
        }
    }
    return otherwise;
}

static struct nl_verdict failed(const Nodelink__V1__Task *task) {
    const Nodelink__V1__TaskResult *result = task->has_result ? task->result : NULL;
    // The cluster gave up on it. Never sent: nothing ran. Sent: nobody knows.
    bool sent = task->dispatched_ms != 0 || task->started_ms != 0;
    struct nl_verdict verdict = result != NULL ? failed_with(result)
                                : sent         ? UNKNOWN
                                               : (struct nl_verdict){"not_started", NL_EXIT_AGENT};
    bool never = unstarted(result) || (result == NULL && !sent);
    return never && task->earlier != NULL ? failed_earlier(task->earlier, verdict) : verdict;
}

static struct nl_verdict cancelled(const Nodelink__V1__Task *task, bool by_us) {
    bool ran = task->started_ms != 0 ||
               (task->has_result && task->result != NULL && task->result->started_ms != 0);
    if (by_us) {
        return (struct nl_verdict){"cancelled", SIGNAL_BASE + SIGINT};
    }
    return (struct nl_verdict){"cancelled", ran ? SIGNAL_BASE + SIGTERM : NL_EXIT_CLUSTER};
}

struct nl_verdict nl_verdict_of_task(const Nodelink__V1__Task *task, bool by_us) {
    if (task == NULL) {
        return UNKNOWN;
    }
    switch (task->state) {
        case NODELINK__V1__TASK_STATE__TASK_COMPLETED:
            return (struct nl_verdict){"completed", NL_EXIT_OK};
        case NODELINK__V1__TASK_STATE__TASK_FAILED:
            return failed(task);
        case NODELINK__V1__TASK_STATE__TASK_TIMED_OUT:
            return (struct nl_verdict){"timed_out", NL_EXIT_TIMED_OUT};
        case NODELINK__V1__TASK_STATE__TASK_CANCELLED:
            return cancelled(task, by_us);
        default:
            return UNKNOWN;
    }
}

struct nl_verdict nl_verdict_of_submit(const struct nl_client_error *error) {
    if (error->outcome == NL_CLIENT_UNKNOWN) {
        return UNKNOWN;
    }
    bool agent = error->code == NL_RPC_NOT_FOUND || error->code == NL_RPC_FAILED_PRECONDITION;
    return (struct nl_verdict){"not_started", agent ? NL_EXIT_AGENT : NL_EXIT_CLUSTER};
}
