#include "server/auth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "server/auth_limit.h"

enum { TOKEN_LEN_MAX = 4096, HOST_LEN = 128 };

struct nl_auth {
    struct nl_server *server;
    struct nl_auth_limit *clients, *agents;
};

struct nl_auth *nl_auth_new(struct nl_server *server) {
    struct nl_auth *auth = calloc(1, sizeof *auth);
    if (auth == NULL) {
        return NULL;
    }
    auth->server = server;
    auth->clients = nl_auth_limit_new();
    auth->agents = nl_auth_limit_new();
    if (auth->clients == NULL || auth->agents == NULL) {
        nl_auth_free(auth);
        return NULL;
    }
    return auth;
}

void nl_auth_free(struct nl_auth *auth) {
    if (auth != NULL) {
        nl_auth_limit_free(auth->clients);
        nl_auth_limit_free(auth->agents);
        free(auth);
    }
}

// ---- clients ---------------------------------------------------------------

static const char *bearer(const struct nl_rpc_call *call) {
    const char *value = nl_rpc_call_metadata(call, "authorization");
    if (value == NULL || strncasecmp(value, "bearer ", 7) != 0) {
        return NULL;
    }
    return value + 7 + strspn(value + 7, " ");
}

// All hashes are compared, so that the time says nothing about which one matched.
static bool client_token_ok(const struct nl_settings *settings, const char *token) {
    uint8_t hash[NL_SHA256_LEN];
    nl_sha256_of(token, strlen(token), hash);
    bool ok = false;
    for (size_t i = 0; i < settings->n_admin_hashes; i++) {
        ok |= nl_equal_const_time(hash, settings->admin_hashes[i], sizeof hash);
    }
    return ok;
}

// A client is not shut out by others behind the same address: only the log is limited.
bool nl_auth_client(struct nl_rpc_call *call, void *user) {
    struct nl_server *server = user;
    const char *token = bearer(call);
    if (token != NULL && strlen(token) <= TOKEN_LEN_MAX &&
        client_token_ok(server->settings, token)) {
        return true;
    }
    char host[HOST_LEN];
    bool shut = false;
    nl_auth_peer_host(nl_rpc_call_peer(call), host, sizeof host);
    if (nl_auth_limit_failed(server->auth->clients, host, nl_clock_mono_ms(), &shut)) {
        nl_log(NL_LOG_WARN, "auth", "client refused", "peer", nl_rpc_call_peer(call), "method",
               nl_rpc_call_method(call), "why", token == NULL ? "no token" : "wrong token",
               shut ? "note" : NULL, "further ones are not logged for a while", NULL);
    }
    nl_rpc_call_finish(
        call, NL_RPC_UNAUTHENTICATED,
        token == NULL ? "no token: send metadata authorization: Bearer TOKEN" : "wrong token");
    return false;
}

// ---- agents ----------------------------------------------------------------

bool nl_auth_agent_token_ok(const struct nl_state *state, const char *agent_id,
                            const uint8_t token_sha256[32]) {
    const struct nl_agent *agent = nl_state_agent(state, agent_id);
    bool ok = false;
    for (uint32_t i = 0; agent != NULL && i < agent->tokens; i++) {
        ok |= nl_equal_const_time(agent->token_sha256[i], token_sha256, NL_SHA256_LEN);
    }
    return ok;
}

static void agent_key(struct nl_rpc_call *call, const char *agent_id, char *out, size_t size) {
    char host[HOST_LEN];
    nl_auth_peer_host(nl_rpc_call_peer(call), host, sizeof host);
    snprintf(out, size, "%s %.128s", host, agent_id);
}

bool nl_auth_agent_allowed(struct nl_auth *auth, struct nl_rpc_call *call, const char *agent_id) {
    char key[HOST_LEN + 160];
    agent_key(call, agent_id, key, sizeof key);
    return nl_auth_limit_allows(auth->agents, key, nl_clock_mono_ms());
}

void nl_auth_agent_failed(struct nl_auth *auth, struct nl_rpc_call *call, const char *agent_id,
                          const char *why) {
    char key[HOST_LEN + 160];
    bool shut = false;
    agent_key(call, agent_id, key, sizeof key);
    if (nl_auth_limit_failed(auth->agents, key, nl_clock_mono_ms(), &shut)) {
        nl_log(NL_LOG_WARN, "auth", "agent refused", "peer", nl_rpc_call_peer(call), "agent",
               nl_text_id_ok(agent_id) ? agent_id : "(none)", "why", why, shut ? "note" : NULL,
               "further ones are refused unseen for a while", NULL);
    }
}
