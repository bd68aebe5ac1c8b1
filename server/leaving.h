// Agents whose stream at this node is over: AgentDisconnect is proposed for each until the state
// no longer says that this node owns that epoch.
//
// Loop thread. Bounded by the number of agents.
#ifndef NODELINK_SERVER_LEAVING_H
#define NODELINK_SERVER_LEAVING_H

#include "server/server.h"

struct nl_leaving;

struct nl_leaving *nl_leaving_new(struct nl_server *server);  // NULL: no memory
// Does nothing any more; before the cluster closes. NULL is allowed.
void nl_leaving_stop(struct nl_leaving *leaving);
// Nothing may be in flight (the cluster is closed). The handle is gone when the loop has turned.
void nl_leaving_close(struct nl_leaving *leaving);
void nl_leaving_add(struct nl_leaving *leaving, const char *agent_id, uint64_t epoch,
                    const char *reason);
size_t nl_leaving_count(const struct nl_leaving *leaving);

#endif
