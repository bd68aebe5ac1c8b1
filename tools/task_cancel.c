#include "tools/commands.h"
#include "tools/view.h"

struct options {
    const char *reason;
};

static const struct nl_arg ARGS[] = {
    {"reason", 0, NL_ARG_STRING, offsetof(struct options, reason), "TEXT", NULL,
     "kept with the task and told to the agent"},
    {0},
};

static const char *outcome_name(Nodelink__V1__CancelTaskReply__Outcome outcome) {
    switch (outcome) {
        case NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__CANCELLED:
            return "cancelled";
        case NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__REQUESTED:
            return "requested";
        case NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__TOO_LATE:
            return "too_late";
        default:
            return "unknown";
    }
}

static int print(const struct nl_cli *cli, const char *id,
                 const Nodelink__V1__CancelTaskReply *reply) {
    const char *state = nl_format_task_state(reply->state);
    bool too_late = reply->outcome == NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__TOO_LATE;
    if (cli->json) {
        nl_cli_print_json(json_pack("{s:s, s:s, s:s}", "id", id, "outcome",
                                    outcome_name(reply->outcome), "state", state));
    } else if (too_late) {
        fprintf(stderr, "nodelink: too late: task %s is %s\n", id, state);
    } else if (reply->outcome == NODELINK__V1__CANCEL_TASK_REPLY__OUTCOME__CANCELLED) {
        printf("task %s is cancelled; it never started\n", id);
    } else {
        printf("the agent is told to stop task %s; nodelink task show %s tells how it ended\n", id,
               id);
    }
    return too_late ? NL_EXIT_FAILED : NL_EXIT_OK;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    Nodelink__V1__CancelTaskRequest request = NODELINK__V1__CANCEL_TASK_REQUEST__INIT;
    char what[256];
    int rc = NL_EXIT_OK;
    request.task_id = operands->items[0];
    request.reason = o->reason != NULL ? (char *)o->reason : (char *)"";
    struct nl_client_call call = {
        .method = "CancelTask", .request = &request.base, .repeat = NL_CLIENT_IDEMPOTENT};
    snprintf(what, sizeof what, "cancel task %s", request.task_id);
    ProtobufCMessage *reply = nl_cli_call(cli, &call, what, &rc);
    if (reply != NULL) {
        rc = print(cli, request.task_id, (const Nodelink__V1__CancelTaskReply *)reply);
    }
    nl_rpc_message_free(reply);
    return rc;
}

const struct nl_command NL_CMD_TASK_CANCEL = {
    .name = "task cancel",
    .operands = "ID",
    .summary = "stop a task and everything it started",
    .details = "Exit code 1: too late, the task had ended.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .min = 1,
    .max = 1,
    .run = run,
};
