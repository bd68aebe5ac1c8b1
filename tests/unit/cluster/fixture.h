// Several nodes of one cluster in this process, on one loop, over real TCP and real files.
#ifndef NODELINK_TESTS_UNIT_CLUSTER_FIXTURE_H
#define NODELINK_TESTS_UNIT_CLUSTER_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <stdbool.h>
#include <uv.h>

#include "cluster/cluster.h"

#define NODES_MAX 3
#define FIXTURE_FATAL 42  // the process's exit code when a node stops itself

struct node {
    struct fixture *fixture;
    unsigned index;
    struct nl_cluster *cluster;  // NULL: stopped
    struct nl_rpc_server *server;
    bool cluster_closed, server_closed;
    unsigned restored;
    uint64_t outcomes;          // effects seen, duplicates not counted
    enum nl_cluster_role role;  // as told; 0: not yet
    char dir[128];
    char raft_address[32], grpc_address[32], name[16];
};

struct fixture {
    uv_loop_t loop;
    struct nl_rpc *rpc;
    bool rpc_closed;
    unsigned n;
    struct node nodes[NODES_MAX];
    struct nl_cluster_member members[NODES_MAX];
    char dir[64];
    uint32_t snapshot_threshold, snapshot_trailing;
    uint64_t snapshot_bytes;
    uint32_t election_timeout_ms;
    const struct nl_rpc_tls *tls[NODES_MAX];  // NULL: plain
};

extern const uint8_t fixture_secret[32];
extern const uint8_t fixture_token[32];  // of the agents

void fixture_open(struct fixture *f, unsigned n);
void fixture_close(struct fixture *f);  // stops what runs, checks the loop, removes the files
void fixture_remove(const char *dir);   // of a fixture whose process is gone
struct nl_cluster_options fixture_options(struct fixture *f, unsigned i);
void fixture_start(struct fixture *f, unsigned i);
void fixture_stop(struct fixture *f, unsigned i);

// Turns the loop until the condition holds; false after the timeout.
typedef bool (*condition)(struct fixture *f, void *arg);
bool fixture_until(struct fixture *f, uint64_t timeout_ms, condition holds, void *arg);
// A running node that leads and is known as leader by the other running ones; -1: none in time.
int fixture_leader(struct fixture *f);
// All running nodes have applied the same index; then their hashes are compared.
void fixture_assert_equal(struct fixture *f);

struct result {
    unsigned calls;
    int result;
    struct nl_outcome outcome;
    uint64_t index, term;
};
void on_proposed(void *user, int result, struct nl_outcome outcome, uint64_t index, uint64_t term);
void on_read(void *user, int result, uint64_t index, uint64_t term);
// Waits for the callback.
void fixture_wait(struct fixture *f, struct result *r);

// A node says it is up, as the server does first; agents can then register at it.
void fixture_node_up(struct fixture *f, unsigned node);
// Each of them is applied exactly once if the epoch is their number.
int propose_token(struct fixture *f, unsigned node, const char *agent, struct result *r);
int propose_register(struct fixture *f, unsigned node, const char *agent, uint64_t timeout_ms,
                     struct result *r);
uint64_t epoch_at(struct fixture *f, unsigned node, const char *agent);

#endif
