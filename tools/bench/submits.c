#include "tools/bench/submits.h"

#include <stdlib.h>

#include "common/base/err.h"

struct stream {
    struct nl_bench_submits *owner;
    struct nl_rpc_call *call;  // NULL: none
};

struct nl_bench_submits {
    struct nl_bench *bench;
    const struct nl_bench_submits_events *events;
    void *user;
    struct stream *streams;  // as many as lines
};

struct nl_bench_submits *nl_bench_submits_new(struct nl_bench *bench,
                                              const struct nl_bench_submits_events *events,
                                              void *user) {
    struct nl_bench_submits *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    *s = (struct nl_bench_submits){.bench = bench, .events = events, .user = user};
    s->streams = calloc(bench->n_lines, sizeof *s->streams);
    if (s->streams == NULL) {
        free(s);
        return NULL;
    }
    for (size_t i = 0; i < bench->n_lines; i++) {
        s->streams[i].owner = s;
    }
    return s;
}

void nl_bench_submits_free(struct nl_bench_submits *s) {
    if (s != NULL) {
        free(s->streams);
        free(s);
    }
}

static void on_answer(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    const struct stream *stream = user;
    const Nodelink__V1__SubmitTasksReply *answer = (const void *)message;
    const struct nl_bench_submits *s = stream->owner;
    const Nodelink__V1__ReplyHeader *header = answer->reply != NULL ? answer->reply->header : NULL;
    (void)call;
    s->events->answered(s->user, answer->task_id,
                        &(struct nl_rpc_status){(enum nl_rpc_code)answer->code, answer->error},
                        header != NULL ? header->index : 0);
    nl_rpc_message_free(message);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    struct stream *stream = user;
    struct nl_bench_submits *s = stream->owner;
    (void)call;
    stream->call = NULL;
    s->events->ended(s->user, (size_t)(stream - s->streams), status);
}

int nl_bench_submits_send(struct nl_bench_submits *s, size_t line,
                          const Nodelink__V1__SubmitTaskRequest *request) {
    static const struct nl_rpc_handler HANDLER = {.on_message = on_answer, .on_closed = on_closed};
    struct nl_bench *b = s->bench;
    struct stream *stream = &s->streams[line];
    struct nl_rpc_call_options options = {.metadata = nl_client_metadata(b->client)};
    if (stream->call == NULL &&
        nl_rpc_call_start(b->lines[line].channel, &nodelink__v1__control_service__descriptor,
                          "SubmitTasks", &options, &HANDLER, stream, &stream->call) != NL_OK) {
        stream->call = NULL;
        return NL_ENOMEM;
    }
    return nl_rpc_call_send(stream->call, &request->base);
}
