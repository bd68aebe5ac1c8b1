// ControlService as a client sees it: any metadata, any deadline, any request of any method,
// against a real state. Each call is answered exactly once with something that can be read; what
// is proposed can be applied; the state keeps its invariants.
//
// Input: requests, each a byte for the method, a byte for deadline and credentials, a length (u16)
// and the bytes. Bit 7 of the second byte: they are metadata instead; bit 6: a stream's request.

#include <stdlib.h>
#include <string.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "server/auth.h"
#include "server/control.h"
#include "server/sessions.h"
#include "tests/fuzz/fake_call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TOKEN "a-token"

static struct nl_state *state;
static uint64_t sequence;

// What the cluster has to say; not from inside the call that asked.
static struct {
    nl_propose_cb proposed;
    nl_read_cb read;
    void *user;
    int result;
    struct nl_outcome outcome;
} answer;

// ---- a cluster of one, that commits at once ----

static void on_effect(void *user, const struct nl_effect *effect) {
    if (effect->kind == NL_EFFECT_OUTCOME) {
        *(struct nl_outcome *)user = effect->outcome;
    }
}

static struct nl_outcome apply(Nodelink__V1__Command *command) {
    struct nl_outcome outcome = {0};
    command->proposer = 1;
    command->boot = 1;
    command->sequence = ++sequence;
    command->ack_below = sequence;
    command->time_ms = 1000 + sequence;
    size_t len = nodelink__v1__command__get_packed_size(command);
    uint8_t *bytes = malloc(len);
    fuzz_require(bytes != NULL && nodelink__v1__command__pack(command, bytes) == len, "packs");
    fuzz_require(nl_state_command_check(bytes, len) == NL_OK, "a proposal can be decoded");
    fuzz_require(nl_state_apply(state, sequence, bytes, len, on_effect, &outcome) == NL_OK,
                 "a proposal can be applied");
    free(bytes);
    return outcome;
}

int nl_cluster_propose(struct nl_cluster *cluster, Nodelink__V1__Command *command,
                       uint64_t timeout_ms, nl_propose_cb done, void *user) {
    (void)cluster;
    fuzz_require(timeout_ms > 0 && timeout_ms <= 60000, "a bounded time");
    answer.proposed = done;
    answer.user = user;
    answer.result = NL_OK;
    answer.outcome = apply(command);
    return NL_OK;
}

static int ask(nl_read_cb done, void *user, int result) {
    answer.read = done;
    answer.user = user;
    answer.result = result;
    return NL_OK;
}

static void give_answers(void) {
    while (answer.proposed != NULL || answer.read != NULL) {
        nl_propose_cb proposed = answer.proposed;
        nl_read_cb read = answer.read;
        answer.proposed = NULL;
        answer.read = NULL;
        if (proposed != NULL) {
            proposed(answer.user, answer.result, answer.outcome, sequence, 1);
        } else {
            read(answer.user, answer.result, sequence, 1);
        }
    }
}

int nl_cluster_read(struct nl_cluster *cluster, uint64_t timeout_ms, nl_read_cb done, void *user) {
    (void)cluster;
    fuzz_require(timeout_ms > 0 && timeout_ms <= 60000, "a bounded time");
    return ask(done, user, NL_OK);
}

int nl_cluster_wait_applied(struct nl_cluster *cluster, uint64_t index, uint64_t timeout_ms,
                            nl_read_cb done, void *user) {
    (void)cluster;
    (void)timeout_ms;
    fuzz_require(index > sequence, "only what is not there yet is waited for");
    return ask(done, user, NL_ETIMEOUT);
}

const struct nl_state *nl_cluster_state(const struct nl_cluster *cluster) {
    (void)cluster;
    return state;
}

void nl_cluster_status(struct nl_cluster *cluster, struct nl_cluster_status *ret) {
    (void)cluster;
    memset(ret, 0, sizeof *ret);
}

const struct nl_cluster_peer_status *nl_cluster_peer_next(struct nl_cluster *cluster,
                                                          uint64_t after) {
    (void)cluster;
    (void)after;
    return NULL;
}

uint64_t nl_cluster_id(const struct nl_cluster *cluster) {
    (void)cluster;
    return 1;
}

uint64_t nl_cluster_boot(const struct nl_cluster *cluster) {
    (void)cluster;
    return 1;
}

const char *nl_cluster_role_name(enum nl_cluster_role role) {
    (void)role;
    return "leader";
}

// ---- what the server has beside ----

uint32_t nl_sessions_count(const struct nl_sessions *sessions) {
    (void)sessions;
    return 0;
}

uint32_t nl_sessions_tasks_active(struct nl_sessions *sessions) {
    (void)sessions;
    return 0;
}

struct nl_watches *nl_watches_new(struct nl_server *server) {
    return (void *)server;
}

void nl_watches_free(struct nl_watches *watches) {
    (void)watches;
}

void nl_control_watch(struct nl_rpc_call *call, void *user, ProtobufCMessage *request) {
    (void)user;
    nl_rpc_message_free(request);
    nl_control_fail(call, NL_RPC_UNAVAILABLE, "not here");
}

// ---- input ----

static const struct {
    void (*handle)(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
    const ProtobufCMessageDescriptor *type;
} methods[] = {
    {nl_control_submit, &nodelink__v1__submit_task_request__descriptor},
    {nl_control_get_task, &nodelink__v1__get_task_request__descriptor},
    {nl_control_list_tasks, &nodelink__v1__list_tasks_request__descriptor},
    {nl_control_cancel, &nodelink__v1__cancel_task_request__descriptor},
    {nl_control_get_agent, &nodelink__v1__get_agent_request__descriptor},
    {nl_control_list_agents, &nodelink__v1__list_agents_request__descriptor},
    {nl_control_create_token, &nodelink__v1__create_agent_token_request__descriptor},
    {nl_control_revoke_token, &nodelink__v1__revoke_agent_token_request__descriptor},
    {nl_control_status, &nodelink__v1__get_status_request__descriptor},
};

// Metadata as it comes: not UTF-8, without an end to its length but the transport's.
static void credentials(struct nl_server *server, const uint8_t *data, size_t len) {
    char *text = malloc(len + 1);
    fuzz_require(text != NULL, "memory");
    memcpy(text, data, len);
    text[len] = '\0';
    struct nl_rpc_call call = {
        .keys = {"authorization"}, .values = {text}, .peer = text, .time_left_ms = 1000};
    bool ok = nl_auth_client(&call, server);
    fuzz_require(ok == (call.ends == 0), "who is refused is told");
    fuzz_require(!ok || strstr(text, TOKEN) != NULL, "only the token opens");
    if (nl_auth_agent_allowed(server->auth, &call, text)) {
        nl_auth_agent_failed(server->auth, &call, text, "fuzz");
    }
    uint8_t hash[NL_SHA256_LEN] = {0};
    fuzz_require(!nl_auth_agent_token_ok(state, text, hash), "no agent has this hash");
    free(text);
}

static void request(struct nl_server *server, unsigned method, unsigned time, const uint8_t *data,
                    size_t len) {
    static const uint64_t times[] = {UINT64_MAX, 0, 1, 100, 10000, 86400000, UINT64_MAX - 1, 7};
    method %= sizeof methods / sizeof methods[0];
    struct nl_rpc_call call = {.peer = "ipv4:127.0.0.1:1", .time_left_ms = times[time % 8]};
    ProtobufCMessage *message = NULL;
    if (nl_rpc_unpack(methods[method].type, data, len, 4 << 20, &message) != NL_OK) {
        return;
    }
    methods[method].handle(&call, server, message);
    give_answers();
    fake_call_check(&call);
    fuzz_require(server->control->operations == 0, "an operation ends with its answer");
}

// A stream of one request, which the client half-closes or breaks off before the answer.
static void stream(struct nl_server *server, bool breaks, const uint8_t *data, size_t len) {
    struct nl_rpc_call call = {.peer = "ipv4:127.0.0.1:1", .time_left_ms = UINT64_MAX};
    struct nl_rpc_status status = {.code = breaks ? NL_RPC_CANCELLED : NL_RPC_OK};
    ProtobufCMessage *message = NULL;
    nl_control_submits(&call, server);
    if (nl_rpc_unpack(&nodelink__v1__submit_task_request__descriptor, data, len, 4 << 20,
                      &message) == NL_OK) {
        call.handler->on_message(&call, call.user, message);
    }
    if (!breaks) {
        call.handler->on_half_close(&call, call.user);
        give_answers();
        fuzz_require(call.ends == 1, "a stream ends");
        fuzz_require(call.messages == (message != NULL), "each request has its answer");
    }
    call.handler->on_closed(&call, call.user, &status);
    give_answers();
    fuzz_require(call.refs == 0, "the stream is let go");
}

static void check_state(void) {
    char why[256] = "";
    fuzz_require(nl_state_check(state, why, sizeof why) == NL_OK, why);
}

// An agent that is connected, one that never was, and one task.
static void prepare(void) {
    uint8_t hash[NL_SHA256_LEN] = {1};
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__NodeUp up = NODELINK__V1__NODE_UP__INIT;
    Nodelink__V1__AgentTokenCreate token = NODELINK__V1__AGENT_TOKEN_CREATE__INIT;
    Nodelink__V1__AgentRegister hello = NODELINK__V1__AGENT_REGISTER__INIT;
    up.node = up.node_boot = 1;
    command.body_case = NODELINK__V1__COMMAND__BODY_NODE_UP;
    command.node_up = &up;
    apply(&command);
    token.token_sha256 = hello.token_sha256 = (ProtobufCBinaryData){sizeof hash, hash};
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE;
    command.agent_token_create = &token;
    token.agent_id = (char *)"b";
    apply(&command);
    token.agent_id = hello.agent_id = (char *)"a";
    apply(&command);
    hello.node = hello.node_boot = 1;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_REGISTER;
    command.agent_register = &hello;
    apply(&command);
}

static void run(struct nl_server *server, const uint8_t *data, size_t size) {
    for (unsigned n = 0; size >= 4 && n < 64; n++) {
        size_t len = (size_t)data[2] | (size_t)data[3] << 8;
        len = len < size - 4 ? len : size - 4;
        if ((data[1] & 0x80) != 0) {
            credentials(server, data + 4, len);
        } else if ((data[1] & 0x40) != 0) {
            stream(server, (data[1] & 1) != 0, data + 4, len);
        } else {
            request(server, data[0], data[1], data + 4, len);
        }
        data += 4 + len;
        size -= 4 + len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t admin[1][NL_SHA256_LEN];
    const struct nl_state_limits limits = {
        .tasks_per_agent_active_max = 4, .agents_max = 4, .outcomes_per_proposer_max = 16};
    struct nl_settings settings = {
        .node_name = (char *)"n1", .admin_hashes = admin, .n_admin_hashes = 1};
    struct nl_server server = {.settings = &settings};
    // Handlers look at it to see whether the node is closing; nothing of it is used.
    server.cluster = (void *)&server;
    nl_log_init(NL_LOG_OFF, NL_LOG_TEXT, "fuzz");
    nl_sha256_of(TOKEN, strlen(TOKEN), admin[0]);
    sequence = 0;
    fuzz_require(nl_state_new(&limits, &state) == NL_OK, "memory");
    server.control = nl_control_new(&server);
    server.auth = nl_auth_new(&server);
    fuzz_require(server.control != NULL && server.auth != NULL, "memory");
    prepare();
    run(&server, data, size);
    check_state();
    nl_auth_free(server.auth);
    nl_control_free(server.control);
    nl_state_free(state);
    return 0;
}
