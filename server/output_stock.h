// A reader of output that a stock agent pushed to this node. See output.h.
#ifndef NODELINK_SERVER_OUTPUT_STOCK_H
#define NODELINK_SERVER_OUTPUT_STOCK_H

#include "server/output.h"
#include "server/stock.h"

int nl_output_stock_open(struct nl_server *server, struct nl_stock *stock,
                         struct nl_stock_task *task, const struct nl_output_request *request,
                         struct nl_output_reader **ret);

#endif
