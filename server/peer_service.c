#include "server/peer_service.h"

#include <stdlib.h>
#include <string.h>

#include <nodelink/v1/peer.pb-c.h>

#include "common/base/err.h"
#include "common/base/text.h"
#include "server/chunks.h"
#include "server/messages.h"
#include "server/output.h"

bool nl_peer_authorize(struct nl_rpc_call *call, void *user) {
    struct nl_server *server = user;
    return nl_cluster_authorize_peer(server->cluster, call);
}

static void link_stream(struct nl_rpc_call *call, void *user) {
    struct nl_server *server = user;
    nl_cluster_serve_link(server->cluster, call);
}

// ---- ReadOutput ------------------------------------------------------------

// Output of a task whose agent's stream is here, on its way to another node.
struct relay {
    struct nl_rpc_call *call;         // a reference
    struct nl_output_reader *reader;  // NULL when it has ended
    struct nl_chunks chunks;
    bool ended;
    struct nl_output_end end;
    char message[256];
};

static bool send_piece(struct relay *r, enum nl_stream stream, uint64_t offset, const uint8_t *data,
                       size_t len) {
    Nodelink__V1__PeerOutputEvent event = NODELINK__V1__PEER_OUTPUT_EVENT__INIT;
    ProtobufCBinaryData bytes = {len, (uint8_t *)(uintptr_t)data};
    if (stream == NL_STDOUT) {
        event.stdout_offset = offset;
        event.stdout = bytes;
    } else {
        event.stderr_offset = offset;
        event.stderr = bytes;
    }
    return nl_rpc_call_send(r->call, &event.base) == NL_OK;
}

static bool send_chunks(struct relay *r) {
    while (r->chunks.head != NULL) {
        struct nl_chunk *chunk = r->chunks.head;
        if (!send_piece(r, chunk->stream, chunk->offset, chunk->data, chunk->len)) {
            return false;
        }
        size_t len = chunk->len;
        nl_chunks_pop(&r->chunks);
        if (r->reader != NULL) {
            nl_output_credit(r->reader, len);
        }
    }
    return true;
}

static Nodelink__V1__OutputEnd__Why why_of(enum nl_output_why why) {
    switch (why) {
        case NL_OUTPUT_COMPLETE:
            return NODELINK__V1__OUTPUT_END__WHY__COMPLETE;
        case NL_OUTPUT_GONE:
            return NODELINK__V1__OUTPUT_END__WHY__GONE;
        case NL_OUTPUT_GAP:
            return NODELINK__V1__OUTPUT_END__WHY__GAP;
        case NL_OUTPUT_BROKEN:
            return NODELINK__V1__OUTPUT_END__WHY__ERROR;
    }
    return NODELINK__V1__OUTPUT_END__WHY__ERROR;
}

static void flush(struct relay *r) {
    if (!send_chunks(r) || !r->ended) {
        return;
    }
    Nodelink__V1__OutputEnd end = NODELINK__V1__OUTPUT_END__INIT;
    Nodelink__V1__PeerOutputEvent event = NODELINK__V1__PEER_OUTPUT_EVENT__INIT;
    end.why = why_of(r->end.why);
    end.stdout_bytes = r->end.total[NL_STDOUT];
    end.stderr_bytes = r->end.total[NL_STDERR];
    end.stdout_base = r->end.base[NL_STDOUT];
    end.stderr_base = r->end.base[NL_STDERR];
    end.message = r->message;
    event.end = &end;
    if (nl_rpc_call_send(r->call, &event.base) != NL_EFULL) {
        nl_rpc_call_finish(r->call, NL_RPC_OK, "");
    }
}

static void on_data(void *user, enum nl_stream stream, uint64_t offset, const uint8_t *data,
                    size_t len) {
    struct relay *r = user;
    // As it came, where nothing waits before it; else copied until there is room.
    if (r->chunks.head == NULL && len <= NL_OUTPUT_CHUNK_MAX &&
        send_piece(r, stream, offset, data, len)) {
        nl_output_credit(r->reader, len);
        return;
    }
    if (nl_chunks_add(&r->chunks, stream, offset, data, len) != NL_OK) {
        nl_output_close(r->reader);
        r->reader = NULL;
        nl_rpc_call_finish(r->call, NL_RPC_RESOURCE_EXHAUSTED, "out of memory");
        return;
    }
    flush(r);
}

static void on_end(void *user, const struct nl_output_end *end) {
    struct relay *r = user;
    r->reader = NULL;
    r->ended = true;
    r->end = *end;
    strncpy(r->message, end->message, sizeof r->message - 1);
    if (!nl_text_utf8_ok(r->message, strlen(r->message))) {
        r->message[0] = '\0';  // cut in the middle of a character
    }
    flush(r);
}

static void on_writable(struct nl_rpc_call *call, void *user) {
    (void)call;
    flush(user);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    (void)status;
    struct relay *r = user;
    nl_output_close(r->reader);
    nl_chunks_clear(&r->chunks);
    nl_rpc_call_unref(call);
    free(r);
}

static void refuse(struct nl_rpc_call *call, int result) {
    if (result == NL_EGAP) {
        Nodelink__V1__OutputEnd end = NODELINK__V1__OUTPUT_END__INIT;
        Nodelink__V1__PeerOutputEvent event = NODELINK__V1__PEER_OUTPUT_EVENT__INIT;
        end.why = NODELINK__V1__OUTPUT_END__WHY__GONE;
        end.message = nl_message_text("the agent's node does not keep this output");
        event.end = &end;
        nl_rpc_call_send(call, &event.base);
        nl_rpc_call_finish(call, NL_RPC_OK, "");
    } else if (result == NL_EFULL) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED, "too many readers at this node");
    } else {
        nl_rpc_call_finish(call, NL_RPC_UNAVAILABLE, "the agent's stream is not at this node");
    }
}

static void read_output(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    static const struct nl_output_events events = {.on_data = on_data, .on_end = on_end};
    static const struct nl_rpc_handler handler = {.on_writable = on_writable,
                                                  .on_closed = on_closed};
    struct nl_server *server = user;
    const Nodelink__V1__PeerOutputRequest *request = (const void *)message;
    struct nl_output_request wanted = {
        .task_id = request->task_id,
        .attempt = request->attempt,
        .offset = {request->stdout_offset, request->stderr_offset},
    };
    struct relay *r = calloc(1, sizeof *r);
    int rv = r != NULL ? nl_output_open(server->outputs, &wanted, true, &events, r, &r->reader)
                       : NL_EFULL;
    nl_rpc_message_free(message);
    if (rv != NL_OK) {
        free(r);
        refuse(call, rv);
        return;
    }
    nl_rpc_call_ref(call);
    r->call = call;
    nl_rpc_call_set_handler(call, &handler, r);
}

const struct nl_rpc_method nl_peer_methods[] = {
    {"Link", NL_RPC_BIDI, NULL, link_stream},
    {"ReadOutput", NL_RPC_SERVER_STREAM, read_output, NULL},
    {NULL, NL_RPC_UNARY, NULL, NULL},
};
