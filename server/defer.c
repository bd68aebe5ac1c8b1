#include "server/defer.h"

#include <stddef.h>
#include <utlist.h>

// What is posted while the queue runs waits for the next turn, so that I/O gets its share.
static void on_idle(uv_idle_t *handle) {
    struct nl_defer *defer = handle->data;
    struct nl_defer_item *last = defer->queue != NULL ? defer->queue->prev : NULL;
    while (last != NULL && defer->queue != NULL) {
        struct nl_defer_item *item = defer->queue;
        bool end = item == last;
        DL_DELETE(defer->queue, item);
        item->queued = false;
        item->run(item);
        if (end) {
            break;
        }
    }
    if (defer->queue == NULL) {
        uv_idle_stop(&defer->idle);
    }
}

void nl_defer_init(struct nl_defer *defer, uv_loop_t *loop) {
    uv_idle_init(loop, &defer->idle);
    defer->idle.data = defer;
    defer->queue = NULL;
}

void nl_defer_close(struct nl_defer *defer, uv_close_cb closed, void *user) {
    defer->idle.data = user;
    uv_close((uv_handle_t *)&defer->idle, closed);
}

void nl_defer_post(struct nl_defer *defer, struct nl_defer_item *item) {
    if (item->queued) {
        return;
    }
    item->queued = true;
    DL_APPEND(defer->queue, item);
    uv_idle_start(&defer->idle, on_idle);
}

void nl_defer_cancel(struct nl_defer *defer, struct nl_defer_item *item) {
    if (item->queued) {
        DL_DELETE(defer->queue, item);
        item->queued = false;
    }
}
