#include <stdio.h>

#include "tools/commands.h"
#include "tools/format.h"
#include "tools/local/local.h"

static const struct nl_arg ARGS[] = {
    {"dir", 0, NL_ARG_STRING, offsetof(struct nl_local_dir_options, dir), "DIR", NULL,
     "the cluster's directory"},
    {0},
};

static const char *state_name(const struct nl_process *process) {
    static const char *const NAMES[] = {"stopped", "running", "paused"};
    return NAMES[nl_process_state(process)];
}

static json_t *pid_json(const struct nl_process *process) {
    return nl_process_state(process) != NL_PROCESS_GONE ? json_integer(process->pid) : json_null();
}

static json_t *to_json(const struct nl_local *local) {
    json_t *nodes = json_array(), *agents = json_array();
    for (size_t i = 0; i < local->n_nodes; i++) {
        const struct nl_local_node *node = &local->nodes[i];
        json_array_append_new(nodes, json_pack("{s:s, s:s, s:o, s:s}", "name", node->name, "state",
                                               state_name(&node->process), "pid",
                                               pid_json(&node->process), "grpc", node->grpc));
    }
    for (size_t i = 0; i < local->n_agents; i++) {
        const struct nl_local_agent *agent = &local->agents[i];
        json_array_append_new(
            agents, json_pack("{s:s, s:s, s:o, s:s, s:o}", "id", agent->id, "state",
                              state_name(&agent->link), "pid", pid_json(&agent->link),
                              "supervisor_state", state_name(&agent->supervisor), "supervisor_pid",
                              pid_json(&agent->supervisor)));
    }
    return json_pack("{s:s, s:o, s:o}", "dir", local->dir, "nodes", nodes, "agents", agents);
}

static void add(struct nl_table *table, const char *name, const char *kind,
                const struct nl_process *process, const char *address) {
    nl_table_add(table, "%s", name);
    nl_table_add(table, "%s", kind);
    nl_table_add(table, "%s", state_name(process));
    if (nl_process_state(process) != NL_PROCESS_GONE) {
        nl_table_add(table, "%d", (int)process->pid);
    } else {
        nl_table_add(table, "-");
    }
    nl_table_add(table, "%s", address);
}

static void print(const struct nl_local *local) {
    static const char *const TITLES[] = {"NAME", "KIND", "STATE", "PID", "ADDR", NULL};
    struct nl_table table;
    nl_table_init(&table, TITLES);
    for (size_t i = 0; i < local->n_nodes; i++) {
        add(&table, local->nodes[i].name, "node", &local->nodes[i].process, local->nodes[i].grpc);
    }
    for (size_t i = 0; i < local->n_agents; i++) {
        add(&table, local->agents[i].id, "link", &local->agents[i].link, "");
        add(&table, local->agents[i].id, "supervisor", &local->agents[i].supervisor, "");
    }
    nl_table_print(&table, stdout);
    nl_table_close(&table);
}

static bool all_run(const struct nl_local *local) {
    bool ok = true;
    for (size_t i = 0; i < local->n_nodes; i++) {
        ok = ok && nl_process_state(&local->nodes[i].process) == NL_PROCESS_RUNNING;
    }
    for (size_t i = 0; i < local->n_agents; i++) {
        ok = ok && nl_process_state(&local->agents[i].link) == NL_PROCESS_RUNNING;
    }
    return ok;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct nl_local_dir_options *o = options;
    struct nl_local local;
    (void)operands;
    int rc = nl_local_open_existing(cli, o->dir, &local);
    if (rc == NL_EXIT_OK && cli->json) {
        nl_cli_print_json(to_json(&local));
    } else if (rc == NL_EXIT_OK) {
        print(&local);
    }
    if (rc == NL_EXIT_OK && !all_run(&local)) {
        rc = NL_EXIT_FAILED;
    }
    nl_local_close(&local);
    return rc;
}

const struct nl_command NL_CMD_LOCAL_STATUS = {
    .name = "local status",
    .operands = "",
    .summary = "the processes of a local cluster; exit code 1 if one does not run",
    .args = ARGS,
    .options_size = sizeof(struct nl_local_dir_options),
    .local = true,
    .run = run,
};
