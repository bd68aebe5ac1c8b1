// nodelinkd --dev: one node on loopback with a temporary directory, an admin token and an agent
// token, for trying out. Nothing of it outlives a clean exit.
//
// Loop thread.
#ifndef NODELINK_SERVER_DEV_H
#define NODELINK_SERVER_DEV_H

#include "server/server.h"

#define NL_DEV_AGENT_ID "dev"

struct nl_dev {
    char directory[64];  // "" until it is made
    char admin_token[40], agent_token[40], secret[40];
    struct nl_server *server;
};

// Makes the directory and fills what the settings leave open. NL_EIO, NL_ENOMEM.
int nl_dev_prepare(struct nl_dev *dev, struct nl_settings *settings);
// The node is ready: registers the agent token and prints how to go on, to stdout.
void nl_dev_ready(struct nl_dev *dev, struct nl_server *server);
// Removes the directory.
void nl_dev_clean(struct nl_dev *dev);

#endif
