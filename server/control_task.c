// ControlService: get, list, cancel.
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/config.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "server/control.h"
#include "server/messages.h"

enum {
    REASON_BYTES_MAX = 1024,
    LIST_DEFAULT = 100,
    LIST_MAX = 1000,
    SCAN_MAX = 4000,  // records looked at in one call: a few milliseconds of the loop's time
    LIST_BYTES_MAX = 1024 * 1024,
};

// ---- get -------------------------------------------------------------------

static void get_done(struct nl_control_op *op, Nodelink__V1__ReplyHeader *header) {
    const Nodelink__V1__GetTaskRequest *request = (const void *)op->request;
    const struct nl_task *task =
        nl_state_task(nl_cluster_state(op->control->server->cluster), request->task_id);
    if (task == NULL) {
        nl_control_fail(op->call, NL_RPC_NOT_FOUND,
                        "no task %s (never submitted, or pruned after its retention time)",
                        request->task_id);
        return;
    }
    Nodelink__V1__Task record;
    Nodelink__V1__GetTaskReply reply = NODELINK__V1__GET_TASK_REPLY__INIT;
    nl_control_fill_task(task, &record);
    reply.header = header;
    reply.task = &record;
    nl_rpc_call_reply(op->call, &reply.base);
}

void nl_control_get_task(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    const Nodelink__V1__GetTaskRequest *request = (const void *)message;
    if (!nl_control_id_ok(call, "task_id", request->task_id)) {
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op != NULL) {
        op->read_done = get_done;
        nl_control_read(op, request->read);
    }
}

// ---- list ------------------------------------------------------------------

struct list {
    Nodelink__V1__Task *records;
    Nodelink__V1__Task **pointers;
    size_t n, limit, bytes, scanned;
};

static bool wanted(const Nodelink__V1__ListTasksRequest *request, const struct nl_task *task) {
    if (request->agent_id[0] != '\0' && strcmp(request->agent_id, task->spec->agent_id) != 0) {
        return false;
    }
    for (size_t i = 0; i < request->n_states; i++) {
        if ((int)request->states[i] == (int)task->state) {
            return true;
        }
    }
    return request->n_states == 0;
}

// "CREATED_MS.ID" of the last task looked at.
static bool parse_page(const char *token, uint64_t *ret_ms, const char **ret_id) {
    char digits[24];
    const char *dot = strchr(token, '.');
    if (dot == NULL || (size_t)(dot - token) >= sizeof digits || dot[1] == '\0') {
        return false;
    }
    memcpy(digits, token, (size_t)(dot - token));
    digits[dot - token] = '\0';
    *ret_id = dot + 1;
    return nl_parse_u64(digits, ret_ms) == NL_OK;
}

// Fills the list; returns the last task looked at if there may be more, else NULL.
static const struct nl_task *collect(const struct nl_state *state,
                                     const Nodelink__V1__ListTasksRequest *request,
                                     const struct nl_task *task, struct list *list) {
    for (; task != NULL; task = nl_state_task_next_older(state, task)) {
        if (wanted(request, task)) {
            nl_control_fill_task(task, &list->records[list->n]);
            list->records[list->n].earlier = NULL;
            list->records[list->n].late_result = NULL;
            list->pointers[list->n] = &list->records[list->n];
            list->bytes += protobuf_c_message_get_packed_size(&list->records[list->n].base);
            list->n++;
        }
        list->scanned++;
        if (list->n == list->limit || list->bytes >= LIST_BYTES_MAX || list->scanned == SCAN_MAX) {
            return nl_state_task_next_older(state, task) != NULL ? task : NULL;
        }
    }
    return NULL;
}

static void list_reply(struct nl_control_op *op, Nodelink__V1__ReplyHeader *header,
                       struct list *list, const struct nl_task *first) {
    const struct nl_state *state = nl_cluster_state(op->control->server->cluster);
    const struct nl_task *last = collect(state, (const void *)op->request, first, list);
    char next[NL_STATE_ID_MAX + 32] = "";
    if (last != NULL) {
        snprintf(next, sizeof next, "%" PRIu64 ".%s", last->created_ms, last->id);
    }
    Nodelink__V1__ListTasksReply reply = NODELINK__V1__LIST_TASKS_REPLY__INIT;
    reply.header = header;
    reply.n_tasks = list->n;
    reply.tasks = list->pointers;
    reply.next_page_token = next;
    nl_rpc_call_reply(op->call, &reply.base);
}

static void list_done(struct nl_control_op *op, Nodelink__V1__ReplyHeader *header) {
    const Nodelink__V1__ListTasksRequest *request = (const void *)op->request;
    const struct nl_state *state = nl_cluster_state(op->control->server->cluster);
    struct list list = {.limit = request->limit == 0 ? LIST_DEFAULT : request->limit};
    const struct nl_task *first = NULL;
    uint64_t ms = 0;
    const char *id = NULL;
    if (request->page_token[0] == '\0') {
        first = nl_state_task_next_older(state, NULL);
    } else if (parse_page(request->page_token, &ms, &id)) {
        first = nl_state_task_older(state, ms, id);
    } else {
        nl_control_fail(op->call, NL_RPC_INVALID_ARGUMENT,
                        "page_token is not one of an earlier reply");
        return;
    }
    list.limit = list.limit < LIST_MAX ? list.limit : LIST_MAX;
    list.records = calloc(list.limit, sizeof *list.records);
    list.pointers = calloc(list.limit, sizeof *list.pointers);
    if (list.records != NULL && list.pointers != NULL) {
        list_reply(op, header, &list, first);
    } else {
        nl_control_fail(op->call, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory");
    }
    free(list.records);
    free(list.pointers);
}

void nl_control_list_tasks(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op != NULL) {
        op->read_done = list_done;
        nl_control_read(op, ((const Nodelink__V1__ListTasksRequest *)(const void *)message)->read);
    }
}

// ---- cancel ----------------------------------------------------------------

static void cancel_done(struct nl_control_op *op, struct nl_outcome outcome,
                        Nodelink__V1__ReplyHeader *header) {
    Nodelink__V1__CancelTaskReply reply = NODELINK__V1__CANCEL_TASK_REPLY__INIT;
    reply.header = header;
    reply.state = (Nodelink__V1__TaskState)outcome.value;
    switch (outcome.code) {
        case NL_OUTCOME_OK:
            reply.outcome = NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__CANCELLED;
            break;
        case NL_OUTCOME_CANCEL_REQUESTED:
            reply.outcome = NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__REQUESTED;
            break;
        case NL_OUTCOME_TOO_LATE:
            reply.outcome = NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__TOO_LATE;
            break;
        case NL_OUTCOME_NO_TASK:
            nl_control_fail(op->call, NL_RPC_NOT_FOUND,
                            "%s: no such task (never submitted, or pruned)", op->what);
            return;
        default:
            nl_control_fail(op->call, NL_RPC_INVALID_ARGUMENT, "%s: not valid (%s)", op->what,
                            nl_outcome_name(outcome.code));
            return;
    }
    nl_rpc_call_reply(op->call, &reply.base);
}

void nl_control_cancel(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    Nodelink__V1__CancelTaskRequest *request = (void *)message;
    if (!nl_control_id_ok(call, "task_id", request->task_id)) {
        nl_rpc_message_free(message);
        return;
    }
    if (strlen(request->reason) > REASON_BYTES_MAX) {
        nl_control_fail(call, NL_RPC_INVALID_ARGUMENT, "reason is longer than %d bytes",
                        REASON_BYTES_MAX);
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op == NULL) {
        return;
    }
    nl_control_op_name(op, "cancel of task %s", request->task_id);
    op->write_done = cancel_done;
    Nodelink__V1__TaskCancelRequest m = NODELINK__V1__TASK_CANCEL_REQUEST__INIT;
    m.task_id = request->task_id;
    m.reason = request->reason;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_CANCEL;
    command.task_cancel = &m;
    nl_control_write(op, &command);
}
