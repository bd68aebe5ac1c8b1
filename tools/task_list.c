#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tools/commands.h"
#include "tools/view.h"

enum { PAGE = 500, STATES_MAX = 16 };

struct options {
    const char *agent;
    struct nl_arg_list states;
    uint64_t limit;
};

static const struct nl_arg ARGS[] = {
    {"agent", 'a', NL_ARG_STRING, offsetof(struct options, agent), "ID", NULL,
     "tasks of this agent only"},
    {"state", 's', NL_ARG_LIST, offsetof(struct options, states), "STATE", NULL,
     "pending, dispatched, running, unknown, completed, failed, timed_out, cancelled"},
    {"limit", 'n', NL_ARG_U64, offsetof(struct options, limit), "N", "100",
     "at most so many, newest first; 0: all"},
    {0},
};

struct listing {
    json_t *json;  // with -o json
    struct nl_table table;
    uint64_t left;
};

static void add_tasks(struct listing *to, const Nodelink__V1__ListTasksReply *reply) {
    for (size_t i = 0; i < reply->n_tasks && to->left > 0; i++, to->left--) {
        if (to->json != NULL) {
            json_array_append_new(to->json, nl_json_task(reply->tasks[i], reply->header));
        } else {
            nl_task_row(&to->table, reply->tasks[i]);
        }
    }
}

// All pages. false: *ret_error says why.
static bool walk(struct nl_client *client, Nodelink__V1__ListTasksRequest *request,
                 const struct nl_client_call *call, struct listing *to,
                 struct nl_client_error *ret_error) {
    char *token = NULL;
    bool ok = true;
    bool more = true;
    while (ok && more) {
        ProtobufCMessage *message = NULL;
        request->limit = to->left < PAGE ? (uint32_t)to->left : PAGE;
        request->page_token = token != NULL ? token : (char *)"";
        ok = nl_client_wait(client, call, &message, ret_error);
        if (ok) {
            const Nodelink__V1__ListTasksReply *reply =
                (const Nodelink__V1__ListTasksReply *)message;
            add_tasks(to, reply);
            free(token);
            token = strdup(reply->next_page_token);
            more = to->left > 0 && token != NULL && *token != '\0';
        }
        nl_rpc_message_free(message);
    }
    free(token);
    return ok;
}

static int parse_states(const struct nl_cli *cli, const struct nl_arg_list *names,
                        Nodelink__V1__TaskState *states) {
    for (size_t i = 0; i < names->count && i < STATES_MAX; i++) {
        states[i] = nl_parse_task_state(names->items[i]);
        if (states[i] == NODELINK__V1__TASK_STATE__TASK_STATE_UNSPECIFIED) {
            return nl_cli_usage(cli, "--state %s: %s", names->items[i], ARGS[1].help);
        }
    }
    return NL_EXIT_OK;
}

static int list(struct nl_cli *cli, Nodelink__V1__ListTasksRequest *request, uint64_t limit) {
    struct listing to = {.left = limit > 0 ? limit : UINT64_MAX};
    struct nl_client *client = nl_cli_client(cli);
    struct nl_client_error error;
    if (client == NULL) {
        return NL_EXIT_FAILED;
    }
    if (cli->json) {
        to.json = json_array();
    }
    nl_table_init(&to.table, NL_TASK_TITLES);
    struct nl_client_call call = {
        .method = "ListTasks",
        .request = &request->base,
        .min_index = &request->read->min_index,
        .repeat = NL_CLIENT_READ,
        .timeout_ms = cli->timeout_ms,
    };
    bool ok = walk(client, request, &call, &to, &error);
    if (!ok) {
        nl_cli_fail_call(cli, &error, "list tasks");
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
    Nodelink__V1__TaskState states[STATES_MAX];
    Nodelink__V1__ListTasksRequest request = NODELINK__V1__LIST_TASKS_REQUEST__INIT;
    Nodelink__V1__ReadOptions read = NODELINK__V1__READ_OPTIONS__INIT;
    (void)operands;
    if (o->states.count > STATES_MAX) {
        return nl_cli_usage(cli, "too many --state");
    }
    if (parse_states(cli, &o->states, states) != NL_EXIT_OK) {
        return NL_EXIT_USAGE;
    }
    request.read = &read;
    request.agent_id = o->agent != NULL ? (char *)o->agent : (char *)"";
    request.states = states;
    request.n_states = o->states.count;
    return list(cli, &request, o->limit);
}

const struct nl_command NL_CMD_TASK_LIST = {
    .name = "task list",
    .alias = "task ls,tasks",
    .operands = "",
    .summary = "tasks, newest first",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .run = run,
};
