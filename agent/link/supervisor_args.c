// The supervisor's command line: it reads no file and no environment, so that one that is
// started again tomorrow is the same as today's.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/link/link.h"

enum { ARGS_MAX = 32, TEXT_LEN = 64 };

struct builder {
    char **args;
    size_t count;
    bool failed;
};

static void add(struct builder *b, const char *text) {
    char *copy = strdup(text);
    if (copy == NULL || b->count + 1 == ARGS_MAX) {
        free(copy);
        b->failed = true;
        return;
    }
    b->args[b->count++] = copy;
}

static void add_number(struct builder *b, const char *flag, uint64_t value, const char *unit) {
    char text[TEXT_LEN];
    snprintf(text, sizeof text, "%" PRIu64 "%s", value, unit);
    add(b, flag);
    add(b, text);
}

char **nl_link_supervisor_args(const struct nl_link_settings *settings, const char *self_exe,
                               const char *state_dir) {
    struct builder b = {.args = calloc(ARGS_MAX, sizeof(char *))};
    if (b.args == NULL) {
        return NULL;
    }
    add(&b, self_exe);
    add(&b, "supervisor");
    add(&b, "--state-dir");
    add(&b, state_dir);
    add(&b, "--agent-id");
    add(&b, settings->agent_id);
    add_number(&b, "--kill-grace", settings->kill_grace_ms, "ms");
    add_number(&b, "--spool-task-max", settings->spool_task_bytes_max, "");
    add_number(&b, "--spool-total-max", settings->spool_total_bytes_max, "");
    add_number(&b, "--spool-keep", settings->spool_keep_ms, "ms");
    add_number(&b, "--tasks-max", settings->tasks_max, "");
    add_number(&b, "--supervisor-idle-exit", settings->supervisor_idle_exit_ms, "ms");
    add(&b, "--lost-tasks");
    add(&b, settings->lost_tasks);
    add(&b, "--spool-full");
    add(&b, settings->spool_full);
    add(&b, "--log-level");
    add(&b, settings->log_level);
    add(&b, "--log-format");
    add(&b, settings->log_format);
    if (b.failed) {
        nl_link_supervisor_args_free(b.args);
        return NULL;
    }
    return b.args;
}

void nl_link_supervisor_args_free(char **args) {
    for (size_t i = 0; args != NULL && args[i] != NULL; i++) {
        free(args[i]);
    }
    free(args);
}
