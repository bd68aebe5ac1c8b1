#include <stdio.h>

#include "tools/commands.h"
#include "tools/local/local.h"

enum { UP_MS = 60000, PORT_BASE_MAX = 65000 };

struct options {
    const char *dir;
    uint64_t timeout_ms;
    struct nl_local_plan plan;
};

#define PLAN(f) offsetof(struct options, plan.f)
static const struct nl_arg ARGS[] = {
    {"dir", 0, NL_ARG_STRING, offsetof(struct options, dir), "DIR", NULL,
     "everything is in here; made if missing"},
    {"nodes", 0, NL_ARG_U64, PLAN(nodes), "N", "3", "servers"},
    {"agents", 0, NL_ARG_U64, PLAN(agents), "M", "3", "agents"},
    {"base-port", 0, NL_ARG_U64, PLAN(base_port), "PORT", NULL,
     "three ports per node from here on (default: free ones)"},
    {"election-timeout", 0, NL_ARG_STRING, PLAN(election_timeout), "DURATION", NULL,
     "of the nodes"},
    {"heartbeat", 0, NL_ARG_STRING, PLAN(heartbeat), "DURATION", NULL, "of the nodes"},
    {"set", 0, NL_ARG_LIST, PLAN(sets), "KEY=VALUE", NULL, "setting of every nodelinkd"},
    {"agent-set", 0, NL_ARG_LIST, PLAN(agent_sets), "KEY=VALUE", NULL,
     "flag of every nodelink-agent"},
    {"timeout", 0, NL_ARG_DURATION, offsetof(struct options, timeout_ms), "DURATION", NULL,
     "how long nodes, and then agents, may take to get ready (default 60s)"},
    {0},
};

static int check(const struct nl_cli *cli, const struct nl_local_plan *plan) {
    if (plan->nodes < 1 || plan->nodes > NL_LOCAL_NODES_MAX) {
        return nl_cli_usage(cli, "--nodes has to be 1 to %d", NL_LOCAL_NODES_MAX);
    }
    if (plan->agents > NL_LOCAL_AGENTS_MAX) {
        return nl_cli_usage(cli, "--agents has to be 0 to %d", NL_LOCAL_AGENTS_MAX);
    }
    if (plan->base_port > PORT_BASE_MAX) {
        return nl_cli_usage(cli, "--base-port has to be 1 to %d", PORT_BASE_MAX);
    }
    return NL_EXIT_OK;
}

static int start_agents(const struct nl_cli *cli, struct nl_local *local) {
    int rc = NL_EXIT_OK;
    for (size_t i = 0; i < local->n_agents && rc == NL_EXIT_OK; i++) {
        rc = nl_local_start_agent(cli, local, &local->agents[i]);
    }
    return rc;
}

static int start_all(const struct nl_cli *cli, struct nl_local *local, uint64_t timeout_ms) {
    int rc = NL_EXIT_OK;
    for (size_t i = 0; i < local->n_nodes && rc == NL_EXIT_OK; i++) {
        rc = nl_local_start_node(cli, local, &local->nodes[i]);
    }
    if (rc == NL_EXIT_OK) {
        rc = nl_local_save(cli, local);
    }
    if (rc == NL_EXIT_OK) {
        rc = nl_local_wait_nodes(cli, local, timeout_ms);
    }
    if (rc == NL_EXIT_OK) {
        local->bootstrapped = true;
        rc = nl_local_make_tokens(cli, local);
    }
    if (rc == NL_EXIT_OK) {
        rc = start_agents(cli, local);
    }
    if (rc == NL_EXIT_OK) {
        rc = nl_local_save(cli, local);
    }
    return rc == NL_EXIT_OK ? nl_local_wait_agents(cli, local, timeout_ms) : rc;
}

static int prepare(const struct nl_cli *cli, const struct options *o, struct nl_local *local) {
    if (!nl_local_exists(local)) {
        return nl_local_create(cli, &o->plan, local);
    }
    int rc = nl_local_load(cli, local);
    if (rc != NL_EXIT_OK) {
        return rc;
    }
    nl_local_refresh(local);
    if (nl_local_any_alive(local)) {
        nl_cli_fail(cli,
                    &(struct nl_failure){.code = "BUSY",
                                         .outcome = "failed",
                                         .next = "nodelink local down --dir DIR stops it, "
                                                 "nodelink local start NAME starts one part"},
                    "the cluster in %s runs already", local->dir);
        return NL_EXIT_FAILED;
    }
    if (local->n_nodes != o->plan.nodes || local->n_agents != o->plan.agents) {
        return nl_cli_usage(cli,
                            "the cluster in %s has %zu nodes and %zu agents; say so, or use "
                            "another --dir",
                            local->dir, local->n_nodes, local->n_agents);
    }
    return NL_EXIT_OK;
}

static void print(const struct nl_cli *cli, const struct nl_local *local) {
    if (cli->json) {
        nl_cli_print_json(nl_local_json(local));
        return;
    }
    printf("%zu nodes and %zu agents are up in %s\n", local->n_nodes, local->n_agents, local->dir);
    for (size_t i = 0; i < local->n_nodes; i++) {
        printf("  %s  %s\n", local->nodes[i].name, local->nodes[i].grpc);
    }
    printf("next: source %s/env; nodelink status\n", local->dir);
    printf("stop: nodelink local down --dir %s\n", local->dir);
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    struct nl_local local;
    (void)operands;
    int rc = check(cli, &o->plan);
    if (rc != NL_EXIT_OK) {
        return rc;
    }
    rc = nl_local_open(cli, o->dir, true, &local);
    if (rc == NL_EXIT_OK) {
        rc = prepare(cli, o, &local);
    }
    if (rc == NL_EXIT_OK) {
        rc = start_all(cli, &local, o->timeout_ms > 0 ? o->timeout_ms : UP_MS);
        if (rc != NL_EXIT_OK) {
            nl_local_stop_all(&local);
        }
        nl_local_refresh(&local);
        int saved = nl_local_save(cli, &local);
        rc = rc != NL_EXIT_OK ? rc : saved;
    }
    if (rc == NL_EXIT_OK) {
        print(cli, &local);
    }
    nl_local_close(&local);
    return rc;
}

const struct nl_command NL_CMD_LOCAL_UP = {
    .name = "local up",
    .operands = "",
    .summary = "start a cluster with agents on this machine, for trials and drills",
    .details =
        "Returns when there is a leader and all agents are connected; otherwise everything\n"
        "it started is stopped again. On a directory whose cluster is down it starts that\n"
        "one again, with its data. DIR/env is to be sourced, DIR/cluster.json is for\n"
        "scripts.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .local = true,
    .run = run,
};
