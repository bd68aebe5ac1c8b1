// A cluster on this machine, for trials and drills: what DIR/cluster.json says, and how its
// processes are started and stopped.
//
//   DIR/cluster.json   nodes and agents with their addresses and pids (0600)
//   DIR/env            to be sourced: NODELINK_ADDR, NODELINK_TOKEN (0600)
//   DIR/secret         shared by the nodes
//   DIR/n1/            nodelinkd.conf, nodelinkd.log, data/
//   DIR/a1/            the agent's state directory, with token and agent.log
#ifndef NODELINK_TOOLS_LOCAL_LOCAL_H
#define NODELINK_TOOLS_LOCAL_LOCAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/cli.h"
#include "tools/local/process.h"

enum { NL_LOCAL_NAME = 32, NL_LOCAL_ADDRESS = 32, NL_LOCAL_PATH = 512 };
enum { NL_LOCAL_NODES_MAX = 9, NL_LOCAL_AGENTS_MAX = 1000 };

struct nl_local_node {
    char name[NL_LOCAL_NAME];
    uint64_t id;
    char grpc[NL_LOCAL_ADDRESS], raft[NL_LOCAL_ADDRESS], http[NL_LOCAL_ADDRESS];
    char dir[NL_LOCAL_PATH];
    struct nl_process process;
};

struct nl_local_agent {
    char id[NL_LOCAL_NAME];
    char dir[NL_LOCAL_PATH], token_file[NL_LOCAL_PATH];
    struct nl_process link, supervisor;
};

struct nl_local {
    char dir[NL_LOCAL_PATH];      // absolute
    bool bootstrapped;            // there was a leader once: never bootstrap again
    struct nl_local_node *nodes;  // owned
    size_t n_nodes;
    struct nl_local_agent *agents;  // owned
    size_t n_agents;
    char **agent_flags;  // owned: "--key=value" for every agent
    size_t n_agent_flags;
    int lock_fd;  // -1: not locked
};

struct nl_local_plan {
    uint64_t nodes, agents, base_port;         // base_port 0: any free ports
    const char *election_timeout, *heartbeat;  // texts for the config; NULL: the default
    struct nl_arg_list sets, agent_sets;       // KEY=VALUE
};

// ---- files (files.c) -------------------------------------------------------

// All functions say on stderr what is wrong and return an exit code.

// Makes DIR absolute and takes its lock: one `local` command at a time. `make`: creates it.
int nl_local_open(const struct nl_cli *cli, const char *dir, bool make, struct nl_local *ret);
void nl_local_close(struct nl_local *local);
bool nl_local_exists(const struct nl_local *local);  // there is a cluster.json
int nl_local_load(const struct nl_cli *cli, struct nl_local *local);
int nl_local_save(const struct nl_cli *cli, const struct nl_local *local);
json_t *nl_local_json(const struct nl_local *local);
// DIR/a, DIR/a/b: into out of NL_LOCAL_PATH bytes. false: too long.
bool nl_local_path(char *out, const char *dir, const char *name);
// Writes a private file (0600).
int nl_local_write(const struct nl_cli *cli, const char *path, const char *text);

// ---- create (create.c) -----------------------------------------------------

// Chooses names, ports and secrets and writes all files; starts nothing.
int nl_local_create(const struct nl_cli *cli, const struct nl_local_plan *plan,
                    struct nl_local *local);

// ---- processes (launch.c) --------------------------------------------------

int nl_local_start_node(const struct nl_cli *cli, struct nl_local *local,
                        struct nl_local_node *node);
int nl_local_start_agent(const struct nl_cli *cli, struct nl_local *local,
                         struct nl_local_agent *agent);
// Finds the agents' processes by their pid files: a link restarts under a new pid.
void nl_local_refresh(struct nl_local *local);
bool nl_local_any_alive(const struct nl_local *local);
// TERM, a while, KILL: agents with all that runs under them, then nodes.
void nl_local_stop_all(struct nl_local *local);
// The last lines of a log to stderr.
void nl_local_print_log(const char *name, const char *path);
void nl_local_node_log(const struct nl_local_node *node, char *out);
void nl_local_agent_log(const struct nl_local_agent *agent, char *out);

struct nl_local_node *nl_local_node_by_name(struct nl_local *local, const char *name);
struct nl_local_agent *nl_local_agent_by_id(struct nl_local *local, const char *id);

// ---- waiting (ready.c) -----------------------------------------------------

// Until there is a leader and every node answers.
int nl_local_wait_nodes(const struct nl_cli *cli, struct nl_local *local, uint64_t timeout_ms);
// Makes the tokens that are missing.
int nl_local_make_tokens(const struct nl_cli *cli, struct nl_local *local);
// Until all agents are connected.
int nl_local_wait_agents(const struct nl_cli *cli, struct nl_local *local, uint64_t timeout_ms);
// Addresses and token of this cluster, for a client.
int nl_local_target(const struct nl_cli *cli, const struct nl_local *local,
                    struct nl_client_target *ret);

// For the subcommands with only --dir.
struct nl_local_dir_options {
    const char *dir;
    bool supervisor;
};
// nl_local_open and nl_local_load and nl_local_refresh.
int nl_local_open_existing(const struct nl_cli *cli, const char *dir, struct nl_local *ret);

#endif
