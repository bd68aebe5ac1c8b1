// A client's channel and the start of its calls.

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/internal.h"

struct nl_rpc_channel {  // loop only
    struct nl_rpc *rpc;
    char *target;
    struct nl_rpc_limits limits;
    struct nl_rpc_args args;
    char *server_name;             // in args
    struct nl_rpc_tls_files *tls;  // NULL: plain
    grpc_channel *core;
    struct nl_rpc_call *calls;  // open ones
};

// ---- channel ---------------------------------------------------------------

static grpc_channel *make_core(struct nl_rpc_channel *channel) {
    grpc_channel_credentials *credentials = channel->tls != NULL
                                                ? nl_rpc_tls_channel(channel->tls)
                                                : grpc_insecure_credentials_create();
    grpc_channel_args args = nl_rpc_args_core(&channel->args);
    grpc_channel *core = grpc_channel_create(channel->target, credentials, &args);
    grpc_channel_credentials_release(credentials);
    return core;
}

// gRPC's client credentials are fixed for a channel, so new files mean a new channel below. The
// calls of the old one go on.
static void renew_core(struct nl_rpc_channel *channel) {
    if (channel->tls != NULL && nl_rpc_tls_reload(channel->tls)) {
        grpc_channel_destroy(channel->core);
        channel->core = make_core(channel);
    }
}

static void channel_close(struct nl_rpc_channel *channel) {
    if (channel->core != NULL) {
        grpc_channel_destroy(channel->core);
    }
    nl_rpc_tls_close(channel->tls);
    free(channel->server_name);
    free(channel->target);
    free(channel);
}

// Copies what outlives the caller's options.
static int channel_init(struct nl_rpc_channel *channel, const char *target,
                        const struct nl_rpc_channel_options *options) {
    channel->target = strdup(target);
    if (channel->target == NULL) {
        return NL_ENOMEM;
    }
    struct nl_rpc_channel_options copy = *options;
    struct nl_rpc_tls tls;
    if (options->tls != NULL) {
        char ignored[256];
        int rc = nl_rpc_tls_open(options->tls, false, &channel->tls, ignored, sizeof ignored);
        if (rc != NL_OK) {
            return rc;
        }
        tls = *options->tls;
        if (tls.server_name != NULL) {
            channel->server_name = strdup(tls.server_name);
            if (channel->server_name == NULL) {
                return NL_ENOMEM;
            }
            tls.server_name = channel->server_name;
        }
        copy.tls = &tls;
    }
    nl_rpc_args_channel(&channel->args, &copy, &channel->limits);
    channel->core = make_core(channel);
    return NL_OK;
}

int nl_rpc_channel_new(struct nl_rpc *rpc, const char *target,
                       const struct nl_rpc_channel_options *options, struct nl_rpc_channel **ret) {
    static const struct nl_rpc_channel_options defaults;
    const struct nl_rpc_channel_options *o = options != NULL ? options : &defaults;
    struct nl_rpc_channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL) {
        return NL_ENOMEM;
    }
    channel->rpc = rpc;
    channel->limits = (struct nl_rpc_limits){
        .message_bytes_max = o->message_bytes_max,
        .unpacked_bytes_max = o->unpacked_bytes_max,
        .recv_queue_max = o->recv_queue_max,
        .send_queue_bytes_max = o->send_queue_bytes_max,
    };
    nl_rpc_limits_default(&channel->limits);
    int rc = channel_init(channel, target, o);
    if (rc != NL_OK) {
        channel_close(channel);
        return rc;
    }
    nl_rpc_object_born(rpc);
    *ret = channel;
    return NL_OK;
}

static void unlink_call(struct nl_rpc_call *call) {
    if (call->channel == NULL) {
        return;
    }
    *call->channel_link = call->channel_next;
    if (call->channel_next != NULL) {
        call->channel_next->channel_link = call->channel_link;
    }
    call->channel = NULL;
}

static void link_call(struct nl_rpc_channel *channel, struct nl_rpc_call *call) {
    call->channel = channel;
    call->channel_next = channel->calls;
    call->channel_link = &channel->calls;
    if (channel->calls != NULL) {
        channel->calls->channel_link = &call->channel_next;
    }
    channel->calls = call;
}

void nl_rpc_channel_free(struct nl_rpc_channel *channel) {
    if (channel == NULL) {
        return;
    }
    while (channel->calls != NULL) {
        struct nl_rpc_call *call = channel->calls;
        unlink_call(call);
        nl_rpc_call_cancel(call);
    }
    struct nl_rpc *rpc = channel->rpc;
    channel_close(channel);
    nl_rpc_object_gone(rpc);
}

void nl_rpc_channel_reset_backoff(struct nl_rpc_channel *channel) {
    grpc_channel_reset_connect_backoff(channel->core);
    grpc_channel_check_connectivity_state(channel->core, 1);
}

bool nl_rpc_channel_is_connected(const struct nl_rpc_channel *channel) {
    return grpc_channel_check_connectivity_state(channel->core, 0) == GRPC_CHANNEL_READY;
}

void nl_rpc_channel_call_gone(struct nl_rpc_call *call) {
    unlink_call(call);
    nl_rpc_object_gone(call->rpc);
}

// ---- calls -----------------------------------------------------------------

static const struct nl_rpc_call_options default_options;

static int set_options(struct nl_rpc_call *call, const struct nl_rpc_call_options *options) {
    if (options->wait_for_ready) {
        call->initial_flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY |
                              GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
    }
    if (options->timeout_ms > 0) {
        int64_t ms = options->timeout_ms > INT64_MAX ? INT64_MAX : (int64_t)options->timeout_ms;
        call->deadline =
            gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
    }
    return nl_rpc_outgoing_init(&call->outgoing, options->metadata);
}

// A call with gRPC's part made and nothing started.
static int make_call(struct nl_rpc_channel *channel, const ProtobufCServiceDescriptor *service,
                     const char *method, const struct nl_rpc_call_options *options,
                     struct nl_rpc_call **ret) {
    const ProtobufCMethodDescriptor *descriptor =
        protobuf_c_service_descriptor_get_method_by_name(service, method);
    if (descriptor == NULL) {
        return NL_EINVAL;
    }
    struct nl_rpc_call *call = nl_rpc_call_new(channel->rpc, true, &channel->limits);
    if (call == NULL) {
        return NL_ENOMEM;
    }
    int rc = set_options(call, options != NULL ? options : &default_options);
    if (rc == NL_OK && asprintf(&call->path, "/%s/%s", service->name, method) < 0) {
        call->path = NULL;
        rc = NL_ENOMEM;
    }
    if (rc != NL_OK) {
        nl_rpc_call_unref(call);
        return rc;
    }
    call->send_type = descriptor->input;
    call->recv_type = descriptor->output;
    renew_core(channel);
    grpc_slice path = grpc_slice_from_copied_string(call->path);
    call->core = grpc_channel_create_call(channel->core, NULL, GRPC_PROPAGATE_DEFAULTS,
                                          channel->rpc->queue, path, NULL, call->deadline, NULL);
    grpc_slice_unref(path);
    call->state = NL_RPC_CALL_OPEN;
    link_call(channel, call);
    nl_rpc_object_born(channel->rpc);
    *ret = call;
    return NL_OK;
}

// The status that RECV_STATUS brought. The mutex is held.
static void take_status(struct nl_rpc_call *call) {
    call->code = (unsigned)call->recv_code <= NL_RPC_UNAUTHENTICATED
                     ? (enum nl_rpc_code)call->recv_code
                     : NL_RPC_UNKNOWN;
    call->message = nl_rpc_slice_text(call->recv_details);
}

static void set_recv_status(struct nl_rpc_call *call, grpc_op *op) {
    *op = (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    op->data.recv_status_on_client.trailing_metadata = &call->recv_trailers;
    op->data.recv_status_on_client.status = &call->recv_code;
    op->data.recv_status_on_client.status_details = &call->recv_details;
}

static void set_recv_headers(struct nl_rpc_call *call, grpc_op *op) {
    *op = (grpc_op){.op = GRPC_OP_RECV_INITIAL_METADATA};
    op->data.recv_initial_metadata.recv_initial_metadata = &call->recv_headers;
}

// ---- streams ---------------------------------------------------------------

static void on_status(struct nl_rpc_op *op, bool ok) {
    (void)ok;  // RECV_STATUS always succeeds
    struct nl_rpc_call *call = NL_CONTAINER(op, struct nl_rpc_call, op_terminal);
    pthread_mutex_lock(&call->mutex);
    take_status(call);
    nl_rpc_call_terminal_unlock(call);
}

// Messages are received from here on: never before the headers.
static void on_headers(struct nl_rpc_op *op, bool ok) {
    struct nl_rpc_call *call = NL_CONTAINER(op, struct nl_rpc_call, op_headers);
    struct nl_rpc_headers *headers = ok ? nl_rpc_headers_copy(&call->recv_headers) : NULL;
    pthread_mutex_lock(&call->mutex);
    bool arm = false;
    if (ok) {
        call->headers_in = headers;
        call->events |= NL_RPC_EV_HEADERS;
        call->recv_window = call->limits.recv_queue_max;
        arm = nl_rpc_recv_arm(call);
    }
    if (arm) {
        pthread_mutex_unlock(&call->mutex);
        nl_rpc_recv_start(call);
        pthread_mutex_lock(&call->mutex);
    }
    nl_rpc_call_op_end_unlock(call);
}

int nl_rpc_call_start(struct nl_rpc_channel *channel, const ProtobufCServiceDescriptor *service,
                      const char *method, const struct nl_rpc_call_options *options,
                      const struct nl_rpc_handler *handler, void *user, struct nl_rpc_call **ret) {
    struct nl_rpc_call *call;
    int rc = make_call(channel, service, method, options, &call);
    if (rc != NL_OK) {
        return rc;
    }
    nl_rpc_call_set_handler(call, handler, user);
    call->op_headers.done = on_headers;
    call->op_terminal.done = on_status;
    pthread_mutex_lock(&call->mutex);
    call->recv_window = 0;
    call->headers_wanted = true;
    nl_rpc_call_op_begin(call);
    nl_rpc_call_op_begin(call);
    nl_rpc_send_pump_unlock(call);
    grpc_op op;
    set_recv_headers(call, &op);
    nl_rpc_start_batch(call->core, &op, 1, &call->op_headers);
    set_recv_status(call, &op);
    nl_rpc_start_batch(call->core, &op, 1, &call->op_terminal);
    *ret = call;
    return NL_OK;
}

// ---- unary: all of it is one batch -----------------------------------------

static void on_unary(struct nl_rpc_op *op, bool ok) {
    (void)ok;  // the status tells
    struct nl_rpc_call *call = NL_CONTAINER(op, struct nl_rpc_call, op_terminal);
    struct nl_rpc_recv *item = NULL;
    int rc = NL_EINVAL;
    grpc_byte_buffer *buffer = call->recv_buffer;
    call->recv_buffer = NULL;
    if (buffer != NULL && call->recv_code == GRPC_STATUS_OK) {
        rc = nl_rpc_recv_decode(call, buffer, &item);
    } else if (buffer != NULL) {
        grpc_byte_buffer_destroy(buffer);
    }
    pthread_mutex_lock(&call->mutex);
    take_status(call);
    if (item != NULL) {
        call->unary_reply = item->message;
    } else if (call->code == NL_RPC_OK) {
        call->code = rc == NL_EINVAL ? NL_RPC_INTERNAL : NL_RPC_RESOURCE_EXHAUSTED;
        free(call->message);
        call->message = strdup("the reply is missing or can't be decoded");
    }
    grpc_byte_buffer_destroy(call->unary_request);
    call->unary_request = NULL;
    free(item);
    nl_rpc_call_terminal_unlock(call);
}

static void on_unary_closed(struct nl_rpc_call *call, void *user,
                            const struct nl_rpc_status *status) {
    ProtobufCMessage *reply = call->unary_reply;
    call->unary_reply = NULL;
    call->unary_done(user, status, reply);
}

static const struct nl_rpc_handler unary_handler = {.on_closed = on_unary_closed};

static void start_unary(struct nl_rpc_call *call) {
    grpc_op ops[6] = {{.op = GRPC_OP_SEND_INITIAL_METADATA, .flags = call->initial_flags},
                      {.op = GRPC_OP_SEND_MESSAGE},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                      {.op = GRPC_OP_RECV_MESSAGE}};
    ops[0].data.send_initial_metadata.count = call->outgoing.count;
    ops[0].data.send_initial_metadata.metadata = call->outgoing.list;
    ops[1].data.send_message.send_message = call->unary_request;
    ops[3].data.recv_message.recv_message = &call->recv_buffer;
    set_recv_headers(call, &ops[4]);
    set_recv_status(call, &ops[5]);
    call->op_terminal.done = on_unary;
    pthread_mutex_lock(&call->mutex);
    call->recv_done = true;  // the batch has the one RECV
    call->send_closed = true;
    call->end_wanted = true;
    nl_rpc_call_op_begin(call);
    pthread_mutex_unlock(&call->mutex);
    nl_rpc_start_batch(call->core, ops, 6, &call->op_terminal);
}

int nl_rpc_unary(struct nl_rpc_channel *channel, const ProtobufCServiceDescriptor *service,
                 const char *method, const struct nl_rpc_call_options *options,
                 const ProtobufCMessage *request, nl_rpc_unary_cb done, void *user,
                 struct nl_rpc_call **ret_call) {
    size_t size = protobuf_c_message_get_packed_size(request);
    if (size > channel->limits.message_bytes_max) {
        return NL_ETOOBIG;
    }
    struct nl_rpc_call *call;
    int rc = make_call(channel, service, method, options, &call);
    if (rc != NL_OK) {
        return rc;
    }
    assert(request->descriptor == call->send_type);
    nl_rpc_call_set_handler(call, &unary_handler, user);
    call->unary_done = done;
    call->unary_request = nl_rpc_pack(request, size);
    start_unary(call);
    if (ret_call != NULL) {
        *ret_call = call;
    }
    return NL_OK;
}
