// Tells followers of a new commit index. Left alone, libraft lets it ride on the next entry or
// heartbeat, so that a quiet cluster's followers apply up to a heartbeat late.
//
// A follower that somebody waits at (it proposed or read a moment ago, or an agent of its has a new
// task) hears it at once. The others hear it with the next entry or a millisecond later: waking
// them costs more than anything else of a single write does on the leader, and under load the next
// entry is never far.
#ifndef NODELINK_CLUSTER_RAFT_PUSH_H
#define NODELINK_CLUSTER_RAFT_PUSH_H

#include <raft.h>
#include <stdbool.h>

#include "cluster/raft/guard.h"

// After each event of libraft; does nothing on a follower. true: some that are not in a hurry were
// left out; to be called with `all` in a millisecond.
bool nl_push_commit(struct raft *raft, struct nl_guard *guard, bool all);
// The peer is in a hurry for the next 100 ms.
void nl_push_hurry(struct nl_guard *guard, uint64_t id);

#endif
