// What the parts of a node share, and their life. Everything on the loop thread.
#ifndef NODELINK_SERVER_SERVER_H
#define NODELINK_SERVER_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "cluster/cluster.h"
#include "common/rpc/rpc.h"
#include "server/defer.h"
#include "server/settings.h"
#include "server/topics.h"

struct nl_auth;
struct nl_control;
struct nl_housekeeping;
struct nl_node_life;
struct nl_outputs;
struct nl_sessions;

// Owned by whoever opened it (nl_server_open); the parts borrow it and each other through it.
struct nl_server {
    uv_loop_t *loop;
    struct nl_settings *settings;  // borrowed; SIGHUP changes values in place
    struct nl_rpc *rpc;
    struct nl_rpc_server *grpc;
    struct nl_cluster *cluster;  // NULL until it is open
    struct nl_defer defer;
    struct nl_topics *task_topics, *agent_topics;
    struct nl_auth *auth;
    struct nl_sessions *sessions;
    struct nl_outputs *outputs;
    struct nl_control *control;
    struct nl_housekeeping *housekeeping;
    struct nl_node_life *life;
    const struct nl_rpc_service *services;  // owned
    const char **addresses;                 // gRPC addresses of all nodes; owned array
    size_t n_addresses;
    uint64_t started_ms;  // monotonic
    bool draining;
};

#define NL_SERVER_TEXT_MAX 512

// rpc -> listening -> cluster -> services. NL_EBUSY, NL_EINVAL, NL_ECORRUPT, NL_EIO, NL_ENOMEM with
// a sentence in error_text; nothing on disk was changed then, and everything that was opened is
// being closed: run the loop until it is empty. `settings`, `loop` must outlive it. `secret` is
// copied by the cluster. on_ready: this node is up in the cluster for the first time.
int nl_server_open(uv_loop_t *loop, struct nl_settings *settings, const char *secret,
                   void (*on_ready)(void *user), void *user, struct nl_server **ret,
                   char *error_text, size_t error_size);
// Sends agents and clients away, hands leadership over, and stops within drain-timeout. Then frees
// it and calls done.
void nl_server_stop(struct nl_server *server, void (*done)(void *user), void *user);

uint16_t nl_server_port(const struct nl_server *server);

#endif
