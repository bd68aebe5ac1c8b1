#include <stdio.h>

#include "tools/commands.h"
#include "tools/local/local.h"

enum { NAMES_MAX = 64 };

static const struct nl_arg ARGS[] = {
    {"dir", 0, NL_ARG_STRING, offsetof(struct nl_local_dir_options, dir), "DIR", NULL,
     "the cluster's directory"},
    {0},
};

static int refuse_running(const struct nl_cli *cli, const char *name) {
    nl_cli_fail(cli,
                &(struct nl_failure){.code = "FAILED_PRECONDITION",
                                     .outcome = "failed",
                                     .next = "nodelink local resume NAME, if it is paused"},
                "%s runs already", name);
    return NL_EXIT_FAILED;
}

static int start_one(const struct nl_cli *cli, struct nl_local *local, const char *name) {
    struct nl_local_node *node = nl_local_node_by_name(local, name);
    struct nl_local_agent *agent = nl_local_agent_by_id(local, name);
    if (node == NULL && agent == NULL) {
        return nl_cli_usage(cli, "no '%s' in %s; nodelink local status --dir %s lists the names",
                            name, local->dir, local->dir);
    }
    const struct nl_process *process = node != NULL ? &node->process : &agent->link;
    if (nl_process_state(process) != NL_PROCESS_GONE) {
        return refuse_running(cli, name);
    }
    int rc = node != NULL ? nl_local_start_node(cli, local, node)
                          : nl_local_start_agent(cli, local, agent);
    if (rc == NL_EXIT_OK && cli->json) {
        nl_cli_print_json(json_pack("{s:s, s:i}", "name", name, "pid", (int)process->pid));
    } else if (rc == NL_EXIT_OK) {
        printf("%s started, pid %d\n", name, (int)process->pid);
    }
    return rc;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct nl_local_dir_options *o = options;
    struct nl_local local;
    int rc = nl_local_open_existing(cli, o->dir, &local);
    bool loaded = rc == NL_EXIT_OK;
    for (size_t i = 0; i < operands->count && rc == NL_EXIT_OK; i++) {
        rc = start_one(cli, &local, operands->items[i]);
    }
    if (loaded) {
        int saved = nl_local_save(cli, &local);
        rc = rc != NL_EXIT_OK ? rc : saved;
    }
    nl_local_close(&local);
    return rc;
}

const struct nl_command NL_CMD_LOCAL_START = {
    .name = "local start",
    .operands = "NAME [NAME...]",
    .summary = "start a node or an agent that does not run, with its data",
    .details = "Returns at once; nodelink status --wait healthy waits until it is back.\n",
    .args = ARGS,
    .options_size = sizeof(struct nl_local_dir_options),
    .min = 1,
    .max = NAMES_MAX,
    .local = true,
    .run = run,
};
