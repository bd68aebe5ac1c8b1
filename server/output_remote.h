// A reader of output at another node. See output.h.
#ifndef NODELINK_SERVER_OUTPUT_REMOTE_H
#define NODELINK_SERVER_OUTPUT_REMOTE_H

#include "server/output.h"

int nl_output_remote_open(struct nl_server *server, uint64_t node,
                          const struct nl_output_request *request, struct nl_output_reader **ret);

#endif
