// PeerService: what the other nodes call here. `user` of each is the nl_server.
#ifndef NODELINK_SERVER_PEER_SERVICE_H
#define NODELINK_SERVER_PEER_SERVICE_H

#include "server/server.h"

extern const struct nl_rpc_method nl_peer_methods[];
bool nl_peer_authorize(struct nl_rpc_call *call, void *user);

#endif
