// The end of an ended task's output, as the state keeps it.
#ifndef NODELINK_SERVER_TAIL_H
#define NODELINK_SERVER_TAIL_H

#include <stddef.h>
#include <stdint.h>

#include <nodelink/v1/task.pb-c.h>

#include "server/output.h"

struct nl_tail {
    uint64_t offset[2];  // of the first bytes, by enum nl_stream
    uint8_t *data[2];    // owned
    size_t len[2];
};

// NL_OK; NL_ECORRUPT: not what an agent makes; NL_ENOMEM.
int nl_tail_open(const Nodelink__V1__OutputTail *tail, struct nl_tail *ret);
void nl_tail_close(struct nl_tail *tail);

#endif
