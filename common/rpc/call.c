// A call's life, and what may be asked of it on either side.

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/internal.h"

// A status message travels in a header; peers accept 8 KiB of headers by default.
#define STATUS_MESSAGE_MAX 1024

// ---- life ------------------------------------------------------------------

struct nl_rpc_call *nl_rpc_call_new(struct nl_rpc *rpc, bool is_client,
                                    const struct nl_rpc_limits *limits) {
    struct nl_rpc_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return NULL;
    }
    call->rpc = rpc;
    call->is_client = is_client;
    call->limits = *limits;
    call->recv_window = limits->recv_queue_max;
    call->deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    atomic_init(&call->refs, 1);
    call->node.run = nl_rpc_call_run;
    pthread_mutex_init(&call->mutex, NULL);
    call->recv_tail = &call->recv_head;
    call->send_tail = &call->send_head;
    call->inbox_tail = &call->inbox;
    call->op_send.done = nl_rpc_send_done;
    call->op_recv.done = nl_rpc_recv_done;
    grpc_metadata_array_init(&call->recv_headers);
    grpc_metadata_array_init(&call->recv_trailers);
    call->recv_details = grpc_empty_slice();
    return call;
}

void nl_rpc_message_queue_free(struct nl_rpc_recv *list) {
    while (list != NULL) {
        struct nl_rpc_recv *next = list->next;
        nl_rpc_message_free(list->message);
        free(list);
        list = next;
    }
}

// On whichever thread drops the last reference; gRPC's call is gone by then.
static void call_free(struct nl_rpc_call *call) {
    assert(call->core == NULL && call->ops == 0);
    nl_rpc_message_queue_free(call->recv_head);
    nl_rpc_message_queue_free(call->inbox);
    nl_rpc_send_drop(call);
    nl_rpc_outgoing_close(&call->outgoing);
    grpc_metadata_array_destroy(&call->recv_headers);
    grpc_metadata_array_destroy(&call->recv_trailers);
    grpc_slice_unref(call->recv_details);
    nl_rpc_message_free(call->unary_reply);
    pthread_mutex_destroy(&call->mutex);
    free(call->headers_in);
    free(call->headers);
    free(call->message);
    free(call->peer);
    free(call->peer_name);
    free(call->path);
    free(call);
}

void nl_rpc_call_ref(struct nl_rpc_call *call) {
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
}

void nl_rpc_call_unref(struct nl_rpc_call *call) {
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) == 1) {
        call_free(call);
    }
}

void nl_rpc_call_post(struct nl_rpc_call *call) {
    nl_rpc_call_ref(call);
    if (!nl_rpc_post(call->rpc, &call->node)) {
        nl_rpc_call_unref(call);
    }
}

// ---- operations ------------------------------------------------------------

void nl_rpc_call_op_begin(struct nl_rpc_call *call) {
    call->ops++;
    nl_rpc_call_ref(call);
}

void nl_rpc_call_op_end_unlock(struct nl_rpc_call *call) {
    assert(call->ops > 0);
    call->ops--;
    bool news = call->events != 0 || call->recv_head != NULL || (call->terminal && call->ops == 0);
    pthread_mutex_unlock(&call->mutex);
    if (news) {
        nl_rpc_call_post(call);
    }
    nl_rpc_call_unref(call);
}

void nl_rpc_call_terminal_unlock(struct nl_rpc_call *call) {
    call->terminal = true;
    call->recv_done = true;
    call->send_closed = true;
    nl_rpc_send_drop(call);
    nl_rpc_call_op_end_unlock(call);
}

// At most STATUS_MESSAGE_MAX bytes, not cut inside a character. NULL: no memory, or empty.
static char *status_message(const char *message) {
    size_t len = message != NULL ? strlen(message) : 0;
    if (len > STATUS_MESSAGE_MAX) {
        len = STATUS_MESSAGE_MAX;
        while (len > 0 && ((unsigned char)message[len] & 0xC0) == 0x80) {
            len--;
        }
    }
    return len > 0 ? strndup(message, len) : NULL;
}

void nl_rpc_call_end(struct nl_rpc_call *call, enum nl_rpc_code code, const char *message,
                     bool drop_queue) {
    assert(!call->is_client);
    char *copy = status_message(message);
    pthread_mutex_lock(&call->mutex);
    if (call->end_wanted || call->terminal) {
        pthread_mutex_unlock(&call->mutex);
        free(copy);
        return;
    }
    call->end_wanted = true;
    call->send_closed = true;
    call->recv_done = true;
    call->code = code;
    call->message = copy;
    if (drop_queue) {
        nl_rpc_send_drop(call);
    }
    nl_rpc_send_pump_unlock(call);
}

// ---- the public operations of both sides -----------------------------------

void nl_rpc_call_set_handler(struct nl_rpc_call *call, const struct nl_rpc_handler *handler,
                             void *user) {
    call->handler = *handler;
    call->user = user;
}

void nl_rpc_call_finish(struct nl_rpc_call *call, enum nl_rpc_code code, const char *message) {
    if (call->state == NL_RPC_CALL_CLOSED) {
        return;
    }
    call->discard = true;
    nl_rpc_call_end(call, code, message, false);
}

void nl_rpc_call_reply(struct nl_rpc_call *call, const ProtobufCMessage *message) {
    if (call->state == NL_RPC_CALL_CLOSED) {
        return;
    }
    int rc = nl_rpc_send_queue(call, message);
    if (rc == NL_ETOOBIG) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED, "the reply is over the size limit");
    } else if (rc == NL_EFULL || rc == NL_ENOMEM) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED, "no room for the reply");
    } else {
        nl_rpc_call_finish(call, NL_RPC_OK, NULL);
    }
}

void nl_rpc_call_half_close(struct nl_rpc_call *call) {
    assert(call->is_client);
    pthread_mutex_lock(&call->mutex);
    if (call->end_wanted || call->terminal) {
        pthread_mutex_unlock(&call->mutex);
        return;
    }
    call->end_wanted = true;
    call->send_closed = true;
    nl_rpc_send_pump_unlock(call);
}

void nl_rpc_call_cancel(struct nl_rpc_call *call) {
    if (call->state == NL_RPC_CALL_CLOSED) {
        return;
    }
    call->discard = true;
    pthread_mutex_lock(&call->mutex);
    call->send_closed = true;
    pthread_mutex_unlock(&call->mutex);
    grpc_call_cancel_with_status(call->core, GRPC_STATUS_CANCELLED, "cancelled here", NULL);
}

void nl_rpc_call_pause(struct nl_rpc_call *call) {
    call->paused = true;
}

void nl_rpc_call_resume(struct nl_rpc_call *call) {
    if (!call->paused || call->state == NL_RPC_CALL_CLOSED) {
        return;
    }
    call->paused = false;
    nl_rpc_call_post(call);
}

int nl_rpc_call_send_headers(struct nl_rpc_call *call, const struct nl_rpc_metadata *metadata) {
    assert(!call->is_client);
    pthread_mutex_lock(&call->mutex);
    if (call->send_closed || call->headers_sent || call->headers_wanted) {
        int rc = call->send_closed ? NL_ECLOSED : NL_EEXIST;
        pthread_mutex_unlock(&call->mutex);
        return rc;
    }
    int rc = nl_rpc_outgoing_init(&call->outgoing, metadata);
    call->headers_wanted = rc == NL_OK;
    nl_rpc_send_pump_unlock(call);
    return rc;
}

// ---- what is known about a call --------------------------------------------

const char *nl_rpc_call_metadata(const struct nl_rpc_call *call, const char *key) {
    return nl_rpc_headers_get(call->headers, key);
}

// gRPC's form is a URI: ipv4:10.0.0.1:80, ipv6:%5B::1%5D:80. Decoded in place.
static void plain_address(char *text) {
    char *from = strncmp(text, "ipv4:", 5) == 0 || strncmp(text, "ipv6:", 5) == 0 ? text + 5 : text;
    char *to = text;
    while (*from != '\0') {
        if (strncmp(from, "%5B", 3) == 0 || strncmp(from, "%5D", 3) == 0) {
            *to++ = from[2] == 'B' ? '[' : ']';
            from += 3;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

// The caches are not part of what a const call promises not to change.
static struct nl_rpc_call *caches(const struct nl_rpc_call *call) {
    union {
        const struct nl_rpc_call *in;
        struct nl_rpc_call *out;
    } cast = {.in = call};
    return cast.out;
}

const char *nl_rpc_call_peer(const struct nl_rpc_call *call) {
    if (call->peer == NULL && call->core != NULL) {
        char *text = grpc_call_get_peer(call->core);
        caches(call)->peer = strdup(text);
        gpr_free(text);
        if (call->peer != NULL) {
            plain_address(call->peer);
        }
    }
    return call->peer != NULL ? call->peer : "";
}

static char *verified_name(grpc_call *core) {
    grpc_auth_context *context = grpc_call_auth_context(core);
    if (context == NULL) {
        return NULL;
    }
    char *name = NULL;
    if (grpc_auth_context_peer_is_authenticated(context)) {
        grpc_auth_property_iterator it =
            grpc_auth_context_find_properties_by_name(context, GRPC_X509_CN_PROPERTY_NAME);
        const grpc_auth_property *property = grpc_auth_property_iterator_next(&it);
        // A name with a NUL inside would be another name to whoever reads it as a string.
        if (property != NULL && memchr(property->value, '\0', property->value_length) == NULL) {
            name = nl_rpc_text(property->value, property->value_length);
        }
    }
    grpc_auth_context_release(context);
    return name;
}

const char *nl_rpc_call_peer_name(const struct nl_rpc_call *call) {
    if (!call->peer_name_known && call->core != NULL) {
        caches(call)->peer_name = verified_name(call->core);
        caches(call)->peer_name_known = true;
    }
    return call->peer_name;
}

const char *nl_rpc_call_method(const struct nl_rpc_call *call) {
    return call->path;
}

uint64_t nl_rpc_call_time_left_ms(const struct nl_rpc_call *call) {
    gpr_timespec never = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (gpr_time_cmp(call->deadline, never) == 0) {
        return UINT64_MAX;
    }
    gpr_timespec left = gpr_time_sub(call->deadline, gpr_now(GPR_CLOCK_MONOTONIC));
    if (left.tv_sec < 0) {
        return 0;
    }
    return (uint64_t)left.tv_sec * 1000 + (uint64_t)left.tv_nsec / 1000000;
}

bool nl_rpc_call_is_closed(const struct nl_rpc_call *call) {
    return call->state == NL_RPC_CALL_CLOSED;
}

void *nl_rpc_call_user(const struct nl_rpc_call *call) {
    return call->user;
}
