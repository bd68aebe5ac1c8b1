// `local kill|pause|resume`: SIGKILL, SIGSTOP, SIGCONT to one part.
#include <signal.h>
#include <stdio.h>

#include "common/base/err.h"
#include "tools/commands.h"
#include "tools/local/local.h"

enum { GONE_TRIES = 500, GONE_PAUSE_MS = 10, NAMES_MAX = 64 };

static const struct nl_arg ARGS[] = {
    {"dir", 0, NL_ARG_STRING, offsetof(struct nl_local_dir_options, dir), "DIR", NULL,
     "the cluster's directory"},
    {"supervisor", 0, NL_ARG_BOOL, offsetof(struct nl_local_dir_options, supervisor), NULL, NULL,
     "of an agent: its supervisor, not its link"},
    {0},
};

static const struct nl_process *find(const struct nl_cli *cli, struct nl_local *local,
                                     const char *name, bool supervisor) {
    const struct nl_local_node *node = nl_local_node_by_name(local, name);
    const struct nl_local_agent *agent = nl_local_agent_by_id(local, name);
    if (node != NULL && supervisor) {
        nl_cli_usage(cli, "%s is a node; only agents have a supervisor", name);
        return NULL;
    }
    if (node != NULL) {
        return &node->process;
    }
    if (agent != NULL) {
        return supervisor ? &agent->supervisor : &agent->link;
    }
    nl_cli_usage(cli, "no '%s' in %s; nodelink local status --dir %s lists the names", name,
                 local->dir, local->dir);
    return NULL;
}

// kill -9 is asynchronous: what follows may rely on the process being gone.
static void wait_gone(const struct nl_process *process) {
    for (int i = 0; i < GONE_TRIES && nl_process_state(process) != NL_PROCESS_GONE; i++) {
        nl_cli_pause_ms(GONE_PAUSE_MS);
    }
}

static int signal_one(const struct nl_cli *cli, struct nl_local *local, const char *name,
                      bool supervisor, int number) {
    const struct nl_process *process = find(cli, local, name, supervisor);
    if (process == NULL) {
        return NL_EXIT_USAGE;
    }
    int rc = nl_process_signal(process, number);
    if (rc != NL_OK) {
        nl_cli_fail(cli,
                    &(struct nl_failure){.code = "FAILED_PRECONDITION",
                                         .outcome = "failed",
                                         .next = "nodelink local start NAME starts it"},
                    rc == NL_ENOTFOUND ? "%s%s does not run" : "%s%s: no permission to signal it",
                    name, supervisor ? "'s supervisor" : "");
        return NL_EXIT_FAILED;
    }
    if (number == SIGKILL) {
        wait_gone(process);
    }
    return NL_EXIT_OK;
}

static int signal_all(struct nl_cli *cli, const struct nl_operands *operands, const void *options,
                      int number, const char *done) {
    const struct nl_local_dir_options *o = options;
    struct nl_local local;
    int rc = nl_local_open_existing(cli, o->dir, &local);
    for (size_t i = 0; i < operands->count && rc == NL_EXIT_OK; i++) {
        rc = signal_one(cli, &local, operands->items[i], o->supervisor, number);
        if (rc == NL_EXIT_OK && cli->json) {
            nl_cli_print_json(json_pack("{s:s, s:s}", "name", operands->items[i], "done", done));
        } else if (rc == NL_EXIT_OK) {
            printf("%s%s %s\n", operands->items[i], o->supervisor ? "'s supervisor" : "", done);
        }
    }
    nl_local_close(&local);
    return rc;
}

static int run_kill(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    return signal_all(cli, operands, options, SIGKILL, "killed");
}

static int run_pause(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    return signal_all(cli, operands, options, SIGSTOP, "paused");
}

static int run_resume(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    return signal_all(cli, operands, options, SIGCONT, "resumed");
}

const struct nl_command NL_CMD_LOCAL_KILL = {
    .name = "local kill",
    .operands = "NAME [NAME...]",
    .summary = "kill -9 a node, or an agent's link (--supervisor: its supervisor)",
    .args = ARGS,
    .options_size = sizeof(struct nl_local_dir_options),
    .min = 1,
    .max = NAMES_MAX,
    .local = true,
    .run = run_kill,
};

const struct nl_command NL_CMD_LOCAL_PAUSE = {
    .name = "local pause",
    .operands = "NAME [NAME...]",
    .summary = "stop a process where it stands (SIGSTOP)",
    .args = ARGS,
    .options_size = sizeof(struct nl_local_dir_options),
    .min = 1,
    .max = NAMES_MAX,
    .local = true,
    .run = run_pause,
};

const struct nl_command NL_CMD_LOCAL_RESUME = {
    .name = "local resume",
    .operands = "NAME [NAME...]",
    .summary = "let a paused process go on (SIGCONT)",
    .args = ARGS,
    .options_size = sizeof(struct nl_local_dir_options),
    .min = 1,
    .max = NAMES_MAX,
    .local = true,
    .run = run_resume,
};
