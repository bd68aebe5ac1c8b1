// A server's call from gRPC's hands to its method's.

#include "common/rpc/internal.h"

static bool is_stream(const struct nl_rpc_route *route) {
    return route->method->stream != NULL;
}

static void on_close(struct nl_rpc_op *op, bool ok) {
    (void)ok;  // RECV_CLOSE always succeeds
    struct nl_rpc_call *call = NL_CONTAINER(op, struct nl_rpc_call, op_terminal);
    pthread_mutex_lock(&call->mutex);
    nl_rpc_call_terminal_unlock(call);
}

static struct nl_rpc_call *make_call(struct nl_rpc_server *server, struct nl_rpc_arrival *arrival) {
    struct nl_rpc_call *call = nl_rpc_call_new(server->rpc, false, &server->limits);
    if (call == NULL) {
        return NULL;
    }
    call->server = server;
    call->path = nl_rpc_slice_text(arrival->details.method);
    call->headers = nl_rpc_headers_copy(&arrival->headers);
    if (call->path == NULL || call->headers == NULL) {
        nl_rpc_call_unref(call);
        return NULL;
    }
    call->deadline = gpr_convert_clock_type(arrival->details.deadline, GPR_CLOCK_MONOTONIC);
    call->route = nl_rpc_routes_find(&server->routes, call->path);
    if (call->route != NULL) {
        call->recv_type = call->route->descriptor->input;
        call->send_type = call->route->descriptor->output;
    }
    call->op_terminal.done = on_close;
    call->core = arrival->core;
    return call;
}

// One message may be read before the loop has authorized the call; a unary call is then one
// wake-up of the loop, and a stranger's stream costs one message.
static void start_call(struct nl_rpc_call *call) {
    pthread_mutex_lock(&call->mutex);
    nl_rpc_call_op_begin(call);
    call->recv_window = 1;
    call->recv_done = call->route == NULL;
    bool arm = nl_rpc_recv_arm(call);
    bool tell = call->route != NULL && is_stream(call->route);
    call->events |= tell ? NL_RPC_EV_NEW : 0;
    pthread_mutex_unlock(&call->mutex);

    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &call->recv_cancelled;
    nl_rpc_start_batch(call->core, &op, 1, &call->op_terminal);
    if (arm) {
        nl_rpc_recv_start(call);
    }
    if (tell) {
        nl_rpc_call_post(call);
    }
}

void nl_rpc_accept(struct nl_rpc_server *server, struct nl_rpc_arrival *arrival) {
    struct nl_rpc_call *call = make_call(server, arrival);
    if (call == NULL) {
        grpc_call_cancel_with_status(arrival->core, GRPC_STATUS_RESOURCE_EXHAUSTED,
                                     "no memory for the call", NULL);
        grpc_call_unref(arrival->core);
    } else {
        atomic_fetch_add(&server->calls_started, 1);
        atomic_fetch_add(&server->calls_open, 1);
        nl_rpc_call_ref(call);
        start_call(call);
        if (call->route == NULL) {
            nl_rpc_call_end(call, NL_RPC_UNIMPLEMENTED, "no such method", true);
        }
        nl_rpc_call_unref(call);
    }
    grpc_call_details_destroy(&arrival->details);
    grpc_metadata_array_destroy(&arrival->headers);
}

void nl_rpc_accept_on_loop(struct nl_rpc_call *call, bool ended) {
    call->state = NL_RPC_CALL_OPEN;
    if (ended || call->route == NULL) {
        call->discard = true;
        return;
    }
    pthread_mutex_lock(&call->mutex);
    call->recv_window = call->limits.recv_queue_max;
    pthread_mutex_unlock(&call->mutex);
    const struct nl_rpc_service *service = call->route->service;
    if (service->authorize != NULL && !service->authorize(call, service->user)) {
        call->discard = true;
        return;
    }
    if (is_stream(call->route)) {
        call->route->method->stream(call, service->user);
    }
}

void nl_rpc_accept_request(struct nl_rpc_call *call, ProtobufCMessage *message) {
    if (call->request_seen) {
        nl_rpc_message_free(message);
        return;
    }
    call->request_seen = true;
    call->route->method->request(call, call->route->service->user, message);
}
