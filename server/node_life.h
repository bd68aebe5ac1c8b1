// This node among the others: NodeUp after the start (and again when the others declared it down),
// health, the leaderless grace.
//
// Loop thread.
#ifndef NODELINK_SERVER_NODE_LIFE_H
#define NODELINK_SERVER_NODE_LIFE_H

#include "server/server.h"

// on_ready: once, when the state says for the first time that this boot of the node is up.
// NULL: no memory.
struct nl_node_life *nl_node_life_new(struct nl_server *server, void (*on_ready)(void *user),
                                      void *user);
// Does nothing any more; before the cluster closes. NULL is allowed.
void nl_node_life_stop(struct nl_node_life *life);
// Nothing may be in flight. The handle is gone when the loop has turned. NULL is allowed.
void nl_node_life_close(struct nl_node_life *life);
// Begins to act; the cluster is open.
void nl_node_life_start(struct nl_node_life *life);
// Draining began: says so in the health services.
void nl_node_life_drain(struct nl_node_life *life);

// Whether agents may connect; else *ret_why is a text for them.
bool nl_node_life_takes_agents(struct nl_node_life *life, const char **ret_why);

void nl_node_life_on_effect(struct nl_node_life *life, const struct nl_effect *effect);
void nl_node_life_on_role(struct nl_node_life *life, enum nl_cluster_role role, uint64_t term,
                          uint64_t leader);

#endif
