// How often somebody may come with a wrong credential before it is not even looked at: after
// NL_AUTH_FAILURES_MAX failures within NL_AUTH_WINDOW_MS by one key (address, or address and agent
// id) the rest of the window is refused, and logged once.
//
// Pure: the caller gives the time. Bounded: at most NL_AUTH_KEYS_MAX keys are remembered, the
// oldest goes first.
#ifndef NODELINK_SERVER_AUTH_LIMIT_H
#define NODELINK_SERVER_AUTH_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#define NL_AUTH_FAILURES_MAX 10u
#define NL_AUTH_WINDOW_MS 10000u
#define NL_AUTH_KEYS_MAX 4096u

struct nl_auth_limit;

struct nl_auth_limit *nl_auth_limit_new(void);  // NULL: no memory
void nl_auth_limit_free(struct nl_auth_limit *limit);
// false: refuse without looking at the credential.
bool nl_auth_limit_allows(struct nl_auth_limit *limit, const char *key, uint64_t now_ms);
// Notes a failure; returns whether to log it (the first ones, and the one that shuts the door).
// *ret_shut: from now on refused until the window ends.
bool nl_auth_limit_failed(struct nl_auth_limit *limit, const char *key, uint64_t now_ms,
                          bool *ret_shut);

// "ipv4:10.0.0.1:4711" -> "10.0.0.1": the same peer on another port is the same peer.
void nl_auth_peer_host(const char *peer, char *out, unsigned long out_size);

#endif
