// Work that may take seconds, in a thread of its own that has less weight than the others. On a
// machine with few processors a whole state's encoding would otherwise hold up the loop thread,
// several nodes' at once even more: equal nodes take their snapshots at the same entry.
#ifndef NODELINK_CLUSTER_RAFT_BACKGROUND_H
#define NODELINK_CLUSTER_RAFT_BACKGROUND_H

// Returns when `work` has: to be called in a worker thread. Without memory for a thread the work is
// done in the caller's.
void nl_background_run(void (*work)(void *arg), void *arg);

#endif
