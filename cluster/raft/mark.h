// The highest index this node has on disk, kept beside the log.
//
// libraft can't tell a flipped bit in the segment it was writing from a write that a crash cut
// off: it takes both for the end of the log. The second is right; the first makes a node forget
// entries that it has acknowledged, and vote as if it never had them. This mark tells the two
// apart: a log that ends before it was damaged.
//
// Written without a sync, so after a power failure it may be too low, never too high: lowering it
// is synced before the log follows.
//
// It also says that a leader's snapshot is taking the place of the log: after a crash in the middle
// the log's files alone don't tell what is left of the old log from what follows the snapshot.
// Loop thread only.
#ifndef NODELINK_CLUSTER_RAFT_MARK_H
#define NODELINK_CLUSTER_RAFT_MARK_H

#include <stdint.h>

struct nl_mark {
    int fd;  // -1: not open
    uint64_t index;
    uint64_t install_index, install_term;  // the end of that snapshot; 0: none
};

// Opens or makes the file in `dir`. NL_EIO; NL_ECORRUPT: its content can't be a mark.
int nl_mark_open(struct nl_mark *mark, const char *dir);
void nl_mark_close(struct nl_mark *mark);  // also of one that is not open
// Entries up to `index` are on disk. A failure leaves the mark low: the check gets weaker.
void nl_mark_raise(struct nl_mark *mark, uint64_t index);
// Entries above `index` are about to be dropped. NL_EIO: they must not be.
int nl_mark_lower(struct nl_mark *mark, uint64_t index);
// A snapshot is about to be stored and the log to be removed, from now on until the end is said.
// Both durable when they return. NL_EIO.
int nl_mark_install_begin(struct nl_mark *mark, uint64_t index, uint64_t term);
int nl_mark_install_end(struct nl_mark *mark);

#endif
