// The highest index this node has on disk, kept beside the log.
//
// libraft can't tell a flipped bit in the segment it was writing from a write that a crash cut
// off: it takes both for the end of the log. The second is right; the first makes a node forget
// entries that it has acknowledged, and vote as if it never had them. This mark tells the two
// apart: a log that ends before it was damaged.
//
// Written without a sync, so after a power failure it may be too low, never too high: lowering it
// is synced before the log follows. Loop thread only.
#ifndef NODELINK_CLUSTER_RAFT_MARK_H
#define NODELINK_CLUSTER_RAFT_MARK_H

#include <stdint.h>

struct nl_mark {
    int fd;  // -1: not open
    uint64_t index;
};

// Opens or makes the file in `dir`. NL_EIO; NL_ECORRUPT: its content can't be a mark.
int nl_mark_open(struct nl_mark *mark, const char *dir);
void nl_mark_close(struct nl_mark *mark);  // also of one that is not open
// Entries up to `index` are on disk. A failure leaves the mark low: the check gets weaker.
void nl_mark_raise(struct nl_mark *mark, uint64_t index);
// Entries above `index` are about to be dropped. NL_EIO: they must not be.
int nl_mark_lower(struct nl_mark *mark, uint64_t index);

#endif
