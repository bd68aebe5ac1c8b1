// Names of states, outcomes and signals.

#include "cluster/state/internal.h"

bool nl_task_is_terminal(enum nl_task_state state) {
    return state >= NL_TASK_COMPLETED;
}

const char *nl_task_state_name(enum nl_task_state state) {
    switch (state) {
        case NL_TASK_PENDING:
            return "pending";
        case NL_TASK_DISPATCHED:
            return "dispatched";
        case NL_TASK_RUNNING:
            return "running";
        case NL_TASK_UNKNOWN:
            return "unknown";
        case NL_TASK_COMPLETED:
            return "completed";
        case NL_TASK_FAILED:
            return "failed";
        case NL_TASK_TIMED_OUT:
            return "timed out";
        case NL_TASK_CANCELLED:
            return "cancelled";
    }
    return "?";
}

const char *nl_agent_connection_name(enum nl_agent_connection c) {
    switch (c) {
        case NL_AGENT_NEVER_CONNECTED:
            return "never connected";
        case NL_AGENT_CONNECTED:
            return "connected";
        case NL_AGENT_DISCONNECTED:
            return "disconnected";
        case NL_AGENT_UNREACHABLE:
            return "unreachable";
        case NL_AGENT_LOST:
            return "lost";
    }
    return "?";
}

const char *nl_outcome_name(enum nl_outcome_code code) {
    static const char *const names[] = {
        [NL_OUTCOME_OK] = "ok",
        [NL_OUTCOME_EXISTED] = "existed",
        [NL_OUTCOME_CONFLICT] = "conflict",
        [NL_OUTCOME_NO_AGENT] = "no such agent",
        [NL_OUTCOME_NO_TASK] = "no such task",
        [NL_OUTCOME_AGENT_OFFLINE] = "agent offline",
        [NL_OUTCOME_LIMIT] = "limit",
        [NL_OUTCOME_BAD_TOKEN] = "bad token",
        [NL_OUTCOME_STALE] = "stale",
        [NL_OUTCOME_LATE] = "late",
        [NL_OUTCOME_TOO_LATE] = "too late",
        [NL_OUTCOME_CANCEL_REQUESTED] = "cancel requested",
        [NL_OUTCOME_INVALID] = "invalid",
        [NL_OUTCOME_NOTHING] = "nothing",
        [NL_OUTCOME_STALE_BOOT] = "stale boot",
    };
    size_t i = (size_t)code;
    return i < sizeof names / sizeof names[0] && names[i] != NULL ? names[i] : "?";
}

const char *nl_signal_name(int32_t signal) {
    // By the numbers of Linux (those of the agents), not by this host's <signal.h>.
    static const char *const names[] = {
        NULL,        "SIGHUP",  "SIGINT",    "SIGQUIT", "SIGILL",   "SIGTRAP", "SIGABRT", "SIGBUS",
        "SIGFPE",    "SIGKILL", "SIGUSR1",   "SIGSEGV", "SIGUSR2",  "SIGPIPE", "SIGALRM", "SIGTERM",
        "SIGSTKFLT", "SIGCHLD", "SIGCONT",   "SIGSTOP", "SIGTSTP",  "SIGTTIN", "SIGTTOU", "SIGURG",
        "SIGXCPU",   "SIGXFSZ", "SIGVTALRM", "SIGPROF", "SIGWINCH", "SIGIO",   "SIGPWR",  "SIGSYS",
    };
    bool known = signal > 0 && (size_t)signal < sizeof names / sizeof names[0];
    return known ? names[signal] : NULL;
}
