// Sending: messages are packed on the loop and queued; one batch is in flight at a time, and its
// completion posts the next one from the poller. All but the last queued message carry the
// write-buffer hint, so a burst becomes few writes.

#include <assert.h>
#include <grpc/byte_buffer.h>
#include <stdlib.h>

#include "common/rpc/internal.h"

// What a queued message costs besides its bytes, so that empty messages are bounded too.
#define SEND_OVERHEAD 128u

// A batch of send operations, made under the mutex and started without it.
struct batch {
    grpc_op ops[3];
    size_t count;
    grpc_slice details;
};

static void add_headers(struct nl_rpc_call *call, struct batch *batch) {
    grpc_op *op = &batch->ops[batch->count++];
    *op = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA, .flags = call->initial_flags};
    op->data.send_initial_metadata.count = call->outgoing.count;
    op->data.send_initial_metadata.metadata = call->outgoing.list;
    call->headers_sent = true;
}

static void add_message(struct nl_rpc_call *call, struct batch *batch, bool more) {
    grpc_op *op = &batch->ops[batch->count++];
    *op = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .flags = more ? GRPC_WRITE_BUFFER_HINT : 0};
    op->data.send_message.send_message = call->send_head->buffer;
    call->send_message_inflight = true;
}

static void add_end(struct nl_rpc_call *call, struct batch *batch) {
    grpc_op *op = &batch->ops[batch->count++];
    call->end_sent = true;
    if (call->is_client) {
        *op = (grpc_op){.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
        return;
    }
    *op = (grpc_op){.op = GRPC_OP_SEND_STATUS_FROM_SERVER};
    op->data.send_status_from_server.status = (grpc_status_code)call->code;
    if (call->message != NULL) {
        batch->details = grpc_slice_from_copied_string(call->message);
        op->data.send_status_from_server.status_details = &batch->details;
    }
}

// The mutex is held. False: nothing to send now.
static bool prepare(struct nl_rpc_call *call, struct batch *batch) {
    batch->count = 0;
    batch->details = grpc_empty_slice();
    if (call->send_inflight || call->terminal) {
        return false;
    }
    bool message = call->send_head != NULL;
    bool more = message && call->send_head->next != NULL;
    bool end = call->end_wanted && !call->end_sent && !more;
    if (!call->headers_sent && (message || end || call->headers_wanted)) {
        add_headers(call, batch);
    }
    if (message) {
        add_message(call, batch, more);
    }
    if (end) {
        add_end(call, batch);
    }
    call->send_inflight = batch->count > 0;
    return batch->count > 0;
}

static void start(struct nl_rpc_call *call, struct batch *batch) {
    nl_rpc_start_batch(call->core, batch->ops, batch->count, &call->op_send);
    grpc_slice_unref(batch->details);
}

void nl_rpc_send_pump_unlock(struct nl_rpc_call *call) {
    struct batch batch;
    bool any = prepare(call, &batch);
    if (any) {
        nl_rpc_call_op_begin(call);
    }
    pthread_mutex_unlock(&call->mutex);
    if (any) {
        start(call, &batch);
    }
}

static void item_free(struct nl_rpc_send *item) {
    grpc_byte_buffer_destroy(item->buffer);
    free(item);
}

void nl_rpc_send_drop(struct nl_rpc_call *call) {
    struct nl_rpc_send **from = &call->send_head;
    if (call->send_message_inflight) {
        from = &call->send_head->next;
    }
    struct nl_rpc_send *item = *from;
    *from = NULL;
    call->send_tail = from;
    while (item != NULL) {
        struct nl_rpc_send *next = item->next;
        call->send_bytes -= item->bytes;
        item_free(item);
        item = next;
    }
}

// The mutex is held.
static struct nl_rpc_send *pop_sent(struct nl_rpc_call *call) {
    if (!call->send_message_inflight) {
        return NULL;
    }
    struct nl_rpc_send *item = call->send_head;
    call->send_message_inflight = false;
    call->send_head = item->next;
    if (call->send_head == NULL) {
        call->send_tail = &call->send_head;
    }
    call->send_bytes -= item->bytes;
    return item;
}

// The mutex is held.
static void note_writable(struct nl_rpc_call *call) {
    if (call->send_full && call->send_bytes <= call->limits.send_queue_bytes_max / 2) {
        call->send_full = false;
        call->events |= NL_RPC_EV_WRITABLE;
    }
}

void nl_rpc_send_done(struct nl_rpc_op *op, bool ok) {
    struct nl_rpc_call *call = NL_CONTAINER(op, struct nl_rpc_call, op_send);
    pthread_mutex_lock(&call->mutex);
    call->send_inflight = false;
    struct nl_rpc_send *sent = pop_sent(call);
    if (!ok) {
        // The call is over; its terminal operation says how.
        call->send_closed = true;
        call->end_sent = true;
        nl_rpc_send_drop(call);
    } else {
        note_writable(call);
    }
    struct batch batch;
    if (ok && prepare(call, &batch)) {
        // The next batch takes over this one's count and reference, so news go first.
        if (call->events != 0) {
            nl_rpc_call_post(call);
        }
        pthread_mutex_unlock(&call->mutex);
        start(call, &batch);
    } else {
        nl_rpc_call_op_end_unlock(call);
    }
    if (sent != NULL) {
        item_free(sent);
    }
}

// ---- from the loop ---------------------------------------------------------

grpc_byte_buffer *nl_rpc_pack(const ProtobufCMessage *message, size_t size) {
    grpc_slice slice = grpc_slice_malloc(size);
    size_t packed = protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    assert(packed == size);
    (void)packed;
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

// The mutex is held. Only the loop adds to the queue, so room that is there stays there.
static int check_room(struct nl_rpc_call *call, size_t bytes) {
    if (call->send_closed) {
        return NL_ECLOSED;
    }
    // A message over the limit of the queue but not of messages goes when it is alone.
    if (call->send_bytes > 0 && call->send_bytes + bytes > call->limits.send_queue_bytes_max) {
        call->send_full = true;
        return NL_EFULL;
    }
    return NL_OK;
}

int nl_rpc_send_queue(struct nl_rpc_call *call, const ProtobufCMessage *message) {
    assert(message->descriptor == call->send_type);
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > call->limits.message_bytes_max) {
        return NL_ETOOBIG;
    }
    pthread_mutex_lock(&call->mutex);
    int rc = check_room(call, size + SEND_OVERHEAD);
    pthread_mutex_unlock(&call->mutex);
    if (rc != NL_OK) {
        return rc;
    }
    struct nl_rpc_send *item = malloc(sizeof *item);
    if (item == NULL) {
        return NL_ENOMEM;
    }
    item->next = NULL;
    item->bytes = size + SEND_OVERHEAD;
    item->buffer = nl_rpc_pack(message, size);
    pthread_mutex_lock(&call->mutex);
    if (call->send_closed) {
        pthread_mutex_unlock(&call->mutex);
        item_free(item);
        return NL_ECLOSED;
    }
    *call->send_tail = item;
    call->send_tail = &item->next;
    call->send_bytes += item->bytes;
    pthread_mutex_unlock(&call->mutex);
    return NL_OK;
}

int nl_rpc_call_send(struct nl_rpc_call *call, const ProtobufCMessage *message) {
    if (call->state == NL_RPC_CALL_CLOSED) {
        return NL_ECLOSED;
    }
    int rc = nl_rpc_send_queue(call, message);
    if (rc == NL_OK) {
        pthread_mutex_lock(&call->mutex);
        nl_rpc_send_pump_unlock(call);
    }
    return rc;
}

size_t nl_rpc_call_queued_bytes(const struct nl_rpc_call *call) {
    pthread_mutex_t *mutex = (pthread_mutex_t *)(uintptr_t)&call->mutex;
    pthread_mutex_lock(mutex);
    size_t bytes = call->send_bytes;
    pthread_mutex_unlock(mutex);
    return bytes;
}
