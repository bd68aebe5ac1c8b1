// Tells followers of a new commit index at once. Left alone, libraft lets it ride on the next
// entry or heartbeat, so that a quiet cluster's followers apply up to a heartbeat late.
#ifndef NODELINK_CLUSTER_RAFT_PUSH_H
#define NODELINK_CLUSTER_RAFT_PUSH_H

#include <raft.h>

#include "cluster/raft/guard.h"

// After each event of libraft; does nothing on a follower.
void nl_push_commit(struct raft *raft, struct nl_guard *guard);

#endif
