// Receiving: RECV is posted while the call's receive queue has room, so the peer is held back by
// HTTP/2 flow control and not by our memory. Messages are unpacked on the poller.

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <stdlib.h>

#include "common/rpc/internal.h"

// Besides the count: one call's queue stops growing at this much unpacked memory.
#define RECV_QUEUE_BYTES (4u << 20)

bool nl_rpc_recv_arm(struct nl_rpc_call *call) {
    if (call->recv_inflight || call->recv_done || call->recv_count >= call->recv_window ||
        call->recv_bytes >= RECV_QUEUE_BYTES) {
        return false;
    }
    call->recv_inflight = true;
    nl_rpc_call_op_begin(call);
    return true;
}

void nl_rpc_recv_start(struct nl_rpc_call *call) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    op.data.recv_message.recv_message = &call->recv_buffer;
    nl_rpc_start_batch(call->core, &op, 1, &call->op_recv);
}

static int unpack_buffer(const struct nl_rpc_call *call, grpc_byte_buffer *buffer,
                         ProtobufCMessage **ret, size_t *ret_bytes) {
    uint32_t cap = call->limits.unpacked_bytes_max;
    grpc_slice_buffer *raw = &buffer->data.raw.slice_buffer;
    if (buffer->type == GRPC_BB_RAW && buffer->data.raw.compression == GRPC_COMPRESS_NONE &&
        raw->count == 1) {
        grpc_slice *slice = &raw->slices[0];
        return nl_rpc_unpack_sized(call->recv_type, GRPC_SLICE_START_PTR(*slice),
                                   GRPC_SLICE_LENGTH(*slice), cap, ret, ret_bytes);
    }
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer)) {
        return NL_EINVAL;
    }
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    int rc = nl_rpc_unpack_sized(call->recv_type, GRPC_SLICE_START_PTR(slice),
                                 GRPC_SLICE_LENGTH(slice), cap, ret, ret_bytes);
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
    return rc;
}

int nl_rpc_recv_decode(const struct nl_rpc_call *call, grpc_byte_buffer *buffer,
                       struct nl_rpc_recv **ret) {
    struct nl_rpc_recv *item = malloc(sizeof *item);
    int rc = NL_ENOMEM;
    if (item != NULL) {
        item->next = NULL;
        rc = unpack_buffer(call, buffer, &item->message, &item->bytes);
    }
    grpc_byte_buffer_destroy(buffer);
    if (rc != NL_OK) {
        free(item);
        return rc;
    }
    *ret = item;
    return NL_OK;
}

// Without the mutex. A message that can't be decoded ends this call and nothing else.
static void refuse_message(struct nl_rpc_call *call, int error) {
    const char *text = error == NL_EINVAL    ? "the message can't be decoded"
                       : error == NL_ETOOBIG ? "the message needs too much memory when decoded"
                                             : "no memory to decode the message";
    if (call->is_client) {
        grpc_status_code code =
            error == NL_EINVAL ? GRPC_STATUS_INTERNAL : GRPC_STATUS_RESOURCE_EXHAUSTED;
        grpc_call_cancel_with_status(call->core, code, text, NULL);
        return;
    }
    atomic_fetch_add(&call->server->bad_messages, 1);
    nl_rpc_call_end(call, error == NL_EINVAL ? NL_RPC_INVALID_ARGUMENT : NL_RPC_RESOURCE_EXHAUSTED,
                    text, true);
}

// Unary and server-streaming methods have one request; a second message is not read.
static bool wants_one(const struct nl_rpc_call *call) {
    return call->route != NULL && (call->route->method->kind == NL_RPC_UNARY ||
                                   call->route->method->kind == NL_RPC_SERVER_STREAM);
}

// The mutex is held.
static void append(struct nl_rpc_call *call, struct nl_rpc_recv *item) {
    *call->recv_tail = item;
    call->recv_tail = &item->next;
    call->recv_count++;
    call->recv_bytes += item->bytes;
}

void nl_rpc_recv_done(struct nl_rpc_op *op, bool ok) {
    struct nl_rpc_call *call = NL_CONTAINER(op, struct nl_rpc_call, op_recv);
    grpc_byte_buffer *buffer = call->recv_buffer;
    call->recv_buffer = NULL;
    struct nl_rpc_recv *item = NULL;
    int rc = NL_OK;
    if (buffer != NULL) {
        rc = nl_rpc_recv_decode(call, buffer, &item);
        if (rc != NL_OK) {
            refuse_message(call, rc);
        }
    }
    pthread_mutex_lock(&call->mutex);
    call->recv_inflight = false;
    if (item != NULL) {
        append(call, item);
    }
    if (item == NULL || wants_one(call)) {
        call->recv_done = true;
    }
    if (ok && buffer == NULL && !grpc_call_failed_before_recv_message(call->core)) {
        call->events |= NL_RPC_EV_HALF_CLOSE;
    }
    bool again = nl_rpc_recv_arm(call);
    if (!again) {
        nl_rpc_call_op_end_unlock(call);
        return;
    }
    // The next RECV has its own count and reference. News go first: it may complete on another
    // poller before this function ends.
    call->ops--;
    pthread_mutex_unlock(&call->mutex);
    nl_rpc_call_post(call);
    nl_rpc_recv_start(call);
    nl_rpc_call_unref(call);
}
