// The process: one completion queue, its pollers, and the hand-over to the loop thread.

#include <assert.h>
#include <grpc/support/log.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/rpc/internal.h"

// gRPC writes its own lines to stderr otherwise, in the middle of ours. What it says before it
// aborts must not be lost.
static void log_core(gpr_log_func_args *args) {
    bool is_last = strncmp(args->message, "assertion failed", 16) == 0;
    nl_log(is_last ? NL_LOG_ERROR : NL_LOG_DEBUG, "grpc", args->message, NULL);
}

bool nl_rpc_post(struct nl_rpc *rpc, struct nl_rpc_node *node) {
    if (atomic_exchange(&node->scheduled, true)) {
        return false;
    }
    node->next = NULL;
    pthread_mutex_lock(&rpc->mutex);
    bool was_empty = rpc->head == NULL;
    *rpc->tail = node;
    rpc->tail = &node->next;
    pthread_mutex_unlock(&rpc->mutex);
    if (was_empty) {
        uv_async_send(&rpc->async);
    }
    return true;
}

static struct nl_rpc_node *take_posted(struct nl_rpc *rpc) {
    pthread_mutex_lock(&rpc->mutex);
    struct nl_rpc_node *list = rpc->head;
    rpc->head = NULL;
    rpc->tail = &rpc->head;
    pthread_mutex_unlock(&rpc->mutex);
    return list;
}

// One pass over what was posted until now: what is posted meanwhile waits for the next turn of
// the loop, so a busy call can't keep the loop from its timers.
static void on_async(uv_async_t *async) {
    struct nl_rpc *rpc = async->data;
    struct nl_rpc_node *node = take_posted(rpc);
    while (node != NULL) {
        struct nl_rpc_node *next = node->next;
        // Before it runs: news from here on schedule it again.
        atomic_store(&node->scheduled, false);
        node->run(node);
        node = next;
    }
}

void nl_rpc_start_batch(grpc_call *core, const grpc_op *ops, size_t count, struct nl_rpc_op *op) {
    NL_RPC_HAND_OUT(op);
    grpc_call_error error = grpc_call_start_batch(core, ops, count, op, NULL);
    assert(error == GRPC_CALL_OK);
    (void)error;
}

static void *poll_queue(void *arg) {
    struct nl_rpc_poller *poller = arg;
    grpc_completion_queue *queue = poller->rpc->queue;
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_REALTIME);
    for (;;) {
        grpc_event event = grpc_completion_queue_next(queue, never, NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            break;
        }
        assert(event.type == GRPC_OP_COMPLETE);
        struct nl_rpc_op *op = event.tag;
        NL_RPC_HAND_BACK(op);
        op->done(op, event.success != 0);
    }
    nl_rpc_post(poller->rpc, &poller->exited);
    return NULL;
}

static void on_async_closed(uv_handle_t *handle) {
    struct nl_rpc *rpc = handle->data;
    void (*done)(void *user) = rpc->done;
    void *user = rpc->user;
    pthread_mutex_destroy(&rpc->mutex);
    free(rpc);
    if (done != NULL) {
        done(user);
    }
}

static void stop_core(struct nl_rpc *rpc) {
    for (unsigned i = 0; i < rpc->poller_count; i++) {
        pthread_join(rpc->pollers[i].thread, NULL);
    }
    assert(rpc->head == NULL);
    grpc_completion_queue_destroy(rpc->queue);
    grpc_shutdown();
}

static void on_poller_exited(struct nl_rpc_node *node) {
    struct nl_rpc *rpc = NL_CONTAINER(node, struct nl_rpc_poller, exited)->rpc;
    rpc->pollers_exited++;
    if (rpc->pollers_exited == rpc->poller_count) {
        stop_core(rpc);
        uv_close((uv_handle_t *)&rpc->async, on_async_closed);
    }
}

// All signals blocked, so that the program's handlers run on its own threads: gRPC's and ours
// inherit the mask.
static int start_threads(struct nl_rpc *rpc, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        struct nl_rpc_poller *poller = &rpc->pollers[i];
        poller->rpc = rpc;
        poller->exited.run = on_poller_exited;
        if (NL_FAILPOINT("rpc.thread") ||
            pthread_create(&poller->thread, NULL, poll_queue, poller) != 0) {
            break;
        }
        rpc->poller_count++;
    }
    return rpc->poller_count > 0 ? NL_OK : NL_ENOMEM;
}

static int start_core(struct nl_rpc *rpc, unsigned pollers) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    gpr_set_log_function(log_core);
    grpc_init();
    rpc->queue = grpc_completion_queue_create_for_next(NULL);
    int rc = start_threads(rpc, pollers);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != NL_OK) {
        grpc_completion_queue_shutdown(rpc->queue);
        grpc_completion_queue_destroy(rpc->queue);
        grpc_shutdown();
    }
    return rc;
}

static void free_unstarted(uv_handle_t *handle) {
    struct nl_rpc *rpc = handle->data;
    pthread_mutex_destroy(&rpc->mutex);
    free(rpc);
}

int nl_rpc_new_with_pollers(uv_loop_t *loop, unsigned pollers, struct nl_rpc **ret) {
    assert(pollers >= 1 && pollers <= NL_RPC_POLLERS_MAX);
    struct nl_rpc *rpc = calloc(1, sizeof *rpc);
    if (rpc == NULL) {
        return NL_ENOMEM;
    }
    rpc->loop = loop;
    rpc->tail = &rpc->head;
    if (uv_async_init(loop, &rpc->async, on_async) != 0) {
        free(rpc);
        return NL_EIO;
    }
    rpc->async.data = rpc;
    pthread_mutex_init(&rpc->mutex, NULL);
    int rc = start_core(rpc, pollers);
    if (rc != NL_OK) {
        uv_close((uv_handle_t *)&rpc->async, free_unstarted);
        return rc;
    }
    *ret = rpc;
    return NL_OK;
}

int nl_rpc_new(uv_loop_t *loop, struct nl_rpc **ret) {
    return nl_rpc_new_with_pollers(loop, 1, ret);
}

static void close_if_unused(struct nl_rpc *rpc) {
    if (rpc->closing && rpc->objects == 0 && !rpc->queue_shut) {
        rpc->queue_shut = true;
        grpc_completion_queue_shutdown(rpc->queue);
    }
}

void nl_rpc_object_born(struct nl_rpc *rpc) {
    assert(!rpc->queue_shut);
    rpc->objects++;
}

void nl_rpc_object_gone(struct nl_rpc *rpc) {
    assert(rpc->objects > 0);
    rpc->objects--;
    close_if_unused(rpc);
}

void nl_rpc_close(struct nl_rpc *rpc, void (*done)(void *user), void *user) {
    assert(!rpc->closing);
    rpc->closing = true;
    rpc->done = done;
    rpc->user = user;
    close_if_unused(rpc);
}

const char *nl_rpc_code_name(enum nl_rpc_code code) {
    static const char *const names[] = {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    };
    size_t index = (size_t)code;
    return index < sizeof names / sizeof names[0] ? names[index] : "UNKNOWN";
}
