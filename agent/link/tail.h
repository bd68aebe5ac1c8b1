// The end of a task's output, to be kept with its result by the cluster (OutputTail). Loop thread.
#ifndef NODELINK_AGENT_LINK_TAIL_H
#define NODELINK_AGENT_LINK_TAIL_H

#include <nodelink/v1/task.pb-c.h>

#include "agent/link/core.h"
#include "common/base/lz4.h"

struct nl_link_tail {
    Nodelink__V1__OutputTail message;  // points into pieces
    struct nl_lz4_piece pieces[2];
};

// Reads at most max_bytes of both streams together from the spool, as nl_link_output_read does, and
// compresses them. stderr has at least half of it if it has so much. NL_OK; NL_EGAP: the spool is
// gone; NL_ENOMEM, NL_EIO and others.
int nl_link_tail_read(const char *state_dir, const struct nl_link_tail_source *source,
                      size_t max_bytes, struct nl_link_tail *ret);
void nl_link_tail_close(struct nl_link_tail *tail);

#endif
