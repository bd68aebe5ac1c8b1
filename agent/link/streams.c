#include "agent/link/streams.h"

#include <assert.h>
#include <nodelink/v1/task.pb-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/fs.h"

enum {
    LEAVE_MS = 2000,
    SEND_QUEUE_BYTES = 512 * 1024,
    OUTBOX_BYTES_MAX = 16 * 1024 * 1024,
};

// A control frame that waits for room. Output never waits here.
struct waiting {
    STAILQ_ENTRY(waiting) next;
    Nodelink__V1__TaskResponse *response;  // owned
    size_t bytes;
};

struct nl_link_stream {
    LIST_ENTRY(nl_link_stream) in_list;
    struct nl_link_streams *owner;
    uint64_t number;
    struct nl_rpc_channel *channel;  // owned
    struct nl_rpc_call *call;        // NULL: closed
    STAILQ_HEAD(, waiting) outbox;
    size_t outbox_bytes;
    bool left;  // the core has no interest in it any more
    bool half_close_due;
};

static struct nl_link_stream *find(const struct nl_link_streams *s, uint64_t number) {
    struct nl_link_stream *stream;
    LIST_FOREACH(stream, &s->list, in_list) {
        if (stream->number == number && !stream->left) {
            return stream;
        }
    }
    return NULL;
}

static void free_stream(struct nl_link_stream *stream) {
    struct waiting *w;
    while ((w = STAILQ_FIRST(&stream->outbox)) != NULL) {
        STAILQ_REMOVE_HEAD(&stream->outbox, next);
        nodelink__v1__task_response__free_unpacked(w->response, NULL);
        free(w);
    }
    nl_rpc_channel_free(stream->channel);
    free(stream);
}

static void check_idle(struct nl_link_streams *s) {
    if (s->stopping && LIST_EMPTY(&s->list)) {
        s->stopping = false;
        s->on_idle(s->user);
    }
}

// ---- callbacks of the call -------------------------------------------------

static void on_headers(struct nl_rpc_call *call, void *user) {
    struct nl_link_stream *stream = user;
    if (stream->left) {
        return;
    }
    const char *protocol = nl_rpc_call_metadata(call, "nodelink-protocol");
    struct nl_link_event event = {.type = NL_LINK_CALL_HEADERS, .call = stream->number};
    event.headers.extended = protocol != NULL && strcmp(protocol, "1") == 0;
    event.headers.node = nl_rpc_call_metadata(call, "nodelink-node");
    stream->owner->on_event(stream->owner->user, &event);
}

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)call;
    struct nl_link_stream *stream = user;
    if (!stream->left) {
        struct nl_link_event event = {.type = NL_LINK_CALL_MESSAGE, .call = stream->number};
        event.request = (const Nodelink__V1__TaskRequest *)message;
        stream->owner->on_event(stream->owner->user, &event);
    }
    nl_rpc_message_free(message);
}

static void flush(struct nl_link_stream *stream) {
    struct waiting *w;
    while ((w = STAILQ_FIRST(&stream->outbox)) != NULL) {
        if (nl_rpc_call_send(stream->call, &w->response->base) == NL_EFULL) {
            return;
        }
        STAILQ_REMOVE_HEAD(&stream->outbox, next);
        stream->outbox_bytes -= w->bytes;
        nodelink__v1__task_response__free_unpacked(w->response, NULL);
        free(w);
    }
    if (stream->half_close_due) {
        stream->half_close_due = false;
        nl_rpc_call_half_close(stream->call);
    }
}

static void on_writable(struct nl_rpc_call *call, void *user) {
    (void)call;
    struct nl_link_stream *stream = user;
    flush(stream);
    if (STAILQ_EMPTY(&stream->outbox) && !stream->left) {
        stream->owner->on_writable(stream->owner->user);
    }
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    (void)call;
    struct nl_link_stream *stream = user;
    struct nl_link_streams *s = stream->owner;
    LIST_REMOVE(stream, in_list);
    stream->call = NULL;
    if (!stream->left) {
        struct nl_link_event event = {.type = NL_LINK_CALL_CLOSED, .call = stream->number};
        event.closed.code = (int)status->code;
        event.closed.message =
            status->code == NL_RPC_OK ? "the server ended the stream" : status->message;
        s->on_event(s->user, &event);
    }
    free_stream(stream);
    check_idle(s);
}

static const struct nl_rpc_handler HANDLER = {
    .on_headers = on_headers,
    .on_message = on_message,
    .on_writable = on_writable,
    .on_closed = on_closed,
};

// ---- connect ---------------------------------------------------------------

static int start_call(struct nl_link_stream *stream, const struct nl_link_settings *settings,
                      const char *address, const char *token) {
    const struct nl_rpc_tls tls = {
        .ca_file = settings->tls_ca_file,
        .cert_file = settings->tls_cert_file,
        .key_file = settings->tls_key_file,
        .server_name = settings->tls_server_name,
    };
    const struct nl_rpc_channel_options options = {
        .tls = settings->insecure ? NULL : &tls,
        .send_queue_bytes_max = SEND_QUEUE_BYTES,
    };
    int rv = nl_rpc_channel_new(stream->owner->rpc, address, &options, &stream->channel);
    if (rv != NL_OK) {
        return rv;
    }
    const struct nl_rpc_metadata metadata[] = {{"agent_id", settings->agent_id},
                                               {"agent_token", token},
                                               {"nodelink-protocol", "1"},
                                               {NULL, NULL}};
    const struct nl_rpc_call_options call_options = {.metadata = metadata};
    return nl_rpc_call_start(stream->channel, &nodelink__v1__task_service__descriptor,
                             "StreamTasks", &call_options, &HANDLER, stream, &stream->call);
}

static int explain(int rv, const char *what, const char *file, int *ret_code, char *error_text,
                   size_t error_size) {
    if (rv == NL_EPERM) {
        snprintf(error_text, error_size, "%s %s: must be readable by its owner only (mode 0600)",
                 what, file);
    } else {
        snprintf(error_text, error_size, "%s %s: %s", what, file, nl_strerror(rv));
    }
    *ret_code = NL_RPC_UNAUTHENTICATED;
    return rv;
}

int nl_link_streams_connect(struct nl_link_streams *s, uint64_t call, const char *address,
                            int *ret_code, char *error_text, size_t error_size) {
    char *token = NULL;
    int rv = nl_fs_read_secret(s->settings->token_file, &token);
    if (rv != NL_OK) {
        return explain(rv, "token file", s->settings->token_file, ret_code, error_text, error_size);
    }
    struct nl_link_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        rv = NL_ENOMEM;
    } else {
        stream->owner = s;
        stream->number = call;
        STAILQ_INIT(&stream->outbox);
        rv = start_call(stream, s->settings, address, token);
    }
    explicit_bzero(token, strlen(token));
    free(token);
    if (rv != NL_OK) {
        if (stream != NULL) {
            free_stream(stream);
        }
        if (rv == NL_EPERM) {
            return explain(rv, "key file", s->settings->tls_key_file, ret_code, error_text,
                           error_size);
        }
        snprintf(error_text, error_size, "%s",
                 rv == NL_EIO || rv == NL_ENOTFOUND || rv == NL_EINVAL
                     ? "the TLS files can't be used, or the token has characters that can't be sent"
                     : nl_strerror(rv));
        *ret_code = NL_RPC_UNAVAILABLE;
        return rv;
    }
    LIST_INSERT_HEAD(&s->list, stream, in_list);
    return NL_OK;
}

bool nl_link_streams_is_connected(const struct nl_link_streams *s, uint64_t call) {
    const struct nl_link_stream *stream = find(s, call);
    return stream != NULL && nl_rpc_channel_is_connected(stream->channel);
}

// ---- send ------------------------------------------------------------------

static int put_into_outbox(struct nl_link_stream *stream,
                           const Nodelink__V1__TaskResponse *response) {
    size_t size = nodelink__v1__task_response__get_packed_size(response);
    if (stream->outbox_bytes + size > OUTBOX_BYTES_MAX) {
        nl_rpc_call_cancel(stream->call);  // it does not read; everything is said again elsewhere
        return NL_ECLOSED;
    }
    struct waiting *w = calloc(1, sizeof *w);
    uint8_t *packed = malloc(size + 1);
    if (w != NULL && packed != NULL) {
        nodelink__v1__task_response__pack(response, packed);
        w->response = nodelink__v1__task_response__unpack(NULL, size, packed);
    }
    free(packed);
    if (w == NULL || w->response == NULL) {
        free(w);
        return NL_ENOMEM;
    }
    w->bytes = size;
    stream->outbox_bytes += size;
    STAILQ_INSERT_TAIL(&stream->outbox, w, next);
    return NL_OK;
}

int nl_link_streams_send(struct nl_link_streams *s, uint64_t call,
                         const Nodelink__V1__TaskResponse *response) {
    struct nl_link_stream *stream = find(s, call);
    if (stream == NULL) {
        return NL_ECLOSED;
    }
    if (STAILQ_EMPTY(&stream->outbox)) {
        int rv = nl_rpc_call_send(stream->call, &response->base);
        if (rv != NL_EFULL) {
            return rv;
        }
    }
    return put_into_outbox(stream, response);
}

int nl_link_streams_try_send(struct nl_link_streams *s, uint64_t call,
                             const Nodelink__V1__TaskResponse *response) {
    struct nl_link_stream *stream = find(s, call);
    if (stream == NULL) {
        return NL_ECLOSED;
    }
    return STAILQ_EMPTY(&stream->outbox) ? nl_rpc_call_send(stream->call, &response->base)
                                         : NL_EFULL;
}

// ---- end -------------------------------------------------------------------

static void on_leave_timer(uv_timer_t *timer) {
    struct nl_link_streams *s = timer->data;
    struct nl_link_stream *stream;
    LIST_FOREACH(stream, &s->list, in_list) {
        if (stream->left) {
            nl_rpc_call_cancel(stream->call);
        }
    }
}

void nl_link_streams_leave(struct nl_link_streams *s, uint64_t call) {
    struct nl_link_stream *stream = find(s, call);
    if (stream == NULL) {
        return;
    }
    stream->left = true;
    if (STAILQ_EMPTY(&stream->outbox)) {
        nl_rpc_call_half_close(stream->call);
    } else {
        stream->half_close_due = true;
    }
    uv_timer_start(&s->leave_timer, on_leave_timer, LEAVE_MS, 0);
}

void nl_link_streams_cancel(struct nl_link_streams *s, uint64_t call) {
    struct nl_link_stream *stream = find(s, call);
    if (stream != NULL) {
        stream->left = true;
        nl_rpc_call_cancel(stream->call);
    }
}

void nl_link_streams_init(struct nl_link_streams *s, uv_loop_t *loop) {
    LIST_INIT(&s->list);
    s->stopping = false;
    uv_timer_init(loop, &s->leave_timer);
    s->leave_timer.data = s;
}

void nl_link_streams_stop(struct nl_link_streams *s) {
    struct nl_link_stream *stream;
    LIST_FOREACH(stream, &s->list, in_list) {
        if (!stream->left) {
            stream->left = true;
            nl_rpc_call_cancel(stream->call);
        }
    }
    s->stopping = true;
    check_idle(s);
}

void nl_link_streams_close(struct nl_link_streams *s) {
    assert(LIST_EMPTY(&s->list));
    uv_close((uv_handle_t *)&s->leave_timer, NULL);
}
