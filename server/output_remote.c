// PeerService.ReadOutput has no credit of its own: HTTP/2 flow control is, by pausing the call
// while the consumer owes a window.
#include "server/output_remote.h"

#include <stdlib.h>
#include <string.h>

#include <nodelink/v1/peer.pb-c.h>

#include "common/base/err.h"
#include "server/messages.h"

#define CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

struct remote_reader {
    struct nl_output_reader base;
    struct nl_rpc_call *call;  // a reference; NULL when it is over
    size_t owed;               // bytes delivered and not given back
    bool paused;
};

static void drop_call(struct remote_reader *r) {
    if (r->call != NULL) {
        static const struct nl_rpc_handler nothing;
        nl_rpc_call_set_handler(r->call, &nothing, NULL);
        nl_rpc_call_cancel(r->call);
        nl_rpc_call_unref(r->call);
        r->call = NULL;
    }
}

static void on_credit(struct nl_output_reader *reader, size_t bytes) {
    struct remote_reader *r = CONTAINER(reader, struct remote_reader, base);
    r->owed -= bytes < r->owed ? bytes : r->owed;
    if (r->paused && r->owed < NL_OUTPUT_WINDOW / 2 && r->call != NULL) {
        r->paused = false;
        nl_rpc_call_resume(r->call);
    }
}

static void on_close(struct nl_output_reader *reader) {
    struct remote_reader *r = CONTAINER(reader, struct remote_reader, base);
    drop_call(r);
    nl_output_released(reader);
    free(r);
}

static enum nl_output_why why_of(const Nodelink__V1__OutputEnd *end) {
    switch (end->why) {
        case NODELINK__V1__OUTPUT_END__WHY__COMPLETE:
            return NL_OUTPUT_COMPLETE;
        case NODELINK__V1__OUTPUT_END__WHY__GONE:
            return NL_OUTPUT_GONE;
        case NODELINK__V1__OUTPUT_END__WHY__GAP:
            return NL_OUTPUT_GAP;
        default:
            return NL_OUTPUT_BROKEN;
    }
}

static bool deliver(struct remote_reader *r, enum nl_stream stream, uint64_t offset,
                    ProtobufCBinaryData data) {
    if (data.len == 0) {
        return true;
    }
    r->owed += data.len;
    if (r->owed >= NL_OUTPUT_WINDOW && !r->paused) {
        r->paused = true;
        nl_rpc_call_pause(r->call);
    }
    return nl_output_deliver(&r->base, stream, offset, data.data, data.len);
}

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)call;
    struct remote_reader *r = user;
    const Nodelink__V1__PeerOutputEvent *event = (const void *)message;
    bool here = deliver(r, NL_STDOUT, event->stdout_offset, event->stdout) &&
                deliver(r, NL_STDERR, event->stderr_offset, event->stderr);
    if (here && event->end != NULL) {
        const Nodelink__V1__OutputEnd *end = event->end;
        struct nl_output_end e = {.why = why_of(end),
                                  .total = {end->stdout_bytes, end->stderr_bytes},
                                  .base = {end->stdout_base, end->stderr_base},
                                  .message = end->message};
        nl_output_finish(&r->base, &e);
    }
    nl_rpc_message_free(message);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    (void)call;
    struct remote_reader *r = user;
    nl_rpc_call_unref(r->call);
    r->call = NULL;
    struct nl_output_end e = {.why = NL_OUTPUT_BROKEN, .message = status->message};
    nl_output_finish(&r->base, &e);
}

static int start(struct remote_reader *r, struct nl_server *server, uint64_t node,
                 const struct nl_output_request *request) {
    static const struct nl_rpc_handler handler = {.on_message = on_message, .on_closed = on_closed};
    struct nl_rpc_channel *channel = nl_cluster_peer_channel(server->cluster, node);
    if (channel == NULL) {
        return NL_EAGAIN;
    }
    struct nl_rpc_call_options options = {.metadata = nl_cluster_peer_metadata(server->cluster)};
    struct nl_rpc_call *call = NULL;
    int rv = nl_rpc_call_start(channel, &nodelink__v1__peer_service__descriptor, "ReadOutput",
                               &options, &handler, r, &call);
    if (rv != NL_OK) {
        return rv;
    }
    nl_rpc_call_ref(call);
    r->call = call;
    Nodelink__V1__PeerOutputRequest message = NODELINK__V1__PEER_OUTPUT_REQUEST__INIT;
    message.task_id = nl_message_text(request->task_id);
    message.attempt = request->attempt;
    message.stdout_offset = request->offset[0];
    message.stderr_offset = request->offset[1];
    rv = nl_rpc_call_send(call, &message.base);
    nl_rpc_call_half_close(call);
    return rv;
}

int nl_output_remote_open(struct nl_server *server, uint64_t node,
                          const struct nl_output_request *request, struct nl_output_reader **ret) {
    struct remote_reader *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NL_ENOMEM;
    }
    r->base = (struct nl_output_reader){.credit = on_credit, .close = on_close};
    int rv = start(r, server, node, request);
    if (rv != NL_OK) {
        drop_call(r);
        free(r);
        return rv;
    }
    *ret = &r->base;
    return NL_OK;
}
