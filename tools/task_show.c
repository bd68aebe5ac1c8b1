#include "tools/commands.h"
#include "tools/view.h"

static const struct nl_arg ARGS[] = {{0}};

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    Nodelink__V1__GetTaskRequest request = NODELINK__V1__GET_TASK_REQUEST__INIT;
    Nodelink__V1__ReadOptions read = NODELINK__V1__READ_OPTIONS__INIT;
    char what[256];
    int rc = NL_EXIT_OK;
    (void)options;
    request.task_id = operands->items[0];
    request.read = &read;
    struct nl_client_call call = {.method = "GetTask",
                                  .request = &request.base,
                                  .min_index = &read.min_index,
                                  .repeat = NL_CLIENT_READ};
    snprintf(what, sizeof what, "show task %s", request.task_id);
    ProtobufCMessage *message = nl_cli_call(cli, &call, what, &rc);
    const Nodelink__V1__GetTaskReply *reply = (const Nodelink__V1__GetTaskReply *)message;
    if (reply != NULL && reply->task != NULL && cli->json) {
        nl_cli_print_json(nl_json_task(reply->task, reply->header));
    } else if (reply != NULL && reply->task != NULL) {
        nl_task_print(stdout, reply->task);
    }
    nl_rpc_message_free(message);
    return rc;
}

const struct nl_command NL_CMD_TASK_SHOW = {
    .name = "task show",
    .operands = "ID",
    .summary = "all about one task",
    .details = "Output: nodelink task logs ID.\n",
    .args = ARGS,
    .min = 1,
    .max = 1,
    .run = run,
};
