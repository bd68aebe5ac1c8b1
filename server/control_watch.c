// ControlService.WatchTask: the driver of watch_core over the call, the state's changes and the
// output hub. What happens only marks the watch; on_turn does the rest, in this order: the task if
// it changed, output, then the next step that the core names.
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "server/chunks.h"
#include "server/control.h"
#include "server/messages.h"
#include "server/tail.h"
#include "server/watch_core.h"

#define CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

struct watch {
    struct nl_watches *owner;
    struct nl_rpc_call *call;  // a reference; NULL when it is over
    char *task_id, *agent_id;  // owned
    struct nl_topic_listener on_task, on_agent;
    struct nl_defer_item turn;
    uv_timer_t timer;
    struct nl_watch_core core;
    struct nl_output_reader *reader;  // or NULL
    struct nl_chunks chunks;
    uint64_t version;  // of the task, last sent
    struct nl_watch_gap gap;
    bool task_dirty, gap_due, blocked, finished;
    bool stale;  // as asked for
    uint64_t blocked_since_ms;
    struct watch *prev, *next;
};

struct nl_watches {
    struct nl_server *server;
    struct watch *all;
    uint64_t count;
};

struct nl_watches *nl_watches_new(struct nl_server *server) {
    struct nl_watches *watches = calloc(1, sizeof *watches);
    if (watches != NULL) {
        watches->server = server;
    }
    return watches;
}

void nl_watches_free(struct nl_watches *watches) {
    assert(watches->all == NULL);
    free(watches);
}

uint64_t nl_watches_count(const struct nl_watches *watches) {
    return watches->count;
}

static struct nl_server *server_of(const struct watch *w) {
    return w->owner->server;
}

static void wake(struct watch *w) {
    nl_defer_post(&server_of(w)->defer, &w->turn);
}

// ---- end -------------------------------------------------------------------

static void on_timer_closed(uv_handle_t *handle) {
    struct watch *w = handle->data;
    free(w->task_id);
    free(w->agent_id);
    free(w);
}

static void watch_free(struct watch *w) {
    struct nl_server *server = server_of(w);
    nl_defer_cancel(&server->defer, &w->turn);
    nl_topics_leave(server->task_topics, &w->on_task);
    nl_topics_leave(server->agent_topics, &w->on_agent);
    nl_output_close(w->reader);
    nl_chunks_clear(&w->chunks);
    DL_DELETE(w->owner->all, w);
    w->owner->count--;
    uv_close((uv_handle_t *)&w->timer, on_timer_closed);
}

static void finish(struct watch *w, enum nl_rpc_code code, const char *text) {
    w->finished = true;
    nl_output_close(w->reader);
    w->reader = NULL;
    nl_rpc_call_finish(w->call, code, text);
}

// ---- events to the client --------------------------------------------------

// false: no room now, on_writable wakes the watch; or the call is over.
static bool send_event(struct watch *w, Nodelink__V1__WatchTaskEvent *event) {
    Nodelink__V1__ReplyHeader header;
    nl_control_header(server_of(w), &header);
    header.stale = w->stale;
    event->header = &header;
    event->attempt = w->core.attempt;
    int rv = nl_rpc_call_send(w->call, &event->base);
    w->blocked = rv == NL_EFULL;
    w->blocked_since_ms = nl_clock_mono_ms();
    if (rv == NL_ETOOBIG) {
        finish(w, NL_RPC_INTERNAL, "an event is too large to be sent");
    }
    return rv == NL_OK;
}

static bool send_piece(struct watch *w, enum nl_stream stream, uint64_t offset, const uint8_t *data,
                       size_t len) {
    Nodelink__V1__WatchTaskEvent event = NODELINK__V1__WATCH_TASK_EVENT__INIT;
    ProtobufCBinaryData bytes = {len, (uint8_t *)(uintptr_t)data};
    if (stream == NL_STDOUT) {
        event.stdout_offset = offset;
        event.stdout = bytes;
    } else {
        event.stderr_offset = offset;
        event.stderr = bytes;
    }
    return send_event(w, &event);
}

static bool send_chunks(struct watch *w) {
    while (w->chunks.head != NULL) {
        struct nl_chunk *chunk = w->chunks.head;
        if (!send_piece(w, chunk->stream, chunk->offset, chunk->data, chunk->len)) {
            return false;
        }
        size_t len = chunk->len;
        nl_chunks_pop(&w->chunks);
        if (w->reader != NULL) {
            nl_output_credit(w->reader, len);
        }
    }
    return true;
}

static bool send_task(struct watch *w, const struct nl_task *task) {
    Nodelink__V1__Task record;
    Nodelink__V1__WatchTaskEvent event = NODELINK__V1__WATCH_TASK_EVENT__INIT;
    nl_control_fill_task(task, &record);
    event.task = &record;
    if (!send_event(w, &event)) {
        return false;
    }
    w->version = task->version;
    return true;
}

static bool send_gap(struct watch *w, const struct nl_watch_gap *gap, bool end) {
    Nodelink__V1__WatchTaskEvent event = NODELINK__V1__WATCH_TASK_EVENT__INIT;
    Nodelink__V1__WatchGap message = NODELINK__V1__WATCH_GAP__INIT;
    message.stdout_from = gap->from[NL_STDOUT];
    message.stdout_to = gap->to[NL_STDOUT];
    message.stderr_from = gap->from[NL_STDERR];
    message.stderr_to = gap->to[NL_STDERR];
    message.reason = w->core.why;
    event.gap = &message;
    event.end = end;
    nl_log(NL_LOG_WARN, "watch", "gap", "task", w->task_id, "why", w->core.why, NULL);
    return send_event(w, &event);
}

static bool send_end(struct watch *w) {
    Nodelink__V1__WatchTaskEvent event = NODELINK__V1__WATCH_TASK_EVENT__INIT;
    event.end = true;
    return send_event(w, &event);
}

// ---- the source ------------------------------------------------------------

// What nothing waits before goes on as it came; the rest is copied until there is room.
static int pass_on(struct watch *w, enum nl_stream stream, uint64_t offset, const uint8_t *data,
                   size_t len) {
    bool at_once = w->chunks.head == NULL && !w->blocked && !w->gap_due && !w->finished &&
                   len <= NL_OUTPUT_CHUNK_MAX;
    if (at_once && send_piece(w, stream, offset, data, len)) {
        nl_output_credit(w->reader, len);
        return NL_OK;
    }
    return w->finished ? NL_OK : nl_chunks_add(&w->chunks, stream, offset, data, len);
}

static void on_data(void *user, enum nl_stream stream, uint64_t offset, const uint8_t *data,
                    size_t len) {
    struct watch *w = user;
    size_t received = len;
    enum nl_watch_chunk verdict =
        nl_watch_core_chunk(&w->core, nl_clock_mono_ms(), (int)stream, &offset, &data, &len);
    if (verdict == NL_WATCH_NEW && pass_on(w, stream, offset, data, len) == NL_OK) {
        if (received > len && w->reader != NULL) {
            nl_output_credit(w->reader, received - len);
        }
    } else if (verdict == NL_WATCH_OLD) {
        nl_output_credit(w->reader, received);
    } else if (verdict == NL_WATCH_HOLE) {
        struct nl_output_end end = {.why = NL_OUTPUT_BROKEN, .message = "bytes were left out"};
        struct nl_watch_gap none;
        nl_output_close(w->reader);
        w->reader = NULL;
        nl_watch_core_ended(&w->core, nl_clock_mono_ms(), &end, &none);
    } else {  // cut off with an offset to resume at: nothing after it was delivered
        nl_output_close(w->reader);
        w->reader = NULL;
        finish(w, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory; resume");
    }
    wake(w);
}

static void on_end(void *user, const struct nl_output_end *end) {
    struct watch *w = user;
    w->reader = NULL;
    w->gap_due = nl_watch_core_ended(&w->core, nl_clock_mono_ms(), end, &w->gap);
    wake(w);
}

static void open_source(struct watch *w) {
    static const struct nl_output_events events = {.on_data = on_data, .on_end = on_end};
    struct nl_output_request request = {.task_id = w->task_id,
                                        .attempt = w->core.attempt,
                                        .offset = {w->core.next[0], w->core.next[1]}};
    int rv = nl_output_open(server_of(w)->outputs, &request, false, &events, w, &w->reader);
    if (rv == NL_OK) {
        nl_watch_core_opened(&w->core, nl_clock_mono_ms());
    } else {
        nl_watch_core_not_opened(&w->core, nl_clock_mono_ms(), rv);
    }
}

// The end of the output, from the state: no agent is needed for it.
static void take_tail(struct watch *w, const struct nl_task *task) {
    struct nl_tail tail;
    int rv = nl_tail_open(task->tail, &tail);
    if (rv != NL_OK) {
        nl_log(NL_LOG_WARN, "watch", "tail not usable", "task", w->task_id, "why", nl_strerror(rv),
               NULL);
        nl_watch_core_no_tail(&w->core);
        return;
    }
    for (int i = 0; rv == NL_OK && i < 2; i++) {
        uint64_t offset = tail.offset[i];
        const uint8_t *data = tail.data[i];
        size_t len = tail.len[i];
        if (nl_watch_core_chunk(&w->core, nl_clock_mono_ms(), i, &offset, &data, &len) ==
            NL_WATCH_NEW) {
            rv = nl_chunks_add(&w->chunks, (enum nl_stream)i, offset, data, len);
        }
    }
    nl_tail_close(&tail);
    if (rv != NL_OK) {
        finish(w, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory; resume");
    }
    wake(w);
}

// ---- the turn --------------------------------------------------------------

static void go_on(struct watch *w) {
    nl_watch_core_advance(&w->core);
    wake(w);
}

// Of an attempt that another one followed the gap is not the end.
static void end_with_gap(struct watch *w) {
    struct nl_watch_gap gap;
    nl_watch_core_rest(&w->core, &gap);
    bool last = !w->core.followed;
    if (!send_gap(w, &gap, last)) {
        return;
    }
    if (last) {
        finish(w, NL_RPC_OK, "");
    } else {
        go_on(w);
    }
}

// false: nothing more to do in this turn.
static bool step(struct watch *w, const struct nl_task *task) {
    switch (nl_watch_core_next(&w->core, nl_clock_mono_ms())) {
        case NL_WATCH_OPEN:
            open_source(w);
            return true;
        case NL_WATCH_TAIL:
            take_tail(w, task);
            return false;
        case NL_WATCH_TAIL_GAP:
            nl_watch_core_to_tail(&w->core, &w->gap);
            w->gap_due = true;
            wake(w);
            return false;
        case NL_WATCH_NEXT:
            go_on(w);
            return false;
        case NL_WATCH_END:
            if (send_end(w)) {
                finish(w, NL_RPC_OK, "");
            }
            return false;
        case NL_WATCH_GAP_END:
            end_with_gap(w);
            return false;
        case NL_WATCH_UNAVAILABLE:
            finish(w, NL_RPC_UNAVAILABLE,
                   "failed: the task's agent is not connected, so its output can't be read now; "
                   "follow, or try again when it is back");
            return false;
        case NL_WATCH_WAIT:
            return false;
    }
    return false;
}

static void on_timer(uv_timer_t *timer) {
    wake(timer->data);
}

static void arm(struct watch *w) {
    uint64_t now = nl_clock_mono_ms(), at = nl_watch_core_deadline(&w->core);
    if (w->blocked) {
        at = w->blocked_since_ms + server_of(w)->settings->reader_timeout_ms;
    }
    if (at == UINT64_MAX || w->finished) {
        uv_timer_stop(&w->timer);
        return;
    }
    uv_update_time(server_of(w)->loop);
    uv_timer_start(&w->timer, on_timer, at > now ? at - now : 1, 0);
}

static void look_at_task(struct watch *w, const struct nl_task *task) {
    const struct nl_agent *agent =
        nl_state_agent(nl_cluster_state(server_of(w)->cluster), task->spec->agent_id);
    bool lost = agent == NULL || agent->connection == NL_AGENT_LOST;
    nl_watch_core_task(&w->core, task, lost);
}

static void run(struct watch *w) {
    const struct nl_task *task = nl_state_task(nl_cluster_state(server_of(w)->cluster), w->task_id);
    if (task == NULL) {
        finish(w, NL_RPC_NOT_FOUND, "the task was pruned");
        return;
    }
    look_at_task(w, task);
    if (task->version != w->version && !send_task(w, task)) {
        return;
    }
    if (!send_chunks(w)) {
        return;
    }
    if (w->gap_due) {
        if (!send_gap(w, &w->gap, false)) {
            return;
        }
        w->gap_due = false;
    }
    while (!w->finished && step(w, task)) {
    }
}

// A reader that takes nothing holds a window here, and at its bound the spool of the task: it is
// cut off, and may come again.
static void check_reader(struct watch *w) {
    uint64_t limit = server_of(w)->settings->reader_timeout_ms;
    if (nl_clock_mono_ms() < w->blocked_since_ms + limit) {
        return;
    }
    const struct nl_chunk *chunk = w->chunks.head;
    uint64_t at[2] = {w->core.next[0], w->core.next[1]};
    for (; chunk != NULL; chunk = chunk->next) {
        at[chunk->stream] = chunk->offset < at[chunk->stream] ? chunk->offset : at[chunk->stream];
    }
    char text[200];
    snprintf(text, sizeof text,
             "failed: nothing was read for %" PRIu64 " ms; resume attempt %" PRIu32
             " at stdout %" PRIu64 ", stderr %" PRIu64,
             limit, w->core.attempt, at[NL_STDOUT], at[NL_STDERR]);
    nl_log(NL_LOG_WARN, "watch", "reader cut off", "task", w->task_id, "peer",
           nl_rpc_call_peer(w->call), NULL);
    finish(w, NL_RPC_RESOURCE_EXHAUSTED, text);
}

static void on_turn(struct nl_defer_item *item) {
    struct watch *w = CONTAINER(item, struct watch, turn);
    if (w->call == NULL) {
        watch_free(w);
        return;
    }
    if (!w->finished && w->blocked) {
        check_reader(w);
    } else if (!w->finished) {
        run(w);
    }
    arm(w);
}

// ---- the call --------------------------------------------------------------

static void on_writable(struct nl_rpc_call *call, void *user) {
    (void)call;
    struct watch *w = user;
    w->blocked = false;
    wake(w);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    (void)status;
    struct watch *w = user;
    w->call = NULL;
    w->finished = true;
    nl_rpc_call_unref(call);
    wake(w);
}

static void task_changed(struct nl_topic_listener *listener) {
    wake(CONTAINER(listener, struct watch, on_task));
}

static void agent_changed(struct nl_topic_listener *listener) {
    struct watch *w = CONTAINER(listener, struct watch, on_agent);
    nl_watch_core_agent_changed(&w->core);
    wake(w);
}

static struct watch *watch_new(struct nl_watches *watches, const struct nl_task *task) {
    struct watch *w = calloc(1, sizeof *w);
    if (w == NULL) {
        return NULL;
    }
    w->owner = watches;
    w->turn.run = on_turn;
    w->on_task.changed = task_changed;
    w->on_agent.changed = agent_changed;
    w->task_id = strdup(task->id);
    w->agent_id = strdup(task->spec->agent_id);
    if (w->task_id == NULL || w->agent_id == NULL ||
        nl_topics_listen(watches->server->task_topics, w->task_id, &w->on_task) != NL_OK ||
        nl_topics_listen(watches->server->agent_topics, w->agent_id, &w->on_agent) != NL_OK) {
        nl_topics_leave(watches->server->task_topics, &w->on_task);
        free(w->task_id);
        free(w->agent_id);
        free(w);
        return NULL;
    }
    uv_timer_init(watches->server->loop, &w->timer);
    w->timer.data = w;
    DL_APPEND(watches->all, w);
    watches->count++;
    return w;
}

static void start(struct nl_watches *watches, struct nl_rpc_call *call,
                  const Nodelink__V1__WatchTaskRequest *request, const struct nl_task *task) {
    static const struct nl_rpc_handler handler = {.on_writable = on_writable,
                                                  .on_closed = on_closed};
    struct watch *w = watch_new(watches, task);
    if (w == NULL) {
        nl_control_fail(call, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory");
        return;
    }
    uint64_t offset[2] = {request->stdout_offset, request->stderr_offset};
    nl_watch_core_init(&w->core, request->output, request->no_follow, offset);
    w->core.attempt = request->attempt;
    w->core.only_attempt = request->only_attempt;
    nl_rpc_call_ref(call);
    w->call = call;
    w->stale = request->stale;
    nl_rpc_call_set_handler(call, &handler, w);
    wake(w);
}

// Linearizable: the first event is not older than the call.
static void watch_ready(struct nl_control_op *op, Nodelink__V1__ReplyHeader *header) {
    (void)header;
    const Nodelink__V1__WatchTaskRequest *request = (const void *)op->request;
    struct nl_watches *watches = op->control->watches;
    struct nl_server *server = watches->server;
    const struct nl_task *task = nl_state_task(nl_cluster_state(server->cluster), request->task_id);
    if (nl_rpc_call_is_closed(op->call)) {
        return;
    }
    if (task == NULL) {
        nl_control_fail(op->call, NL_RPC_NOT_FOUND,
                        "no task %s (never submitted, or pruned after its retention time)",
                        request->task_id);
    } else if (request->attempt > task->attempt &&
               (nl_task_is_terminal(task->state) || request->attempt > task->spec->attempts)) {
        nl_control_fail(op->call, NL_RPC_NOT_FOUND, "task %s has no attempt %" PRIu32,
                        request->task_id, request->attempt);
    } else if (watches->count >= server->settings->watches_max) {
        nl_control_fail(op->call, NL_RPC_RESOURCE_EXHAUSTED,
                        "failed: this node serves as many watches as it may; try another");
    } else if (server->draining) {
        nl_control_fail(op->call, NL_RPC_UNAVAILABLE, "failed: this node is stopping");
    } else {
        start(watches, op->call, request, task);
    }
}

void nl_control_watch(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    const Nodelink__V1__WatchTaskRequest *request = (const void *)message;
    if (!nl_control_id_ok(call, "task_id", request->task_id)) {
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op != NULL) {
        Nodelink__V1__ReadOptions options = NODELINK__V1__READ_OPTIONS__INIT;
        options.min_index = request->min_index;
        options.stale = request->stale;
        op->read_done = watch_ready;
        nl_control_read(op, &options);
    }
}

void nl_watches_end(struct nl_watches *watches, const char *text) {
    struct watch *w;
    DL_FOREACH (watches->all, w) {
        if (!w->finished) {
            finish(w, NL_RPC_UNAVAILABLE, text);
        }
    }
}
