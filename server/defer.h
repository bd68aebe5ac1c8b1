// Work put off to the next turn of the loop: effects of the state machine and callbacks of lower
// layers only note what happened, the rest is done when their stack is gone.
//
// Loop thread. Items are embedded, queued at most once, and must be cancelled before they go.
#ifndef NODELINK_SERVER_DEFER_H
#define NODELINK_SERVER_DEFER_H

#include <stdbool.h>
#include <uv.h>

struct nl_defer_item {
    void (*run)(struct nl_defer_item *item);
    bool queued;
    struct nl_defer_item *prev, *next;
};

struct nl_defer {
    uv_idle_t idle;
    struct nl_defer_item *queue;
};

void nl_defer_init(struct nl_defer *defer, uv_loop_t *loop);
// Nothing may be queued any more. `closed` is called when the handle is gone; handle->data is user.
void nl_defer_close(struct nl_defer *defer, uv_close_cb closed, void *user);
void nl_defer_post(struct nl_defer *defer, struct nl_defer_item *item);
void nl_defer_cancel(struct nl_defer *defer, struct nl_defer_item *item);

#endif
