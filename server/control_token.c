// ControlService: agents' tokens. The token is made here, shown once, and only its SHA-256 goes
// into the log.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "server/control.h"

enum { TOKEN_SIZE = 64 };

static void create_done(struct nl_control_op *op, struct nl_outcome outcome,
                        Nodelink__V1__ReplyHeader *header) {
    const Nodelink__V1__CreateAgentTokenRequest *request = (const void *)op->request;
    if (outcome.code == NL_OUTCOME_LIMIT) {
        nl_control_fail(op->call, NL_RPC_RESOURCE_EXHAUSTED,
                        "failed: the cluster has as many agents as it may have");
        return;
    }
    if (outcome.code != NL_OUTCOME_OK && outcome.code != NL_OUTCOME_EXISTED) {
        nl_control_fail(op->call, NL_RPC_INVALID_ARGUMENT, "agent %s: not valid (%s)",
                        request->agent_id, nl_outcome_name(outcome.code));
        return;
    }
    nl_log(NL_LOG_INFO, "control", "agent token created", "agent", request->agent_id, "peer",
           nl_rpc_call_peer(op->call), NULL);
    Nodelink__V1__CreateAgentTokenReply reply = NODELINK__V1__CREATE_AGENT_TOKEN_REPLY__INIT;
    reply.header = header;
    reply.token = op->text;
    nl_rpc_call_reply(op->call, &reply.base);
}

void nl_control_create_token(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    Nodelink__V1__CreateAgentTokenRequest *request = (void *)message;
    if (!nl_control_id_ok(call, "agent_id", request->agent_id)) {
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op == NULL) {
        return;
    }
    char id[27];
    uint8_t hash[NL_SHA256_LEN];
    nl_random_id(id);
    if (asprintf(&op->text, "nla_%s", id) < 0) {
        op->text = NULL;
        nl_control_op_fail(op, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory");
        return;
    }
    nl_sha256_of(op->text, strlen(op->text), hash);
    op->what = "the agent's new token";
    op->write_done = create_done;
    Nodelink__V1__AgentTokenCreate m = NODELINK__V1__AGENT_TOKEN_CREATE__INIT;
    m.agent_id = request->agent_id;
    m.token_sha256 = (ProtobufCBinaryData){sizeof hash, hash};
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE;
    command.agent_token_create = &m;
    nl_control_write(op, &command);
}

static void revoke_done(struct nl_control_op *op, struct nl_outcome outcome,
                        Nodelink__V1__ReplyHeader *header) {
    const Nodelink__V1__RevokeAgentTokenRequest *request = (const void *)op->request;
    if (outcome.code == NL_OUTCOME_NO_AGENT) {
        nl_control_fail(op->call, NL_RPC_NOT_FOUND, "agent %s is not known", request->agent_id);
        return;
    }
    nl_log(NL_LOG_INFO, "control", "agent tokens revoked", "agent", request->agent_id, "peer",
           nl_rpc_call_peer(op->call), NULL);
    Nodelink__V1__RevokeAgentTokenReply reply = NODELINK__V1__REVOKE_AGENT_TOKEN_REPLY__INIT;
    reply.header = header;
    reply.existed = outcome.code == NL_OUTCOME_OK;
    nl_rpc_call_reply(op->call, &reply.base);
}

void nl_control_revoke_token(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    Nodelink__V1__RevokeAgentTokenRequest *request = (void *)message;
    if (!nl_control_id_ok(call, "agent_id", request->agent_id)) {
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op == NULL) {
        return;
    }
    op->what = "the agent's tokens";
    op->write_done = revoke_done;
    Nodelink__V1__AgentTokenRevoke m = NODELINK__V1__AGENT_TOKEN_REVOKE__INIT;
    m.agent_id = request->agent_id;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_REVOKE;
    command.agent_token_revoke = &m;
    nl_control_write(op, &command);
}
