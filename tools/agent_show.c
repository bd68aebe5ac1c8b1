#include "tools/commands.h"
#include "tools/view.h"

static const struct nl_arg ARGS[] = {{0}};

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    Nodelink__V1__GetAgentRequest request = NODELINK__V1__GET_AGENT_REQUEST__INIT;
    Nodelink__V1__ReadOptions read = NODELINK__V1__READ_OPTIONS__INIT;
    char what[256];
    int rc = NL_EXIT_OK;
    (void)options;
    request.agent_id = operands->items[0];
    request.read = &read;
    struct nl_client_call call = {.method = "GetAgent",
                                  .request = &request.base,
                                  .min_index = &read.min_index,
                                  .repeat = NL_CLIENT_READ};
    snprintf(what, sizeof what, "show agent %s", request.agent_id);
    ProtobufCMessage *message = nl_cli_call(cli, &call, what, &rc);
    const Nodelink__V1__GetAgentReply *reply = (const Nodelink__V1__GetAgentReply *)message;
    if (reply != NULL && reply->agent != NULL && cli->json) {
        nl_cli_print_json(nl_json_agent(reply->agent));
    } else if (reply != NULL && reply->agent != NULL) {
        nl_agent_print(stdout, reply->agent);
    }
    nl_rpc_message_free(message);
    return rc;
}

const struct nl_command NL_CMD_AGENT_SHOW = {
    .name = "agent show",
    .operands = "ID",
    .summary = "all about one agent",
    .args = ARGS,
    .min = 1,
    .max = 1,
    .run = run,
};
