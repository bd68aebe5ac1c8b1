// All agents of a cluster, page by page.
#ifndef NODELINK_TOOLS_AGENTS_H
#define NODELINK_TOOLS_AGENTS_H

#include <nodelink/v1/control.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/client.h"
#include "tools/view.h"

// Calls each(user, agent) for the agents with all of the labels, sorted by id, at most `limit`
// (0: all); the agent is valid during the call. false: *ret_error says why (NL_* of each: out of
// memory). timeout_ms is of one page; 0: the client's default.
bool nl_agents_each(struct nl_client *client, const struct nl_labels *labels, uint64_t limit,
                    uint64_t timeout_ms, int (*each)(void *user, const Nodelink__V1__Agent *agent),
                    void *user, struct nl_client_error *ret_error);

#endif
