#include "server/housekeeping_core.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "server/messages.h"

// A pruned task costs every node a few microseconds of its loop, and all of a command's go at once.
enum { AGAIN_MS = 1000, PRUNE_MAX = 250 };

enum kind { AGENT_UNREACHABLE, AGENT_LOST, TASK_WAITED, TASK_DEADLINE, TASK_SILENT };

struct due {
    uint64_t at_ms;
    enum kind kind;
    uint64_t epoch;  // of the agent
    char *id;        // owned
};

// Binary heap by time. Entries whose condition no longer holds are dropped when their time comes.
struct nl_housekeeper {
    bool leading;
    struct due *heap;
    size_t count, cap;
};

struct nl_housekeeper *nl_housekeeper_new(void) {
    return calloc(1, sizeof(struct nl_housekeeper));
}

void nl_housekeeper_follow(struct nl_housekeeper *hk) {
    for (size_t i = 0; i < hk->count; i++) {
        free(hk->heap[i].id);
    }
    hk->count = 0;
    hk->leading = false;
}

void nl_housekeeper_free(struct nl_housekeeper *hk) {
    if (hk != NULL) {
        nl_housekeeper_follow(hk);
        free(hk->heap);
        free(hk);
    }
}

size_t nl_housekeeper_count(const struct nl_housekeeper *hk) {
    return hk->count;
}

// ---- heap ------------------------------------------------------------------

static void sift_up(struct nl_housekeeper *hk, size_t i) {
    while (i > 0 && hk->heap[(i - 1) / 2].at_ms > hk->heap[i].at_ms) {
        struct due tmp = hk->heap[i];
        hk->heap[i] = hk->heap[(i - 1) / 2];
        hk->heap[(i - 1) / 2] = tmp;
        i = (i - 1) / 2;
    }
}

static void sift_down(struct nl_housekeeper *hk, size_t i) {
    for (;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < hk->count; child++) {
            least = hk->heap[child].at_ms < hk->heap[least].at_ms ? child : least;
        }
        if (least == i) {
            return;
        }
        struct due tmp = hk->heap[i];
        hk->heap[i] = hk->heap[least];
        hk->heap[least] = tmp;
        i = least;
    }
}

static int push(struct nl_housekeeper *hk, uint64_t at_ms, enum kind kind, const char *id,
                uint64_t epoch) {
    if (hk->count == hk->cap) {
        size_t cap = hk->cap > 0 ? 2 * hk->cap : 64;
        struct due *heap = realloc(hk->heap, cap * sizeof *heap);
        if (heap == NULL) {
            return NL_ENOMEM;
        }
        hk->heap = heap;
        hk->cap = cap;
    }
    char *copy = strdup(id);
    if (copy == NULL) {
        return NL_ENOMEM;
    }
    hk->heap[hk->count] = (struct due){at_ms, kind, epoch, copy};
    sift_up(hk, hk->count++);
    return NL_OK;
}

static void pop(struct nl_housekeeper *hk) {
    free(hk->heap[0].id);
    hk->heap[0] = hk->heap[--hk->count];
    sift_down(hk, 0);
}

// ---- what is to be watched -------------------------------------------------

static int watch_agent(struct nl_housekeeper *hk, uint64_t now,
                       const struct nl_housekeeping_times *times, const struct nl_agent *agent) {
    int rv = NL_OK;
    uint64_t lost_at = now + times->disconnect_grace_ms;
    if (agent->connection == NL_AGENT_DISCONNECTED &&
        times->unreachable_after_ms < times->disconnect_grace_ms) {
        rv =
            push(hk, now + times->unreachable_after_ms, AGENT_UNREACHABLE, agent->id, agent->epoch);
    }
    if (rv == NL_OK &&
        (agent->connection == NL_AGENT_DISCONNECTED || agent->connection == NL_AGENT_UNREACHABLE)) {
        rv = push(hk, lost_at, AGENT_LOST, agent->id, agent->epoch);
    }
    return rv;
}

static uint64_t later(uint64_t now, uint64_t ms) {
    return ms < UINT64_MAX - now ? now + ms : UINT64_MAX;
}

// A task that was sent is the agent's, and one that may be sent its owner's: they keep its
// deadlines.
static int watch_pending(struct nl_housekeeper *hk, uint64_t now,
                         const struct nl_housekeeping_times *times, const struct nl_task *task) {
    uint64_t wait = task->spec->wait_for_agent_ms;
    uint64_t start = nl_task_start_deadline_ms(task), finish = nl_task_finish_deadline_ms(task);
    uint64_t first = start == 0 || (finish != 0 && finish < start) ? finish : start;
    int rv = NL_OK;
    if (first != 0) {
        uint64_t left = first > times->wall_ms ? first - times->wall_ms : 0;
        rv = push(hk, later(now, left), TASK_DEADLINE, task->id, 0);
    }
    if (rv == NL_OK && wait > 0) {
        rv = push(hk, later(now, wait), TASK_WAITED, task->id, 0);
    }
    return rv;
}

static int watch_task(struct nl_housekeeper *hk, uint64_t now,
                      const struct nl_housekeeping_times *times, const struct nl_task *task) {
    if (task->state == NL_TASK_PENDING) {
        return watch_pending(hk, now, times, task);
    }
    if (task->state == NL_TASK_UNKNOWN) {
        return push(hk, now + times->disconnect_grace_ms, TASK_SILENT, task->id, 0);
    }
    return NL_OK;
}

int nl_housekeeper_lead(struct nl_housekeeper *hk, uint64_t now_ms,
                        const struct nl_housekeeping_times *times, const struct nl_state *state) {
    nl_housekeeper_follow(hk);
    hk->leading = true;
    int rv = NL_OK;
    const struct nl_agent *agent = nl_state_agent_next(state, NULL);
    for (; rv == NL_OK && agent != NULL; agent = nl_state_agent_next(state, agent->id)) {
        rv = watch_agent(hk, now_ms, times, agent);
        const struct nl_task *task = NULL;
        while (rv == NL_OK && (task = nl_state_agent_task_next(state, agent, task)) != NULL) {
            rv = watch_task(hk, now_ms, times, task);
        }
    }
    return rv;
}

int nl_housekeeper_on_agent(struct nl_housekeeper *hk, uint64_t now_ms,
                            const struct nl_housekeeping_times *times, const struct nl_agent *agent,
                            enum nl_agent_connection old) {
    bool left = agent->connection == NL_AGENT_DISCONNECTED && old != NL_AGENT_DISCONNECTED;
    return hk->leading && left ? watch_agent(hk, now_ms, times, agent) : NL_OK;
}

int nl_housekeeper_on_task(struct nl_housekeeper *hk, uint64_t now_ms,
                           const struct nl_housekeeping_times *times, const struct nl_task *task,
                           enum nl_task_state old) {
    return hk->leading && task->state != old ? watch_task(hk, now_ms, times, task) : NL_OK;
}

// ---- judgements ------------------------------------------------------------

static bool judge_agent(const struct due *due, const struct nl_state *state,
                        struct nl_judgement *ret) {
    const struct nl_agent *agent = nl_state_agent(state, due->id);
    bool lost = due->kind == AGENT_LOST;
    if (agent == NULL || agent->epoch != due->epoch ||
        !(agent->connection == NL_AGENT_DISCONNECTED ||
          (lost && agent->connection == NL_AGENT_UNREACHABLE))) {
        return false;
    }
    nodelink__v1__agent_timeout__init(&ret->body.timeout);
    ret->body.timeout.agent_id = agent->id;
    ret->body.timeout.epoch = agent->epoch;
    ret->body.timeout.stage = lost ? NODELINK__V1__AGENT_TIMEOUT__STAGE__LOST
                                   : NODELINK__V1__AGENT_TIMEOUT__STAGE__UNREACHABLE;
    ret->command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TIMEOUT;
    ret->command.agent_timeout = &ret->body.timeout;
    ret->agent_id = agent->id;
    ret->what = lost ? "agent lost" : "agent unreachable";
    return true;
}

static bool judge_task(const struct due *due, const struct nl_state *state,
                       struct nl_judgement *ret) {
    const struct nl_task *task = nl_state_task(state, due->id);
    bool silent = due->kind == TASK_SILENT;
    if (task == NULL || task->state != (silent ? NL_TASK_UNKNOWN : NL_TASK_PENDING)) {
        return false;
    }
    const struct nl_agent *agent = nl_state_agent(state, task->spec->agent_id);
    if (silent && agent != NULL && agent->extended) {
        return false;  // its journal knows; if it stays away, the agent's own time-out ends it
    }
    nodelink__v1__task_expire__init(&ret->body.expire);
    ret->body.expire.task_id = task->id;
    ret->body.expire.version = task->version;
    ret->body.expire.reason =
        nl_message_text(silent                     ? "no word from the agent about the outcome"
                        : due->kind == TASK_WAITED ? "the agent did not connect within the time "
                                                     "the task may wait"
                                                   : "not started by its deadline");
    ret->command.body_case = NODELINK__V1__COMMAND__BODY_TASK_EXPIRE;
    ret->command.task_expire = &ret->body.expire;
    ret->task_id = task->id;
    ret->what = silent ? "no word about a task" : "task waited too long";
    return true;
}

bool nl_housekeeper_next(struct nl_housekeeper *hk, uint64_t now_ms, const struct nl_state *state,
                         struct nl_judgement *ret) {
    while (hk->count > 0 && hk->heap[0].at_ms <= now_ms) {
        struct due *due = &hk->heap[0];
        ret->agent_id = ret->task_id = NULL;
        nodelink__v1__command__init(&ret->command);
        bool of_agent = due->kind == AGENT_UNREACHABLE || due->kind == AGENT_LOST;
        if (of_agent ? judge_agent(due, state, ret) : judge_task(due, state, ret)) {
            due->at_ms = now_ms + AGAIN_MS;  // until the state shows it
            sift_down(hk, 0);
            return true;
        }
        pop(hk);
    }
    return false;
}

bool nl_housekeeper_prune(const struct nl_state *state, uint64_t wall_ms, uint64_t keep_ms,
                          uint64_t keep_max, Nodelink__V1__TaskPrune *ret) {
    struct nl_state_counts counts;
    nl_state_counts(state, &counts);
    uint64_t oldest = nl_state_oldest_finished_ms(state);
    uint64_t before = wall_ms > keep_ms ? wall_ms - keep_ms : 0;
    if (counts.tasks_terminal <= keep_max && (oldest == 0 || oldest >= before)) {
        return false;
    }
    nodelink__v1__task_prune__init(ret);
    ret->finished_before_ms = before;
    ret->keep_max = keep_max;
    ret->limit = PRUNE_MAX;
    return true;
}
