#include <stdio.h>
#include <sys/stat.h>

#include "tools/commands.h"
#include "tools/local/local.h"

static const struct nl_arg ARGS[] = {
    {"dir", 0, NL_ARG_STRING, offsetof(struct nl_local_dir_options, dir), "DIR", NULL,
     "the cluster's directory"},
    {0},
};

static int stop(struct nl_cli *cli, struct nl_local *local) {
    int rc = nl_local_load(cli, local);
    if (rc != NL_EXIT_OK) {
        return rc;
    }
    nl_local_refresh(local);
    bool ran = nl_local_any_alive(local);
    nl_local_stop_all(local);
    if (nl_local_any_alive(local)) {
        nl_cli_fail(cli, &(struct nl_failure){.code = "INTERNAL", .outcome = "unknown"},
                    "some processes of %s did not end, even after SIGKILL", local->dir);
        return NL_EXIT_FAILED;
    }
    if (cli->json) {
        nl_cli_print_json(json_pack("{s:s, s:b}", "dir", local->dir, "ran", (int)ran));
    } else {
        printf(ran ? "the cluster in %s is down; its data is kept\n" : "nothing runs in %s\n",
               local->dir);
    }
    return NL_EXIT_OK;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct nl_local_dir_options *o = options;
    struct nl_local local;
    struct stat st;
    (void)operands;
    if (o->dir != NULL && stat(o->dir, &st) != 0) {
        return NL_EXIT_OK;  // down is down
    }
    int rc = nl_local_open(cli, o->dir, false, &local);
    if (rc == NL_EXIT_OK && nl_local_exists(&local)) {
        rc = stop(cli, &local);
    }
    nl_local_close(&local);
    return rc;
}

const struct nl_command NL_CMD_LOCAL_DOWN = {
    .name = "local down",
    .operands = "",
    .summary = "end all processes of a local cluster, the tasks too; its data is kept",
    .args = ARGS,
    .options_size = sizeof(struct nl_local_dir_options),
    .local = true,
    .run = run,
};
