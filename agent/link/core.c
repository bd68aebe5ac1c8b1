#include "agent/link/core.h"

#include <stdlib.h>
#include <string.h>

#include "agent/link/core_internal.h"
#include "common/base/err.h"

enum {
    ATTACH_MS = 10000,
    SUPERVISOR_MS = 10000,
    HEADERS_MS = 5000,
    WELCOME_MS = 10000,
    STABLE_MS = 10000,
    STOCK_SETTLE_MS = 15000,
    READER_LINGER_MS = 30000,
    KILL_WAIT_MS = 20000,
    FORGOTTEN_KEEP_MS = 3600 * 1000,
    TASKS_MAX = 16384,
    SUBS_MAX = 1024,
    HOUSEKEEP_MS = 1000,
};

// ---- life ------------------------------------------------------------------

static void set_default(uint64_t *field, uint64_t value) {
    *field = *field == 0 ? value : *field;
}

static void set_default32(uint32_t *field, uint32_t value) {
    *field = *field == 0 ? value : *field;
}

static void set_defaults(struct nl_link_core_options *o) {
    set_default(&o->attach_ms, ATTACH_MS);
    set_default(&o->supervisor_ms, SUPERVISOR_MS);
    set_default(&o->headers_ms, HEADERS_MS);
    set_default(&o->welcome_ms, WELCOME_MS);
    set_default(&o->stable_ms, STABLE_MS);
    set_default(&o->stock_settle_ms, STOCK_SETTLE_MS);
    set_default(&o->reader_linger_ms, READER_LINGER_MS);
    set_default(&o->kill_wait_ms, KILL_WAIT_MS);
    set_default(&o->forgotten_keep_ms, FORGOTTEN_KEEP_MS);
    set_default32(&o->tasks_max, TASKS_MAX);
    set_default32(&o->forgotten_max, TASKS_MAX);
    set_default32(&o->subs_max, SUBS_MAX);
}

static void free_labels(struct nl_link_core *core) {
    for (size_t i = 0; i < core->label_count; i++) {
        free(core->labels[i].key);
    }
    free(core->labels);
    core->labels = NULL;
    core->label_count = 0;
}

static void set_labels(struct nl_link_core *core, struct nl_link_strings list) {
    free_labels(core);
    core->labels = calloc(list.count + 1, sizeof *core->labels);
    if (core->labels == NULL) {
        core->no_memory = true;
        return;
    }
    for (size_t i = 0; i < list.count; i++) {
        char *key = nl_link_strdup(core, list.items[i]);
        if (key == NULL) {
            return;
        }
        char *eq = strchr(key, '=');
        char *value = eq == NULL ? key + strlen(key) : eq + 1;
        if (eq != NULL) {
            *eq = '\0';
        }
        core->labels[core->label_count++] = (struct nl_link_label_copy){key, value};
    }
}

static bool same_labels(const struct nl_link_core *core, struct nl_link_strings list) {
    bool same = list.count == core->label_count;
    for (size_t i = 0; same && i < list.count; i++) {
        const struct nl_link_label_copy *label = &core->labels[i];
        size_t len = strlen(label->key);
        const char *text = list.items[i];
        same = strncmp(text, label->key, len) == 0 && text[len] == '=' &&
               strcmp(text + len + 1, label->value) == 0;
    }
    return same;
}

static void copy_strings(struct nl_link_core *core) {
    struct nl_link_core_options *o = &core->options;
    o->agent_id = nl_link_strdup(core, o->agent_id);
    o->version = nl_link_strdup(core, o->version);
    o->hostname = nl_link_strdup(core, o->hostname);
    o->os = nl_link_strdup(core, o->os);
    o->labels = o->servers = o->learned = (struct nl_link_strings){NULL, 0};
    o->last_good = NULL;
}

static int init_servers(struct nl_link_core *core, const struct nl_link_core_options *options) {
    struct nl_link_servers *s = &core->servers;
    int rv = nl_link_servers_init(s, options->agent_id);
    if (rv == NL_OK) {
        rv = nl_link_servers_set_configured(s, options->servers, NULL);
    }
    if (rv == NL_OK) {
        rv = nl_link_servers_set_learned(s, options->learned, NULL);
    }
    bool changed = false;
    if (rv == NL_OK && options->last_good != NULL) {
        rv = nl_link_servers_good(s, options->last_good, &changed);
    }
    return rv;
}

int nl_link_core_new(const struct nl_link_core_options *options, struct nl_link_core **ret) {
    struct nl_link_core *core = calloc(1, sizeof *core);
    if (core == NULL) {
        return NL_ENOMEM;
    }
    core->options = *options;
    nl_link_tasks_init(&core->tasks);
    nl_link_subs_init(&core->subs);
    copy_strings(core);
    set_defaults(&core->options);
    set_labels(core, options->labels);
    core->epoch = options->epoch;
    core->attach_by_ms = core->sup_back_by_ms = UINT64_MAX;
    core->backoff = (struct nl_link_backoff){.start_ms = options->backoff_start_ms,
                                             .cap_ms = options->backoff_cap_ms,
                                             .factor_percent = options->backoff_factor_percent};
    if (init_servers(core, options) != NL_OK || core->no_memory) {
        nl_link_core_free(core);
        return NL_ENOMEM;
    }
    *ret = core;
    return NL_OK;
}

void nl_link_core_free(struct nl_link_core *core) {
    if (core == NULL) {
        return;
    }
    nl_link_actions_clear(core);
    free(core->actions);
    struct nl_link_task *task;
    TAILQ_FOREACH(task, &core->tasks.live, in_order) {
        while (!TAILQ_EMPTY(&task->subs)) {
            nl_link_subs_close(&core->subs, TAILQ_FIRST(&task->subs));
        }
    }
    TAILQ_FOREACH(task, &core->tasks.forgotten, in_order) {
        while (!TAILQ_EMPTY(&task->subs)) {
            nl_link_subs_close(&core->subs, TAILQ_FIRST(&task->subs));
        }
    }
    nl_link_tasks_close(&core->tasks);
    nl_link_servers_close(&core->servers);
    free_labels(core);
    free(core->main.address);
    free(core->spare.address);
    free(core->boot_id);
    free(core->journal_id);
    free((char *)core->options.agent_id);
    free((char *)core->options.version);
    free((char *)core->options.hostname);
    free((char *)core->options.os);
    free(core);
}

// ---- housekeeping ----------------------------------------------------------

void nl_link_housekeep_soon(struct nl_link_core *core) {
    if (core->housekeep_ms == 0) {
        core->housekeep_ms = core->now_ms + HOUSEKEEP_MS;
    }
}

void nl_link_remove_task(struct nl_link_core *core, struct nl_link_task *task) {
    nl_link_output_task_gone(core, task);
    nl_link_tasks_remove(&core->tasks, task);
}

// A stock server acknowledges nothing: that its stream lived on is all that can be known.
static bool is_settled_on_stock(const struct nl_link_core *core, const struct nl_link_task *task) {
    return core->main.state == NL_LINK_STOCK && task->phase == NL_LINK_FINISHED &&
           task->result_on == core->main.call &&
           task->result_at_ms + core->options.stock_settle_ms <= core->now_ms;
}

static void housekeep(struct nl_link_core *core) {
    core->housekeep_ms = 0;
    struct nl_link_task *task = TAILQ_FIRST(&core->tasks.live);
    while (task != NULL) {
        struct nl_link_task *next = TAILQ_NEXT(task, in_order);
        if (task->no_reader_at_ms != 0 && task->no_reader_at_ms <= core->now_ms) {
            nl_link_sup_release(core, task);
        }
        if (is_settled_on_stock(core, task)) {
            if (task->local) {
                nl_link_remove_task(core, task);
            } else {
                nl_link_sup_forget(core, task);
            }
        }
        task = next;
    }
    while ((task = TAILQ_FIRST(&core->tasks.forgotten)) != NULL &&
           (core->tasks.forgotten_count > core->options.forgotten_max ||
            task->forgotten_at_ms + core->options.forgotten_keep_ms <= core->now_ms)) {
        nl_link_remove_task(core, task);
    }
    if (!TAILQ_EMPTY(&core->tasks.live) || !TAILQ_EMPTY(&core->tasks.forgotten)) {
        nl_link_housekeep_soon(core);
    }
}

// ---- stop ------------------------------------------------------------------

static void leave(struct nl_link_core *core) {
    if (core->main.state != NL_LINK_NONE) {
        nl_link_conn_goodbye(core, &core->main, "the agent is stopping");
    }
    if (core->spare.state != NL_LINK_NONE) {
        nl_link_conn_goodbye(core, &core->spare, "the agent is stopping");
    }
    nl_link_output_drop_all(core);
    core->exited = true;
    nl_link_do(core, NL_LINK_EXIT, 0);
}

// With kill_tasks the supervisor ends after its tasks, and their results still go out: its socket's
// end is the sign.
static void stop(struct nl_link_core *core, bool kill_tasks) {
    bool again = core->stopping;
    core->stopping = true;
    nl_link_sup_stop(core, kill_tasks);
    if (kill_tasks && !again && core->sup_up) {
        core->stop_at_ms = core->now_ms + core->options.kill_wait_ms;
    } else {
        leave(core);
    }
}

static bool is_stop_over(const struct nl_link_core *core) {
    return core->stopping && (!core->sup_up || core->stop_at_ms <= core->now_ms);
}

// ---- step ------------------------------------------------------------------

static void config(struct nl_link_core *core, const struct nl_link_event *event) {
    bool changed = false;
    if (!same_labels(core, event->config.labels)) {
        set_labels(core, event->config.labels);
        nl_link_conn_labels_changed(core);
    }
    core->no_memory |=
        nl_link_servers_set_configured(&core->servers, event->config.servers, &changed) != 0;
    if (changed) {
        nl_link_conn_servers_changed(core);
    }
}

static void dispatch(struct nl_link_core *core, const struct nl_link_event *event) {
    switch (event->type) {
        case NL_LINK_TICK:
            break;
        case NL_LINK_CONFIG:
            config(core, event);
            break;
        case NL_LINK_STOP:
            stop(core, event->kill_tasks);
            break;
        case NL_LINK_EPOCH_SAVED:
        case NL_LINK_CALL_UP:
        case NL_LINK_CALL_HEADERS:
        case NL_LINK_CALL_MESSAGE:
        case NL_LINK_CALL_CLOSED:
            nl_link_conn_event(core, event);
            break;
        case NL_LINK_SUP_UP:
        case NL_LINK_SUP_DOWN:
        case NL_LINK_SUP_MESSAGE:
            nl_link_sup_event(core, event);
            break;
        case NL_LINK_OUTPUT_SENT:
        case NL_LINK_OUTPUT_FAILED:
            nl_link_output_event(core, event);
            break;
    }
}

int nl_link_core_step(struct nl_link_core *core, uint64_t now_ms, const struct nl_link_event *event,
                      struct nl_link_actions *ret) {
    nl_link_actions_clear(core);
    core->now_ms = now_ms;
    core->random = event->random;
    if (!core->exited) {
        dispatch(core, event);
    }
    if (!core->exited) {
        nl_link_conn_tick(core);
        if (core->attach_by_ms <= now_ms) {
            core->attach_by_ms = UINT64_MAX;
            nl_link_do(core, NL_LINK_SUP_DROP, 0);
        }
        if (core->sup_back_by_ms <= now_ms) {
            core->sup_back_by_ms = UINT64_MAX;
            nl_link_conn_supervisor_gone(core);
        }
        if (core->housekeep_ms != 0 && core->housekeep_ms <= now_ms) {
            housekeep(core);
        }
        if (is_stop_over(core)) {
            leave(core);
        }
    }
    if (core->no_memory) {
        return NL_ENOMEM;
    }
    *ret = (struct nl_link_actions){core->actions, core->action_count};
    return NL_OK;
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

uint64_t nl_link_core_deadline_ms(const struct nl_link_core *core) {
    uint64_t at = nl_link_conn_deadline_ms(core);
    if (core->exited) {
        return UINT64_MAX;
    }
    if (core->housekeep_ms != 0) {
        at = earlier(at, core->housekeep_ms);
    }
    at = earlier(at, earlier(core->attach_by_ms, core->sup_back_by_ms));
    return core->stopping ? earlier(at, core->stop_at_ms) : at;
}

const struct nl_link_servers *nl_link_core_servers(const struct nl_link_core *core) {
    return &core->servers;
}

enum nl_link_state nl_link_core_state(const struct nl_link_core *core) {
    return core->main.state;
}

uint64_t nl_link_core_epoch(const struct nl_link_core *core) {
    return core->epoch;
}
