#include "server/agent_readers.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "common/base/err.h"
#include "common/base/log.h"
#include "server/messages.h"
#include "server/session.h"

#define CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

// OPENING -> OPEN -> CLOSING -> freed. A closed one whose OutputOpen went out stays until its
// OutputClose is sent.
enum phase { OPENING, OPEN, CLOSING };

struct nl_agent_reader {
    struct nl_output_reader base;
    struct nl_agent_readers *readers;  // NULL: the stream is over
    uint64_t sub;
    enum phase phase;
    struct nl_output_request request;  // task_id is owned
    size_t credit_due;                 // to be given to the agent
    size_t window;                     // what the agent may still send
    bool due, ended;
    struct nl_agent_reader *prev, *next;  // in the list of due ones
    UT_hash_handle hh;
};

void nl_agent_readers_init(struct nl_agent_readers *readers, struct nl_session *session) {
    *readers = (struct nl_agent_readers){.session = session};
}

static void set_due(struct nl_agent_reader *r, bool due) {
    if (due && !r->due) {
        DL_APPEND(r->readers->due, r);
    } else if (!due && r->due) {
        DL_DELETE(r->readers->due, r);
    }
    r->due = due;
}

static void reader_free(struct nl_agent_reader *r) {
    if (r->readers != NULL) {
        set_due(r, false);
        HASH_DEL(r->readers->table, r);
    }
    free((char *)(uintptr_t)r->request.task_id);
    free(r);
}

// ---- to the agent ----------------------------------------------------------

static int send_open(struct nl_agent_reader *r, Nodelink__V1__TaskRequest *frame) {
    Nodelink__V1__OutputOpen open = NODELINK__V1__OUTPUT_OPEN__INIT;
    open.sub = r->sub;
    open.task_id = nl_message_text(r->request.task_id);
    open.attempt = r->request.attempt;
    open.stdout_offset = r->request.offset[NL_STDOUT];
    open.stderr_offset = r->request.offset[NL_STDERR];
    open.credit = NL_OUTPUT_WINDOW;
    frame->task_id = open.task_id;
    frame->attempt = open.attempt;
    frame->control_case = NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_OPEN;
    frame->output_open = &open;
    return nl_session_send(r->readers->session, frame);
}

static int send_credit(struct nl_agent_reader *r, Nodelink__V1__TaskRequest *frame) {
    Nodelink__V1__OutputCredit credit = NODELINK__V1__OUTPUT_CREDIT__INIT;
    credit.sub = r->sub;
    credit.bytes = r->credit_due;
    frame->control_case = NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CREDIT;
    frame->output_credit = &credit;
    return nl_session_send(r->readers->session, frame);
}

static int send_close(struct nl_agent_reader *r, Nodelink__V1__TaskRequest *frame) {
    Nodelink__V1__OutputClose close_frame = NODELINK__V1__OUTPUT_CLOSE__INIT;
    close_frame.sub = r->sub;
    frame->control_case = NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CLOSE;
    frame->output_close = &close_frame;
    return nl_session_send(r->readers->session, frame);
}

static int send_due(struct nl_agent_reader *r) {
    struct nl_session *session = r->readers->session;
    Nodelink__V1__TaskRequest frame = NODELINK__V1__TASK_REQUEST__INIT;
    frame.agent_id = session->agent_id;
    frame.epoch = nl_session_epoch(session);
    switch (r->phase) {
        case OPENING:
            return send_open(r, &frame);
        case OPEN:
            return send_credit(r, &frame);
        case CLOSING:
            return send_close(r, &frame);
    }
    return NL_OK;
}

// false: the queue is full (or the stream over, then break comes).
static bool flush_one(struct nl_agent_reader *r) {
    if (send_due(r) != NL_OK) {
        return false;
    }
    set_due(r, false);
    if (r->phase == OPENING) {
        r->phase = OPEN;
        r->window = NL_OUTPUT_WINDOW;
    } else if (r->phase == OPEN) {
        r->window += r->credit_due;
        r->credit_due = 0;
    } else {
        reader_free(r);
    }
    return true;
}

void nl_agent_readers_flush(struct nl_agent_readers *readers) {
    while (readers->due != NULL && flush_one(readers->due)) {
    }
}

static void make_due(struct nl_agent_reader *r) {
    set_due(r, true);
    nl_agent_readers_flush(r->readers);
}

// ---- the consumer's side ---------------------------------------------------

static void on_credit(struct nl_output_reader *reader, size_t bytes) {
    struct nl_agent_reader *r = CONTAINER(reader, struct nl_agent_reader, base);
    r->credit_due += bytes;
    // Not frame by frame: a quarter of the window at a time keeps the agent going.
    if (r->readers != NULL && r->phase == OPEN && r->credit_due >= NL_OUTPUT_WINDOW / 4) {
        make_due(r);
    }
}

static void on_close(struct nl_output_reader *reader) {
    struct nl_agent_reader *r = CONTAINER(reader, struct nl_agent_reader, base);
    nl_output_released(reader);
    if (r->readers == NULL || r->phase == OPENING || r->ended) {
        reader_free(r);
        return;
    }
    r->phase = CLOSING;
    make_due(r);
}

int nl_agent_readers_open(struct nl_agent_readers *readers, const struct nl_output_request *request,
                          struct nl_output_reader **ret) {
    struct nl_agent_reader *r = calloc(1, sizeof *r);
    char *id = strdup(request->task_id);
    if (r == NULL || id == NULL) {
        free(r);
        free(id);
        return NL_ENOMEM;
    }
    r->base = (struct nl_output_reader){.credit = on_credit, .close = on_close};
    r->readers = readers;
    r->sub = ++readers->last_sub;
    r->request = *request;
    r->request.task_id = id;
    HASH_ADD(hh, readers->table, sub, sizeof r->sub, r);
    make_due(r);
    *ret = &r->base;
    return NL_OK;
}

void nl_agent_readers_break(struct nl_agent_readers *readers) {
    while (readers->table != NULL) {
        struct nl_agent_reader *r = readers->table;
        set_due(r, false);
        HASH_DEL(readers->table, r);
        r->readers = NULL;
        if (r->phase == CLOSING) {
            reader_free(r);
            continue;
        }
        struct nl_output_end end = {.why = NL_OUTPUT_BROKEN,
                                    .message = "the agent's stream to its node ended"};
        nl_output_finish(&r->base, &end);
    }
}

// ---- from the agent --------------------------------------------------------

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

static void finish(struct nl_agent_reader *r, const struct nl_output_end *end) {
    r->ended = true;
    nl_output_finish(&r->base, end);
}

static void on_end(struct nl_agent_reader *r, const Nodelink__V1__OutputEnd *end) {
    struct nl_output_end e = {.why = why_of(end),
                              .total = {end->stdout_bytes, end->stderr_bytes},
                              .base = {end->stdout_base, end->stderr_base},
                              .message = end->message};
    finish(r, &e);
}

static bool deliver(struct nl_agent_reader *r, enum nl_stream stream, uint64_t offset,
                    ProtobufCBinaryData data) {
    return data.len == 0 || nl_output_deliver(&r->base, stream, offset, data.data, data.len);
}

static void on_chunk(struct nl_agent_reader *r, const Nodelink__V1__TaskResponse *frame) {
    const Nodelink__V1__ShellExecuteResponse *shell = frame->shell_execute;
    size_t len = shell->stdout.len + shell->stderr.len;
    if (len > r->window) {
        struct nl_output_end e = {.why = NL_OUTPUT_BROKEN,
                                  .message = "the agent sent more than it had credit for"};
        nl_log(NL_LOG_WARN, "output", "agent exceeded its credit", "agent",
               r->readers->session->agent_id, "task", r->request.task_id, NULL);
        nl_output_finish(&r->base, &e);
        return;
    }
    r->window -= len;
    if (deliver(r, NL_STDOUT, frame->stdout_offset, shell->stdout)) {
        deliver(r, NL_STDERR, frame->stderr_offset, shell->stderr);
    }
}

void nl_agent_readers_frame(struct nl_agent_readers *readers,
                            const Nodelink__V1__TaskResponse *frame) {
    bool is_end = frame->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL_OUTPUT_END;
    uint64_t sub = is_end && frame->output_end->sub != 0 ? frame->output_end->sub : frame->sub;
    struct nl_agent_reader *r = NULL;
    HASH_FIND(hh, readers->table, &sub, sizeof sub, r);
    if (r == NULL) {
        return;
    }
    if (r->phase == CLOSING) {
        r->ended = r->ended || is_end;
        return;
    }
    if (is_end) {
        on_end(r, frame->output_end);
    } else if (frame->response_case == NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE) {
        on_chunk(r, frame);
    }
}
