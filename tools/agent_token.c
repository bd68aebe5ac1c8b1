#include <string.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "tools/commands.h"
#include "tools/view.h"

struct options {
    const char *out;
};

static const struct nl_arg CREATE_ARGS[] = {
    {"out", 0, NL_ARG_STRING, offsetof(struct options, out), "FILE", NULL,
     "write it to FILE (mode 0600) instead of printing it"},
    {0},
};
static const struct nl_arg REVOKE_ARGS[] = {{0}};

static int write_token(const struct nl_cli *cli, const char *path, const char *token) {
    char line[256];
    int n = snprintf(line, sizeof line, "%s\n", token);
    int rc = n > 0 && (size_t)n < sizeof line ? nl_fs_write_atomic(path, line, (size_t)n, 0600)
                                              : NL_ETOOBIG;
    explicit_bzero(line, sizeof line);
    if (rc != NL_OK) {
        nl_cli_fail(cli,
                    &(struct nl_failure){.code = "IO",
                                         .outcome = "unknown",
                                         .next = "the token exists but is not kept anywhere: "
                                                 "make another one, or revoke them"},
                    "can't write %s: %s", path, nl_strerror(rc));
        return NL_EXIT_FAILED;
    }
    return NL_EXIT_OK;
}

static int print_token(const struct nl_cli *cli, const char *agent, const char *token,
                       const char *out) {
    if (out != NULL && write_token(cli, out, token) != NL_EXIT_OK) {
        return NL_EXIT_FAILED;
    }
    if (cli->json) {
        json_t *object = json_pack("{s:s}", "agent", agent);
        json_object_set_new(object, out != NULL ? "token_file" : "token",
                            json_string(out != NULL ? out : token));
        nl_cli_print_json(object);
    } else if (out == NULL) {
        puts(token);
    }
    return NL_EXIT_OK;
}

static int run_create(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    Nodelink__V1__CreateAgentTokenRequest request = NODELINK__V1__CREATE_AGENT_TOKEN_REQUEST__INIT;
    char what[256];
    int rc = NL_EXIT_OK;
    request.agent_id = operands->items[0];
    struct nl_client_call call = {
        .method = "CreateAgentToken", .request = &request.base, .repeat = NL_CLIENT_ONCE};
    snprintf(what, sizeof what, "create a token for agent %s", request.agent_id);
    ProtobufCMessage *message = nl_cli_call(cli, &call, what, &rc);
    if (message != NULL) {
        const Nodelink__V1__CreateAgentTokenReply *reply =
            (const Nodelink__V1__CreateAgentTokenReply *)message;
        rc = print_token(cli, request.agent_id, reply->token, o->out);
    }
    nl_rpc_message_free(message);
    return rc;
}

static int run_revoke(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    Nodelink__V1__RevokeAgentTokenRequest request = NODELINK__V1__REVOKE_AGENT_TOKEN_REQUEST__INIT;
    char what[256];
    int rc = NL_EXIT_OK;
    (void)options;
    request.agent_id = operands->items[0];
    struct nl_client_call call = {
        .method = "RevokeAgentToken", .request = &request.base, .repeat = NL_CLIENT_IDEMPOTENT};
    snprintf(what, sizeof what, "revoke the tokens of agent %s", request.agent_id);
    ProtobufCMessage *message = nl_cli_call(cli, &call, what, &rc);
    if (message != NULL) {
        bool existed = ((const Nodelink__V1__RevokeAgentTokenReply *)message)->existed;
        if (cli->json) {
            nl_cli_print_json(
                json_pack("{s:s, s:b}", "agent", request.agent_id, "existed", (int)existed));
        } else {
            printf(existed ? "the tokens of agent %s are revoked\n" : "agent %s had no token\n",
                   request.agent_id);
        }
    }
    nl_rpc_message_free(message);
    return rc;
}

const struct nl_command NL_CMD_AGENT_TOKEN_CREATE = {
    .name = "agent token create",
    .operands = "ID",
    .summary = "make a token with which the agent may connect",
    .details =
        "The token is shown once; the cluster keeps its SHA-256 only. Up to two are valid at\n"
        "once, so that one can be replaced without a gap.\n",
    .args = CREATE_ARGS,
    .options_size = sizeof(struct options),
    .min = 1,
    .max = 1,
    .run = run_create,
};

const struct nl_command NL_CMD_AGENT_TOKEN_REVOKE = {
    .name = "agent token revoke",
    .operands = "ID",
    .summary = "make all tokens of an agent invalid",
    .args = REVOKE_ARGS,
    .min = 1,
    .max = 1,
    .run = run_revoke,
};
