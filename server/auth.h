// Credentials of clients and agents. Tokens are compared by their SHA-256 in constant time and
// never stored or logged.
//
// Loop thread.
#ifndef NODELINK_SERVER_AUTH_H
#define NODELINK_SERVER_AUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "server/server.h"

struct nl_auth *nl_auth_new(struct nl_server *server);  // NULL: no memory
void nl_auth_free(struct nl_auth *auth);                // NULL is allowed

// ControlService's authorize hook; user is the nl_server. Wrong or missing token: ends the call
// with UNAUTHENTICATED, returns false, logs (limited per address).
bool nl_auth_client(struct nl_rpc_call *call, void *user);

// Whether the agent's token is one of its valid tokens in the state now.
bool nl_auth_agent_token_ok(const struct nl_state *state, const char *agent_id,
                            const uint8_t token_sha256[32]);
// false: too many failures of this agent id from this address; refuse without looking.
bool nl_auth_agent_allowed(struct nl_auth *auth, struct nl_rpc_call *call, const char *agent_id);
// Notes and logs a failure of an agent; why is logged.
void nl_auth_agent_failed(struct nl_auth *auth, struct nl_rpc_call *call, const char *agent_id,
                          const char *why);

#endif
