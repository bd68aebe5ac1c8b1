// The end of an ended task's output, as the state keeps it.
#ifndef NODELINK_SERVER_TAIL_H
#define NODELINK_SERVER_TAIL_H

#include <stddef.h>
#include <stdint.h>

#include <nodelink/v1/task.pb-c.h>

#include "common/base/lz4.h"
#include "server/output.h"
#include "server/stock.h"

struct nl_tail {
    uint64_t offset[2];  // of the first bytes, by enum nl_stream
    uint8_t *data[2];    // owned
    size_t len[2];
};

// NL_OK; NL_ECORRUPT: not what an agent makes; NL_ENOMEM.
int nl_tail_open(const Nodelink__V1__OutputTail *tail, struct nl_tail *ret);
void nl_tail_close(struct nl_tail *tail);

// Of what a stock agent pushed: the last 64 KiB of both streams together, made by its node.
struct nl_tail_made {
    Nodelink__V1__OutputTail message;  // points into pieces
    struct nl_lz4_piece pieces[2];
};
// NL_ENOMEM.
int nl_tail_of_stock(const struct nl_stock_task *task, struct nl_tail_made *ret);
void nl_tail_made_close(struct nl_tail_made *made);

#endif
