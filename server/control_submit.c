// ControlService: submitting tasks, one by one or many on a stream.
//
// A stream answers each request with a message of its own, in the order in which they are done. It
// is the same submit, without the cost of a call for each: that is most of what a submit costs a
// node when many are in flight.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/text.h"
#include "server/control.h"
#include "server/messages.h"

enum {
    SPEC_BYTES_MAX = 256 * 1024,
    LABELS_MAX = 64,
    UNDER_WAY_MAX = 1024,  // of one stream; then it is not read until half of them are done
};

// ---- what is asked for -----------------------------------------------------

static bool env_ok(const char *entry) {
    const char *equals = strchr(entry, '=');
    return equals != NULL && equals != entry;
}

static const char *spec_problem(const Nodelink__V1__TaskSpec *spec) {
    if (spec == NULL) {
        return "spec is missing";
    }
    if (spec->cmd[0] == '\0' && spec->n_argv == 0) {
        return "a command is missing: give cmd or argv";
    }
    if (spec->n_argv > 0 && spec->argv[0][0] == '\0') {
        return "argv begins with an empty program name";
    }
    for (size_t i = 0; i < spec->n_env; i++) {
        if (!env_ok(spec->env[i])) {
            return "an entry of env is not of the form KEY=VALUE";
        }
    }
    if (spec->working_dir[0] != '\0' && spec->working_dir[0] != '/') {
        return "working_dir is not an absolute path";
    }
    if (!nl_labels_ok(spec->labels, spec->n_labels, LABELS_MAX)) {
        return "labels: at most 64, keys of the alphabet of ids, values of at most 256 bytes";
    }
    if (spec->attempts > NL_STATE_ATTEMPTS_MAX) {
        return "attempts: at most 100";
    }
    if (spec->n_retry_on > 0 && spec->attempts < 2) {
        return "retry_on says when to try again, but attempts allows one attempt only";
    }
    for (size_t i = 0; i < spec->n_retry_on; i++) {
        if (spec->retry_on[i] < NODELINK__V1__RETRY_ON__RETRY_ON_EXIT ||
            spec->retry_on[i] > NODELINK__V1__RETRY_ON__RETRY_ON_LOST) {
            return "retry_on: not a known end of an attempt";
        }
    }
    if (protobuf_c_message_get_packed_size(&spec->base) > SPEC_BYTES_MAX) {
        return "the request is larger than 256 KiB; pass large input by a file";
    }
    return NULL;
}

static void submit_refused(struct nl_control_op *op, struct nl_outcome outcome) {
    const Nodelink__V1__SubmitTaskRequest *request = (const void *)op->request;
    const char *agent = request->spec->agent_id;
    switch (outcome.code) {
        case NL_OUTCOME_CONFLICT:
            nl_control_op_tell(op, NL_RPC_ALREADY_EXISTS,
                               "%s: this id was used for another request; take another id",
                               op->what);
            return;
        case NL_OUTCOME_NO_AGENT:
            nl_control_op_tell(op, NL_RPC_NOT_FOUND,
                               "agent %s is not known; create a token for it first", agent);
            return;
        case NL_OUTCOME_AGENT_OFFLINE:
            nl_control_op_tell(
                op, NL_RPC_FAILED_PRECONDITION,
                "agent %s is offline; nothing was stored. Give a time to wait for it "
                "(wait_for_agent_ms) if the task may start later",
                agent);
            return;
        case NL_OUTCOME_TOO_LATE:
            nl_control_op_tell(op, NL_RPC_INVALID_ARGUMENT,
                               "%s: its deadline (start_by_ms, finish_by_ms) has passed; nothing "
                               "was stored",
                               op->what);
            return;
        case NL_OUTCOME_LIMIT:
            nl_control_op_tell(
                op, NL_RPC_RESOURCE_EXHAUSTED,
                "failed: agent %s has as many active tasks as it may have; nothing was "
                "stored, try again later",
                agent);
            return;
        default:
            nl_control_op_tell(op, NL_RPC_INVALID_ARGUMENT, "%s is not valid (%s)", op->what,
                               nl_outcome_name(outcome.code));
            return;
    }
}

static void propose(struct nl_control_op *op) {
    Nodelink__V1__SubmitTaskRequest *request = (void *)op->request;
    Nodelink__V1__TaskSubmit m = NODELINK__V1__TASK_SUBMIT__INIT;
    m.task_id = request->task_id;
    m.spec = request->spec;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_SUBMIT;
    command.task_submit = &m;
    nl_control_op_name(op, "task %s on agent %s", request->task_id, request->spec->agent_id);
    nl_control_write(op, &command);
}

// True with the reply, false when the refusal was told.
static bool accepted(struct nl_control_op *op, struct nl_outcome outcome,
                     Nodelink__V1__ReplyHeader *header, Nodelink__V1__SubmitTaskReply *ret) {
    const Nodelink__V1__SubmitTaskRequest *request = (const void *)op->request;
    if (outcome.code != NL_OUTCOME_OK && outcome.code != NL_OUTCOME_EXISTED) {
        submit_refused(op, outcome);
        return false;
    }
    nodelink__v1__submit_task_reply__init(ret);
    ret->header = header;
    ret->task_id = request->task_id;
    ret->existed = outcome.code == NL_OUTCOME_EXISTED;
    ret->state = (Nodelink__V1__TaskState)outcome.value;
    return true;
}

// ---- one -------------------------------------------------------------------

static void submit_done(struct nl_control_op *op, struct nl_outcome outcome,
                        Nodelink__V1__ReplyHeader *header) {
    Nodelink__V1__SubmitTaskReply reply;
    if (accepted(op, outcome, header, &reply)) {
        nl_rpc_call_reply(op->call, &reply.base);
    }
}

// The reply needs the id: it is put where the request's own would be. The library frees the
// request's strings with its own allocator, so the made one is handed over as part of a new
// request.
static ProtobufCMessage *with_id(ProtobufCMessage *message) {
    Nodelink__V1__SubmitTaskRequest *request = (void *)message;
    if (request->task_id[0] != '\0') {
        return message;
    }
    char id[27];
    char *none = request->task_id;
    nl_random_id(id);
    request->task_id = id;
    ProtobufCMessage *copy = nl_message_clone(message);
    request->task_id = none;
    nl_rpc_message_free(message);
    return copy;
}

void nl_control_submit(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    ProtobufCMessage *owned = with_id(message);
    Nodelink__V1__SubmitTaskRequest *request = (void *)owned;
    if (owned == NULL) {
        nl_control_fail(call, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory");
        return;
    }
    const char *problem = spec_problem(request->spec);
    if (problem != NULL) {
        nl_control_fail(call, NL_RPC_INVALID_ARGUMENT, "%s", problem);
        nl_rpc_message_free(owned);
        return;
    }
    if (!nl_control_id_ok(call, "task_id", request->task_id) ||
        !nl_control_id_ok(call, "agent_id", request->spec->agent_id)) {
        nl_rpc_message_free(owned);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, owned);
    if (op != NULL) {
        op->write_done = submit_done;
        propose(op);
    }
}

// ---- many ------------------------------------------------------------------

// open -(client half-closes, all answered)-> finished; freed when it is closed and nothing is
// under way.
struct nl_submits {
    struct nl_control *control;
    struct nl_rpc_call *call;  // a reference; NULL: closed
    uint32_t under_way;
    bool paused, half_closed;
    struct nl_submits *prev, *next;
};

static void settle(struct nl_submits *s) {
    if (s->call == NULL) {
        if (s->under_way == 0) {
            free(s);
        }
        return;
    }
    if (s->half_closed && s->under_way == 0) {
        nl_rpc_call_finish(s->call, NL_RPC_OK, NULL);
    } else if (s->paused && s->under_way <= UNDER_WAY_MAX / 2) {
        s->paused = false;
        nl_rpc_call_resume(s->call);
    }
}

static void send_answer(struct nl_submits *s, Nodelink__V1__SubmitTasksReply *answer) {
    if (s->call != NULL && nl_rpc_call_send(s->call, &answer->base) == NL_EFULL) {
        nl_rpc_call_finish(s->call, NL_RPC_RESOURCE_EXHAUSTED,
                           "unknown: answers are not read; ask for what was not answered");
    }
}

static void tell(struct nl_submits *s, const char *task_id, enum nl_rpc_code code,
                 const char *text) {
    Nodelink__V1__SubmitTasksReply answer = NODELINK__V1__SUBMIT_TASKS_REPLY__INIT;
    answer.task_id = (char *)(uintptr_t)task_id;
    answer.code = (uint32_t)code;
    answer.error = (char *)(uintptr_t)text;
    send_answer(s, &answer);
}

static void op_answered(struct nl_submits *s) {
    s->under_way--;
    settle(s);
}

static void on_op_failed(struct nl_control_op *op, enum nl_rpc_code code, const char *text) {
    tell(op->user, ((const Nodelink__V1__SubmitTaskRequest *)(const void *)op->request)->task_id,
         code, text);
    op_answered(op->user);
}

static void on_op_done(struct nl_control_op *op, struct nl_outcome outcome,
                       Nodelink__V1__ReplyHeader *header) {
    Nodelink__V1__SubmitTasksReply answer = NODELINK__V1__SUBMIT_TASKS_REPLY__INIT;
    Nodelink__V1__SubmitTaskReply reply;
    if (accepted(op, outcome, header, &reply)) {
        answer.task_id = reply.task_id;
        answer.reply = &reply;
        reply.task_id = (char *)(uintptr_t) "";  // once is enough
        send_answer(op->user, &answer);
        op_answered(op->user);
    }
}

static const char *problem_of(const Nodelink__V1__SubmitTaskRequest *request) {
    const char *problem = spec_problem(request->spec);
    if (problem == NULL && !nl_text_id_ok(request->task_id)) {
        problem = "task_id is missing or not valid; on a stream each request needs one";
    }
    if (problem == NULL && !nl_text_id_ok(request->spec->agent_id)) {
        problem = "agent_id is not valid";
    }
    return problem;
}

static void on_message(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct nl_submits *s = user;
    const Nodelink__V1__SubmitTaskRequest *request = (const void *)message;
    const char *problem = problem_of(request);
    if (problem != NULL || s->control->server->cluster == NULL) {
        tell(s, request->task_id, problem != NULL ? NL_RPC_INVALID_ARGUMENT : NL_RPC_UNAVAILABLE,
             problem != NULL ? problem : "failed: this node is stopping");
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(s->control->server, call, message);
    if (op == NULL) {
        return;
    }
    op->user = s;
    op->tell = on_op_failed;
    op->write_done = on_op_done;
    if (++s->under_way >= UNDER_WAY_MAX) {
        s->paused = true;
        nl_rpc_call_pause(call);
    }
    propose(op);
}

static void on_half_close(struct nl_rpc_call *call, void *user) {
    struct nl_submits *s = user;
    (void)call;
    s->half_closed = true;
    settle(s);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    struct nl_submits *s = user;
    (void)status;
    DL_DELETE(s->control->submits, s);
    s->call = NULL;
    nl_rpc_call_unref(call);
    settle(s);
}

void nl_control_submits(struct nl_rpc_call *call, void *user) {
    static const struct nl_rpc_handler handler = {
        .on_message = on_message, .on_half_close = on_half_close, .on_closed = on_closed};
    struct nl_server *server = user;
    struct nl_submits *s = server->draining ? NULL : calloc(1, sizeof *s);
    if (s == NULL) {
        nl_control_fail(call, NL_RPC_UNAVAILABLE,
                        server->draining ? "failed: this node is stopping; try another"
                                         : "failed: this node is out of memory");
        return;
    }
    s->control = server->control;
    s->call = call;
    nl_rpc_call_ref(call);
    DL_APPEND(s->control->submits, s);
    nl_rpc_call_set_handler(call, &handler, s);
}

void nl_submits_end(struct nl_control *control, const char *text) {
    struct nl_submits *s;
    DL_FOREACH (control->submits, s) {
        nl_rpc_call_finish(s->call, NL_RPC_UNAVAILABLE, text);
    }
}
