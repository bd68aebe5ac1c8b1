#include "common/base/err.h"
#include "tools/agents.h"
#include "tools/commands.h"

struct options {
    struct nl_arg_list labels;
    uint64_t limit;
};

static const struct nl_arg ARGS[] = {
    {"label", 'l', NL_ARG_LIST, offsetof(struct options, labels), "KEY=VALUE", NULL,
     "agents with this label only"},
    {"limit", 'n', NL_ARG_U64, offsetof(struct options, limit), "N", "0",
     "at most so many; 0: all"},
    {0},
};

struct listing {
    json_t *json;
    struct nl_table table;
};

static int add(void *user, const Nodelink__V1__Agent *agent) {
    struct listing *to = user;
    if (to->json != NULL) {
        return json_array_append_new(to->json, nl_json_agent(agent)) == 0 ? NL_OK : NL_ENOMEM;
    }
    nl_agent_row(&to->table, agent);
    return NL_OK;
}

static int list(struct nl_cli *cli, const struct nl_labels *labels, uint64_t limit) {
    struct listing to = {.json = cli->json ? json_array() : NULL};
    struct nl_client *client = nl_cli_client(cli);
    struct nl_client_error error;
    if (client == NULL) {
        return NL_EXIT_FAILED;
    }
    nl_table_init(&to.table, NL_AGENT_TITLES);
    bool ok = nl_agents_each(client, labels, limit, cli->timeout_ms, add, &to, &error);
    if (!ok) {
        nl_cli_fail_call(cli, &error, "list agents");
        json_decref(to.json);
    } else if (cli->json) {
        nl_cli_print_json(to.json);
    } else {
        nl_table_print(&to.table, stdout);
    }
    nl_table_close(&to.table);
    nl_client_free(client);
    return ok ? NL_EXIT_OK : error.unreachable ? NL_EXIT_UNREACHABLE : NL_EXIT_FAILED;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    struct nl_labels labels;
    const char *bad = "";
    (void)operands;
    int rc = nl_labels_parse(o->labels.items, o->labels.count, &labels, &bad);
    if (rc == NL_OK) {
        rc = list(cli, &labels, o->limit);
    } else {
        rc = nl_cli_usage(cli, "--label %s is not KEY=VALUE", bad);
    }
    nl_labels_close(&labels);
    return rc;
}

const struct nl_command NL_CMD_AGENT_LIST = {
    .name = "agent list",
    .alias = "agent ls,agents",
    .operands = "",
    .summary = "agents, sorted by id",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .run = run,
};
