// How a node stops: drain (agents, clients, leadership), then close step by step.
//
//   DRAINING  -> all sessions gone and leadership handed over, or half of drain-timeout -> CLOSING
//   CLOSING   grpc -> cluster -> parts -> rpc -> freed
#ifndef NODELINK_SERVER_SERVER_STOP_H
#define NODELINK_SERVER_SERVER_STOP_H

#include "server/server.h"

// Without draining: also of a half-open server. Frees it, then calls done (or NULL).
void nl_server_close_now(struct nl_server *server, void (*done)(void *user), void *user);

#endif
