#include "server/output_stock.h"

#include <stdlib.h>

#include "common/base/err.h"

#define CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

struct stock_reader {
    struct nl_output_reader base;
    struct nl_server *server;
    struct nl_stock_task *task;  // NULL: dropped
    struct nl_stock_listener listener;
    struct nl_defer_item turn;
    uint64_t offset[2];
    size_t credit;
};

static void on_changed(struct nl_stock_listener *listener) {
    struct stock_reader *r = CONTAINER(listener, struct stock_reader, listener);
    nl_defer_post(&r->server->defer, &r->turn);
}

static void on_gone(struct nl_stock_listener *listener) {
    struct stock_reader *r = CONTAINER(listener, struct stock_reader, listener);
    r->task = NULL;
    nl_defer_post(&r->server->defer, &r->turn);
}

static void on_credit(struct nl_output_reader *reader, size_t bytes) {
    struct stock_reader *r = CONTAINER(reader, struct stock_reader, base);
    r->credit += bytes;
    nl_defer_post(&r->server->defer, &r->turn);
}

static void on_close(struct nl_output_reader *reader) {
    struct stock_reader *r = CONTAINER(reader, struct stock_reader, base);
    nl_defer_cancel(&r->server->defer, &r->turn);
    if (r->task != NULL) {
        nl_stock_leave(r->task, &r->listener);
    }
    nl_output_released(reader);
    free(r);
}

static void finish(struct stock_reader *r, enum nl_output_why why, const char *message) {
    struct nl_output_end end = {.why = why, .message = message};
    for (int i = 0; i < 2; i++) {
        end.total[i] = r->task != NULL ? nl_stock_total(r->task, i) : r->offset[i];
        end.base[i] = r->task != NULL ? nl_stock_base(r->task, i) : r->offset[i];
    }
    nl_output_finish(&r->base, &end);
}

// Delivers one piece. false: nothing more now, or the reader is gone.
static bool deliver_one(struct stock_reader *r, int stream) {
    size_t len = 0;
    uint64_t offset = r->offset[stream];
    if (r->credit == 0 || offset >= nl_stock_total(r->task, stream)) {
        return false;
    }
    const uint8_t *data = nl_stock_bytes(r->task, stream, offset, &len);
    len = len < NL_OUTPUT_CHUNK_MAX ? len : NL_OUTPUT_CHUNK_MAX;
    len = len < r->credit ? len : r->credit;
    r->credit -= len;
    r->offset[stream] += len;
    return nl_output_deliver(&r->base, (enum nl_stream)stream, offset, data, len);
}

// One piece of each stream a turn: a long output leaves the loop its share.
static void on_turn(struct nl_defer_item *item) {
    struct stock_reader *r = CONTAINER(item, struct stock_reader, turn);
    if (r->task == NULL) {
        finish(r, NL_OUTPUT_GONE, "the node no longer keeps this output");
        return;
    }
    bool behind = false, complete = false;
    for (int i = 0; i < 2; i++) {
        if (r->offset[i] < nl_stock_base(r->task, i)) {
            finish(r, NL_OUTPUT_GAP, "the node keeps only the newest output of a stock agent");
            return;
        }
    }
    for (int i = 0; i < 2; i++) {
        bool more = r->credit > 0 && r->offset[i] < nl_stock_total(r->task, i);
        if (more && !deliver_one(r, i)) {
            return;
        }
        behind = behind || r->offset[i] < nl_stock_total(r->task, i);
    }
    if (behind) {
        if (r->credit > 0) {
            nl_defer_post(&r->server->defer, &r->turn);
        }
    } else if (nl_stock_ended(r->task, &complete)) {
        finish(r, complete ? NL_OUTPUT_COMPLETE : NL_OUTPUT_GONE,
               complete ? "" : "the stream of the stock agent broke: what followed is not known");
    }
}

int nl_output_stock_open(struct nl_server *server, struct nl_stock *stock,
                         struct nl_stock_task *task, const struct nl_output_request *request,
                         struct nl_output_reader **ret) {
    (void)stock;
    struct stock_reader *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NL_ENOMEM;
    }
    *r = (struct stock_reader){
        .base = {.credit = on_credit, .close = on_close},
        .server = server,
        .task = task,
        .listener = {.changed = on_changed, .gone = on_gone},
        .turn = {.run = on_turn},
        .offset = {request->offset[0], request->offset[1]},
        .credit = NL_OUTPUT_WINDOW,
    };
    nl_stock_listen(task, &r->listener);
    nl_defer_post(&server->defer, &r->turn);
    *ret = &r->base;
    return NL_OK;
}
