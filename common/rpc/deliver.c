// The loop's side of a call: takes what the pollers left and runs the callbacks, in the order
// headers, messages, half-close, writable, closed.

#include <assert.h>
#include <stdlib.h>

#include "common/rpc/internal.h"

struct news {
    unsigned events;
    bool ended;  // terminal operation done, none in flight: nothing more can come
};

static struct news take_news(struct nl_rpc_call *call) {
    pthread_mutex_lock(&call->mutex);
    struct news news = {.events = call->events, .ended = call->terminal && call->ops == 0};
    call->events = 0;
    if (call->recv_head != NULL) {
        *call->inbox_tail = call->recv_head;
        call->inbox_tail = call->recv_tail;
        call->recv_head = NULL;
        call->recv_tail = &call->recv_head;
    }
    if (news.events & NL_RPC_EV_HEADERS) {
        call->headers = call->headers_in;
        call->headers_in = NULL;
    }
    pthread_mutex_unlock(&call->mutex);
    return news;
}

static struct nl_rpc_recv *pop_inbox(struct nl_rpc_call *call) {
    struct nl_rpc_recv *item = call->inbox;
    call->inbox = item->next;
    if (call->inbox == NULL) {
        call->inbox_tail = &call->inbox;
    }
    return item;
}

static bool wants_request(const struct nl_rpc_call *call) {
    return call->route != NULL && call->route->method->request != NULL;
}

// Gives message away.
static void deliver_message(struct nl_rpc_call *call, ProtobufCMessage *message) {
    if (call->discard) {
        nl_rpc_message_free(message);
    } else if (wants_request(call)) {
        nl_rpc_accept_request(call, message);
    } else if (call->handler.on_message != NULL) {
        call->handler.on_message(call, call->user, message);
    } else {
        nl_rpc_message_free(message);
    }
}

static void return_credit(struct nl_rpc_call *call, size_t count, size_t bytes) {
    pthread_mutex_lock(&call->mutex);
    call->recv_count -= count;
    call->recv_bytes -= bytes;
    // Not message by message when the queue was full: half a queue, then a burst again.
    bool arm = call->recv_count <= call->recv_window / 2 && nl_rpc_recv_arm(call);
    pthread_mutex_unlock(&call->mutex);
    if (arm) {
        nl_rpc_recv_start(call);
    }
}

static void deliver_messages(struct nl_rpc_call *call) {
    size_t count = 0, bytes = 0;
    while (call->inbox != NULL && (!call->paused || call->discard)) {
        struct nl_rpc_recv *item = pop_inbox(call);
        count++;
        bytes += item->bytes;
        deliver_message(call, item->message);
        free(item);
    }
    return_credit(call, count, bytes);
}

static void deliver_half_close(struct nl_rpc_call *call) {
    if (!call->half_close_due || call->inbox != NULL || call->paused || call->discard) {
        return;
    }
    call->half_close_due = false;
    if (wants_request(call)) {
        if (!call->request_seen) {
            nl_rpc_call_finish(call, NL_RPC_INVALID_ARGUMENT, "the call had no request");
        }
    } else if (!call->is_client && call->handler.on_half_close != NULL) {
        call->handler.on_half_close(call, call->user);
    }
}

// A call that ended badly does not wait for a reader that has paused it.
static bool ready_to_close(const struct nl_rpc_call *call) {
    bool ended_well = call->is_client && call->code == NL_RPC_OK;
    return call->inbox == NULL || call->discard || !ended_well;
}

static void release(struct nl_rpc_call *call) {
    grpc_call_unref(call->core);
    call->core = NULL;
    if (call->is_client) {
        nl_rpc_channel_call_gone(call);
    } else {
        nl_rpc_server_call_gone(call->server);
    }
    nl_rpc_call_unref(call);
}

static void deliver_closed(struct nl_rpc_call *call) {
    assert(call->state != NL_RPC_CALL_CLOSED);
    call->state = NL_RPC_CALL_CLOSED;
    struct nl_rpc_status status = {.code = call->code,
                                   .message = call->message != NULL ? call->message : ""};
    if (!call->is_client && call->recv_cancelled) {
        status = (struct nl_rpc_status){.code = NL_RPC_CANCELLED, .message = "cancelled"};
    }
    if (call->handler.on_closed != NULL) {
        call->handler.on_closed(call, call->user, &status);
    }
    release(call);
}

void nl_rpc_call_run(struct nl_rpc_node *node) {
    struct nl_rpc_call *call = NL_CONTAINER(node, struct nl_rpc_call, node);
    if (call->state == NL_RPC_CALL_CLOSED) {
        nl_rpc_call_unref(call);
        return;
    }
    struct news news = take_news(call);
    if (call->state == NL_RPC_CALL_NEW) {
        nl_rpc_accept_on_loop(call, news.ended);
    }
    if ((news.events & NL_RPC_EV_HEADERS) && call->handler.on_headers != NULL && !call->discard) {
        call->handler.on_headers(call, call->user);
    }
    call->half_close_due |= (news.events & NL_RPC_EV_HALF_CLOSE) != 0;
    deliver_messages(call);
    deliver_half_close(call);
    if ((news.events & NL_RPC_EV_WRITABLE) && call->handler.on_writable != NULL && !call->discard) {
        call->handler.on_writable(call, call->user);
    }
    if (news.ended && ready_to_close(call)) {
        deliver_closed(call);
    }
    nl_rpc_call_unref(call);
}
