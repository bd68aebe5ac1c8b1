#include "tools/follow.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"

enum {
    FIRST_EVENT_MS = 2000,  // a healthy node sends the first event at once
    QUIET_MS = 5000,        // then silence is normal, but looked into
    CHECK_MS = 3000,
    BACKOFF_MS = 50,
    BACKOFF_MS_MAX = 1000,
};

// opening -> streaming -> (lost -> waiting -> opening)* -> over
struct nl_follow {
    struct nl_client *client;
    struct nl_follow_options options;
    const struct nl_follow_events *events;
    void *user;
    struct nl_rpc_call *call;  // the stream; NULL between two
    char address[128];         // of its node
    uv_timer_t retry, quiet;
    unsigned open_handles;  // timers not closed yet; frees at zero
    uint64_t backoff_ms;
    uint64_t started_ms;
    uint64_t last_word_ms;  // when a node last said something
    bool heard;             // something came on this stream
    bool tried;             // there was a stream
    bool stopping;
    bool ended;       // the event with `end` came
    bool checking;    // a check's reply is awaited
    bool was_behind;  // the last check knew a newer state than this stream had told
    bool over;        // on_end was called
    Nodelink__V1__WatchTaskEvent *latest;  // owned: the last event that carried the task
    Nodelink__V1__GetTaskRequest check;
    Nodelink__V1__ReadOptions check_read;
    struct nl_client_error error;
};

static void on_closed_handle(uv_handle_t *handle) {
    struct nl_follow *f = handle->data;
    if (--f->open_handles == 0) {
        nl_rpc_message_free(f->latest != NULL ? &f->latest->base : NULL);
        free(f);
    }
}

static const Nodelink__V1__Task *task_of(const struct nl_follow *f) {
    return f->latest != NULL ? f->latest->task : NULL;
}

// A check under way still points here: its reply comes first, then the object goes.
static void finish_if_idle(struct nl_follow *f) {
    if (!f->over || f->checking || uv_is_closing((uv_handle_t *)&f->retry)) {
        return;
    }
    uv_close((uv_handle_t *)&f->retry, on_closed_handle);
    uv_close((uv_handle_t *)&f->quiet, on_closed_handle);
}

static void end(struct nl_follow *f, const struct nl_client_error *error) {
    f->over = true;
    uv_timer_stop(&f->retry);
    uv_timer_stop(&f->quiet);
    f->events->on_end(f->user, error, task_of(f));
    finish_if_idle(f);
}

// ---- events ----------------------------------------------------------------

static void gap(struct nl_follow *f, enum nl_stream stream, uint64_t to, const char *reason) {
    uint64_t from = f->options.offset[stream];
    if (to > from) {
        f->options.offset[stream] = to;
        f->events->on_gap(f->user, stream, from, to, reason);
    }
}

// A node may begin before the offset asked for (a stock agent's buffer): what is known is left
// out. It must not begin behind it without a gap; if it does, that is one.
static void output(struct nl_follow *f, enum nl_stream stream, uint64_t offset,
                   const ProtobufCBinaryData *data) {
    if (data->len == 0) {
        return;
    }
    gap(f, stream, offset, "not sent");
    uint64_t known = f->options.offset[stream] - offset;
    if (known >= data->len) {
        return;
    }
    f->options.offset[stream] += data->len - known;
    f->events->on_output(f->user, stream, data->data + known, data->len - known);
}

// Output, gaps and the end say of which attempt they are; 0: a node that knows only one.
static void take_attempt(struct nl_follow *f, uint32_t attempt) {
    if (attempt <= f->options.attempt) {
        return;
    }
    bool first = f->options.attempt == 0;
    f->options.attempt = attempt;
    if (first) {
        return;
    }
    f->options.offset[NL_STDOUT] = f->options.offset[NL_STDERR] = 0;
    if (f->events->on_attempt != NULL) {
        f->events->on_attempt(f->user, attempt);
    }
}

static void keep_task(struct nl_follow *f, Nodelink__V1__WatchTaskEvent *event) {
    nl_rpc_message_free(f->latest != NULL ? &f->latest->base : NULL);
    f->latest = event;
    f->was_behind = false;
    f->events->on_task(f->user, event->task);
}

static void on_quiet(uv_timer_t *timer);

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct nl_follow *f = user;
    Nodelink__V1__WatchTaskEvent *event = (Nodelink__V1__WatchTaskEvent *)message;
    (void)call;
    f->heard = true;
    f->backoff_ms = BACKOFF_MS;
    if (event->header != NULL) {
        nl_client_saw_index(f->client, event->header->index);
    }
    if (event->task == NULL) {
        take_attempt(f, event->attempt);
    }
    if (event->gap != NULL) {
        gap(f, NL_STDOUT, event->gap->stdout_to, event->gap->reason);
        gap(f, NL_STDERR, event->gap->stderr_to, event->gap->reason);
    }
    output(f, NL_STDOUT, event->stdout_offset, &event->stdout);
    output(f, NL_STDERR, event->stderr_offset, &event->stderr);
    f->ended |= event->end;
    // Only now: writing the output may have taken long.
    f->last_word_ms = nl_clock_mono_ms();
    uv_timer_start(&f->quiet, on_quiet, QUIET_MS, 0);
    if (event->task != NULL) {
        keep_task(f, event);
    } else {
        nl_rpc_message_free(message);
    }
}

// ---- the stream ------------------------------------------------------------

static void on_retry(uv_timer_t *timer);

static bool is_final(enum nl_rpc_code code) {
    return code == NL_RPC_NOT_FOUND || code == NL_RPC_UNAUTHENTICATED ||
           code == NL_RPC_PERMISSION_DENIED || code == NL_RPC_INVALID_ARGUMENT ||
           code == NL_RPC_UNIMPLEMENTED;
}

static void go_on(struct nl_follow *f) {
    uint64_t now = nl_clock_mono_ms();
    // What there is now may be out of reach while every node answers: that is waited for only so
    // long, too. Following, it is the server who says when to stop waiting.
    uint64_t since_ms = f->options.no_follow ? f->started_ms : f->last_word_ms;
    if (now - since_ms >= f->options.patience_ms) {
        f->error.outcome = f->options.no_follow ? NL_CLIENT_FAILED : NL_CLIENT_UNKNOWN;
        end(f, &f->error);
        return;
    }
    nl_client_next(f->client, f->address);
    if (f->heard && f->events->on_moved != NULL) {
        f->events->on_moved(f->user, f->address, nl_client_address(f->client), f->error.text);
    }
    uv_timer_start(&f->retry, on_retry, f->backoff_ms, 0);
    f->backoff_ms = f->backoff_ms * 2 < BACKOFF_MS_MAX ? f->backoff_ms * 2 : BACKOFF_MS_MAX;
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    struct nl_follow *f = user;
    (void)call;
    f->call = NULL;
    uv_timer_stop(&f->quiet);
    if (f->ended || (f->options.no_follow && status->code == NL_RPC_OK)) {
        end(f, NULL);
        return;
    }
    nl_client_read_status(status, f->address, false, &f->error);
    if (f->stopping) {
        f->error.code = NL_RPC_CANCELLED;
        end(f, &f->error);
    } else if (is_final(status->code)) {
        end(f, &f->error);
    } else {
        go_on(f);
    }
}

static const struct nl_rpc_handler HANDLER = {.on_message = on_message, .on_closed = on_closed};

static int start_call(struct nl_follow *f, struct nl_rpc_channel *channel) {
    Nodelink__V1__WatchTaskRequest request = NODELINK__V1__WATCH_TASK_REQUEST__INIT;
    request.task_id = (char *)f->options.task_id;
    request.output = f->options.output;
    request.no_follow = f->options.no_follow;
    request.stdout_offset = f->options.offset[NL_STDOUT];
    request.stderr_offset = f->options.offset[NL_STDERR];
    request.attempt = f->options.attempt;
    request.only_attempt = f->options.only_attempt;
    request.min_index = nl_client_index(f->client);
    // Only the first one: a node that is cut off must not get another try for nothing.
    request.stale = f->options.submitted && !f->tried;
    f->tried = true;
    struct nl_rpc_call_options options = {.metadata = nl_client_metadata(f->client)};
    int rc = nl_rpc_call_start(channel, &nodelink__v1__control_service__descriptor, "WatchTask",
                               &options, &HANDLER, f, &f->call);
    if (rc != NL_OK) {
        f->call = NULL;
        return rc;
    }
    rc = nl_rpc_call_send(f->call, &request.base);
    if (rc == NL_OK) {
        nl_rpc_call_half_close(f->call);
    } else {
        nl_rpc_call_cancel(f->call);  // on_closed goes on from here
    }
    return NL_OK;
}

static void open_stream(struct nl_follow *f) {
    struct nl_rpc_channel *channel = nl_client_channel(f->client);
    snprintf(f->address, sizeof f->address, "%s", nl_client_address(f->client));
    f->heard = false;
    int rc = channel != NULL ? start_call(f, channel) : NL_ENOMEM;
    if (rc != NL_OK) {
        f->error = (struct nl_client_error){.code = NL_RPC_INTERNAL, .outcome = NL_CLIENT_UNKNOWN};
        snprintf(f->error.text, sizeof f->error.text, "%s", nl_strerror(rc));
        end(f, &f->error);
        return;
    }
    uv_timer_start(&f->quiet, on_quiet, FIRST_EVENT_MS, 0);
}

static void on_retry(uv_timer_t *timer) {
    struct nl_follow *f = timer->data;
    if (f->stopping) {
        f->error.code = NL_RPC_CANCELLED;
        end(f, &f->error);
        return;
    }
    open_stream(f);
}

// ---- a silent stream -------------------------------------------------------

static bool is_behind(const struct nl_follow *f, const Nodelink__V1__Task *now) {
    const Nodelink__V1__Task *seen = task_of(f);
    return now != NULL && (seen == NULL || now->version > seen->version);
}

static void on_checked(void *user, const struct nl_client_error *error, ProtobufCMessage *reply) {
    struct nl_follow *f = user;
    f->checking = false;
    const Nodelink__V1__GetTaskReply *got = (const Nodelink__V1__GetTaskReply *)reply;
    // The node can't answer, or still knows more than it tells: leave it.
    bool behind = error == NULL && is_behind(f, got->task);
    bool bad = error != NULL || (behind && f->was_behind);
    f->was_behind = behind;
    if (f->over) {
        finish_if_idle(f);
    } else if (bad && f->call != NULL) {
        nl_rpc_call_cancel(f->call);
    } else if (!bad) {
        f->last_word_ms = nl_clock_mono_ms();
        uv_timer_start(&f->quiet, on_quiet, QUIET_MS, 0);
    }
    nl_rpc_message_free(reply);
}

static void on_quiet(uv_timer_t *timer) {
    struct nl_follow *f = timer->data;
    if (f->checking || f->call == NULL) {
        return;
    }
    nodelink__v1__get_task_request__init(&f->check);
    nodelink__v1__read_options__init(&f->check_read);
    f->check.task_id = (char *)f->options.task_id;
    f->check.read = &f->check_read;
    struct nl_client_call call = {
        .method = "GetTask",
        .request = &f->check.base,
        .min_index = &f->check_read.min_index,
        .repeat = NL_CLIENT_READ,
        .timeout_ms = CHECK_MS,
        .only = f->address,
    };
    f->checking = nl_client_start(f->client, &call, on_checked, f) == NL_OK;
}

// ---- life ------------------------------------------------------------------

int nl_follow_start(struct nl_client *client, const struct nl_follow_options *options,
                    const struct nl_follow_events *events, void *user, struct nl_follow **ret) {
    struct nl_follow *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return NL_ENOMEM;
    }
    *f = (struct nl_follow){.client = client, .options = *options, .events = events, .user = user};
    f->backoff_ms = BACKOFF_MS;
    f->started_ms = nl_clock_mono_ms();
    f->last_word_ms = f->started_ms;
    uv_timer_init(nl_client_loop(client), &f->retry);
    uv_timer_init(nl_client_loop(client), &f->quiet);
    f->retry.data = f;
    f->quiet.data = f;
    f->open_handles = 2;
    uv_timer_start(&f->retry, on_retry, 0, 0);
    *ret = f;
    return NL_OK;
}

void nl_follow_stop(struct nl_follow *f) {
    f->stopping = true;
    if (f->call != NULL) {
        nl_rpc_call_cancel(f->call);
    } else if (!f->over) {
        uv_timer_start(&f->retry, on_retry, 0, 0);
    }
}
