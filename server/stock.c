#include "server/stock.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "common/base/buf.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "server/messages.h"

struct pushed {
    struct nl_buf bytes;  // the newest: those from `base` on
    uint64_t base;
    struct nl_sha256 *sha256;
};

struct nl_stock_task {
    char *id, *agent_id;
    uint64_t epoch;
    struct pushed streams[2];
    bool ended, complete;
    struct nl_stock_listener *listeners;
    UT_hash_handle hh;
};

struct nl_stock {
    struct nl_stock_task *tasks;  // uthash keeps the order of insertion
    size_t bytes;
};

struct nl_stock *nl_stock_new(void) {
    return calloc(1, sizeof(struct nl_stock));
}

static void task_release(struct nl_stock_task *task) {
    for (int i = 0; i < 2; i++) {
        nl_buf_close(&task->streams[i].bytes);
        nl_sha256_free(task->streams[i].sha256);
    }
    free(task->id);
    free(task->agent_id);
    free(task);
}

static void task_free(struct nl_stock *stock, struct nl_stock_task *task) {
    struct nl_stock_listener *listener, *tmp;
    DL_FOREACH_SAFE (task->listeners, listener, tmp) {
        DL_DELETE(task->listeners, listener);
        listener->gone(listener);
    }
    stock->bytes -= task->streams[0].bytes.len + task->streams[1].bytes.len;
    HASH_DEL(stock->tasks, task);
    task_release(task);
}

void nl_stock_free(struct nl_stock *stock) {
    while (stock != NULL && stock->tasks != NULL) {
        task_free(stock, stock->tasks);
    }
    free(stock);
}

struct nl_stock_task *nl_stock_find(struct nl_stock *stock, const char *task_id) {
    struct nl_stock_task *task = NULL;
    HASH_FIND_STR(stock->tasks, task_id, task);
    return task;
}

void nl_stock_drop(struct nl_stock *stock, const char *task_id) {
    struct nl_stock_task *task = nl_stock_find(stock, task_id);
    if (task != NULL) {
        task_free(stock, task);
    }
}

// Ended tasks go before running ones, the oldest first; `keep` stays.
static struct nl_stock_task *victim(struct nl_stock *stock, const struct nl_stock_task *keep) {
    struct nl_stock_task *task, *tmp, *oldest = NULL;
    HASH_ITER (hh, stock->tasks, task, tmp) {
        if (task == keep) {
            continue;
        }
        if (task->ended) {
            return task;
        }
        oldest = oldest != NULL ? oldest : task;
    }
    return oldest;
}

int nl_stock_begin(struct nl_stock *stock, const char *task_id, const char *agent_id,
                   uint64_t epoch) {
    nl_stock_drop(stock, task_id);
    if (HASH_COUNT(stock->tasks) >= NL_STOCK_TASKS_MAX) {
        task_free(stock, victim(stock, NULL));
    }
    struct nl_stock_task *task = calloc(1, sizeof *task);
    if (task == NULL) {
        return NL_ENOMEM;
    }
    task->id = strdup(task_id);
    task->agent_id = strdup(agent_id);
    task->epoch = epoch;
    for (int i = 0; i < 2; i++) {
        nl_buf_init(&task->streams[i].bytes, 0);
        task->streams[i].sha256 = nl_sha256_new();
    }
    if (task->id == NULL || task->agent_id == NULL || task->streams[0].sha256 == NULL ||
        task->streams[1].sha256 == NULL) {
        task_release(task);
        return NL_ENOMEM;
    }
    HASH_ADD_KEYPTR(hh, stock->tasks, task->id, strlen(task->id), task);
    return NL_OK;
}

static void forget_front(struct nl_stock *stock, struct pushed *p, size_t len) {
    nl_buf_consume(&p->bytes, len);
    p->base += len;
    stock->bytes -= len;
}

// Up to twice the bound is kept, so that not each append moves the rest.
static void bound(struct nl_stock *stock, struct nl_stock_task *task, struct pushed *p) {
    if (p->bytes.len > 2 * (size_t)NL_STOCK_STREAM_MAX) {
        forget_front(stock, p, p->bytes.len - NL_STOCK_STREAM_MAX);
    }
    while (stock->bytes > NL_STOCK_TOTAL_MAX) {
        struct nl_stock_task *other = victim(stock, task);
        if (other == NULL) {
            return;
        }
        task_free(stock, other);
    }
}

static void tell(struct nl_stock_task *task) {
    struct nl_stock_listener *listener, *tmp;
    DL_FOREACH_SAFE (task->listeners, listener, tmp) {
        listener->changed(listener);
    }
}

void nl_stock_append(struct nl_stock *stock, struct nl_stock_task *task, int stream,
                     const uint8_t *data, size_t len) {
    if (len == 0 || task->ended) {
        return;
    }
    struct pushed *p = &task->streams[stream];
    nl_sha256_update(p->sha256, data, len);
    if (nl_buf_append(&p->bytes, data, len) == NL_OK) {
        stock->bytes += len;
    } else {  // no memory: a gap that readers are told of
        size_t had = p->bytes.len;
        forget_front(stock, p, had);
        p->base += len;
    }
    bound(stock, task, p);
    tell(task);
}

void nl_stock_end(struct nl_stock *stock, struct nl_stock_task *task, bool complete) {
    (void)stock;
    if (!task->ended) {
        task->ended = true;
        task->complete = complete;
        tell(task);
    }
}

void nl_stock_agent_gone(struct nl_stock *stock, const char *agent_id, uint64_t epoch) {
    struct nl_stock_task *task, *tmp;
    HASH_ITER (hh, stock->tasks, task, tmp) {
        if (task->epoch == epoch && strcmp(task->agent_id, agent_id) == 0) {
            nl_stock_end(stock, task, false);
        }
    }
}

// ---- result ----------------------------------------------------------------

static int32_t exit_code_of(const Nodelink__V1__TaskResponse *frame) {
    return frame->response_case == NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE
               ? frame->shell_execute->exit_code
               : 0;
}

// What the final response claims. FAILURE without an exit code is not made up into one.
static void judge(const Nodelink__V1__TaskResponse *frame, Nodelink__V1__TaskResult *ret) {
    int32_t exit_code = exit_code_of(frame);
    ret->exit_code = exit_code;
    if (frame->cancelled) {
        ret->kind = NODELINK__V1__TASK_RESULT__KIND__CANCELLED;
    } else if (exit_code != 0 || frame->status == NODELINK__V1__TASK_RESPONSE__STATUS__COMPLETED) {
        ret->kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    } else {
        ret->kind = NODELINK__V1__TASK_RESULT__KIND__LOST;
        ret->reason = nl_message_text("the agent reported a failure without an exit code");
    }
}

void nl_stock_result(const struct nl_stock_task *task, const Nodelink__V1__TaskResponse *frame,
                     uint8_t digests[2][32], Nodelink__V1__TaskResult *ret) {
    nodelink__v1__task_result__init(ret);
    judge(frame, ret);
    if (task == NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        nl_sha256_peek(task->streams[i].sha256, digests[i]);
    }
    ret->stdout_bytes = nl_stock_total(task, 0);
    ret->stderr_bytes = nl_stock_total(task, 1);
    ret->stdout_sha256 = (ProtobufCBinaryData){32, digests[0]};
    ret->stderr_sha256 = (ProtobufCBinaryData){32, digests[1]};
}

// ---- reading ---------------------------------------------------------------

uint64_t nl_stock_base(const struct nl_stock_task *task, int stream) {
    return task->streams[stream].base;
}

uint64_t nl_stock_total(const struct nl_stock_task *task, int stream) {
    return task->streams[stream].base + task->streams[stream].bytes.len;
}

bool nl_stock_ended(const struct nl_stock_task *task, bool *ret_complete) {
    *ret_complete = task->complete;
    return task->ended;
}

const uint8_t *nl_stock_bytes(const struct nl_stock_task *task, int stream, uint64_t offset,
                              size_t *ret_len) {
    const struct pushed *p = &task->streams[stream];
    size_t at = (size_t)(offset - p->base);
    *ret_len = p->bytes.len - at;
    return p->bytes.data + at;
}

void nl_stock_listen(struct nl_stock_task *task, struct nl_stock_listener *listener) {
    DL_APPEND(task->listeners, listener);
}

void nl_stock_leave(struct nl_stock_task *task, struct nl_stock_listener *listener) {
    DL_DELETE(task->listeners, listener);
}
