#include "agent/link/tasks.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void nl_link_tasks_init(struct nl_link_tasks *t) {
    memset(t, 0, sizeof *t);
    TAILQ_INIT(&t->live);
    TAILQ_INIT(&t->forgotten);
}

static void free_task(struct nl_link_task *task) {
    assert(TAILQ_EMPTY(&task->subs));
    if (task->result != NULL) {
        nodelink__v1__task_result__free_unpacked(task->result, NULL);
    }
    if (task->run != NULL) {
        nodelink__v1__to_supervisor__free_unpacked(task->run, NULL);
    }
    free(task->cancel_reason);
    free(task->spool_dir);
    free(task->id);
    free(task);
}

void nl_link_tasks_close(struct nl_link_tasks *t) {
    struct nl_link_task *task;
    while ((task = TAILQ_FIRST(&t->live)) != NULL || (task = TAILQ_FIRST(&t->forgotten)) != NULL) {
        nl_link_tasks_remove(t, task);
    }
}

// By id only, so that the attempts of a task are in one bucket.
static uint32_t bucket_of(const char *id) {
    uint32_t h = 2166136261u;
    for (; *id != '\0'; id++) {
        h = (h ^ (uint8_t)*id) * 16777619u;
    }
    return h % NL_LINK_TASK_BUCKETS;
}

struct nl_link_task *nl_link_tasks_find(const struct nl_link_tasks *t, const char *id,
                                        uint32_t attempt) {
    struct nl_link_task *task;
    LIST_FOREACH(task, &t->buckets[bucket_of(id)], in_bucket) {
        if (task->attempt == attempt && strcmp(task->id, id) == 0) {
            return task;
        }
    }
    return NULL;
}

struct nl_link_task *nl_link_tasks_find_latest(const struct nl_link_tasks *t, const char *id) {
    struct nl_link_task *task, *latest = NULL;
    LIST_FOREACH(task, &t->buckets[bucket_of(id)], in_bucket) {
        if (strcmp(task->id, id) == 0 && (latest == NULL || task->attempt > latest->attempt)) {
            latest = task;
        }
    }
    return latest;
}

struct nl_link_task *nl_link_tasks_add(struct nl_link_tasks *t, const char *id, uint32_t attempt) {
    struct nl_link_task *task = calloc(1, sizeof *task);
    char *copy = strdup(id);
    if (task == NULL || copy == NULL) {
        free(task);
        free(copy);
        return NULL;
    }
    task->id = copy;
    task->attempt = attempt;
    task->phase = NL_LINK_STARTING;
    TAILQ_INIT(&task->subs);
    TAILQ_INSERT_TAIL(&t->live, task, in_order);
    LIST_INSERT_HEAD(&t->buckets[bucket_of(id)], task, in_bucket);
    t->live_count++;
    return task;
}

static void leave_order(struct nl_link_tasks *t, struct nl_link_task *task) {
    if (task->phase == NL_LINK_FORGOTTEN) {
        TAILQ_REMOVE(&t->forgotten, task, in_order);
        t->forgotten_count--;
    } else {
        TAILQ_REMOVE(&t->live, task, in_order);
        t->live_count--;
    }
}

void nl_link_tasks_remove(struct nl_link_tasks *t, struct nl_link_task *task) {
    leave_order(t, task);
    LIST_REMOVE(task, in_bucket);
    free_task(task);
}

void nl_link_tasks_forget(struct nl_link_tasks *t, struct nl_link_task *task, uint64_t now_ms) {
    if (task->phase == NL_LINK_FORGOTTEN) {
        return;
    }
    leave_order(t, task);
    task->phase = NL_LINK_FORGOTTEN;
    task->forgotten_at_ms = now_ms;
    TAILQ_INSERT_TAIL(&t->forgotten, task, in_order);
    t->forgotten_count++;
}
