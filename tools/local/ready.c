#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/text.h"
#include "tools/agents.h"
#include "tools/local/local.h"
#include "tools/overview.h"

enum { PROBE_MS = 1500, POLL_MS = 50, TOKEN_MS = 15000 };

int nl_local_target(const struct nl_cli *cli, const struct nl_local *local,
                    struct nl_client_target *ret) {
    char path[NL_LOCAL_PATH];
    char error[256];
    *ret = (struct nl_client_target){0};
    for (size_t i = 0; i < local->n_nodes; i++) {
        if (nl_client_parse_addresses(local->nodes[i].grpc, ret, error, sizeof error) != NL_OK) {
            return nl_cli_usage(cli, "%s: %s", local->nodes[i].name, error);
        }
    }
    int rc = nl_local_path(path, local->dir, "admin-token") ? nl_fs_read_secret(path, &ret->token)
                                                            : NL_ETOOBIG;
    return rc == NL_OK ? NL_EXIT_OK : nl_cli_usage(cli, "can't read %s: %s", path, nl_strerror(rc));
}

// ---- nodes -----------------------------------------------------------------

static int fail_node(const struct nl_cli *cli, const struct nl_local_node *node, const char *what) {
    char log[NL_LOCAL_PATH];
    nl_cli_fail(cli, &(struct nl_failure){.code = "UNAVAILABLE", .outcome = "failed"}, "%s %s",
                node->name, what);
    nl_local_node_log(node, log);
    nl_local_print_log(node->name, log);
    return NL_EXIT_FAILED;
}

static const struct nl_local_node *dead_node(const struct nl_local *local) {
    for (size_t i = 0; i < local->n_nodes; i++) {
        if (nl_process_state(&local->nodes[i].process) == NL_PROCESS_GONE) {
            return &local->nodes[i];
        }
    }
    return NULL;
}

static bool nodes_ready(const struct nl_local *local, struct nl_client *client,
                        const struct nl_client_target *target, uint64_t *ret_silent) {
    struct nl_probes probes;
    struct nl_overview overview;
    nl_probes_run(client, target, false, PROBE_MS, &probes);
    nl_overview_make(&probes, false, &overview);
    bool ok = overview.health == NL_HEALTHY && overview.leader != NULL;
    *ret_silent = 0;
    for (size_t i = 0; i < probes.count && i < local->n_nodes; i++) {
        if (probes.items[i].reply == NULL) {
            *ret_silent = i + 1;
        }
    }
    nl_probes_close(&probes);
    return ok;
}

static int wait_nodes(const struct nl_cli *cli, const struct nl_local *local,
                      const struct nl_client_target *target, uint64_t timeout_ms) {
    uint64_t deadline = nl_clock_mono_ms() + timeout_ms;
    struct nl_client *client = nl_client_new(target);
    int rc = client != NULL ? NL_EXIT_OK : nl_cli_usage(cli, "out of memory");
    for (uint64_t silent = 0; rc == NL_EXIT_OK;) {
        const struct nl_local_node *dead = dead_node(local);
        if (dead != NULL) {
            rc = fail_node(cli, dead, "ended right after its start");
        } else if (nodes_ready(local, client, target, &silent)) {
            break;
        } else if (nl_clock_mono_ms() >= deadline) {
            rc = fail_node(cli, &local->nodes[silent > 0 ? silent - 1 : 0],
                           silent > 0 ? "does not answer in time" : "saw no leader in time");
        } else {
            nl_cli_pause_ms(POLL_MS);
        }
    }
    nl_client_free(client);
    return rc;
}

int nl_local_wait_nodes(const struct nl_cli *cli, struct nl_local *local, uint64_t timeout_ms) {
    struct nl_client_target target;
    int rc = nl_local_target(cli, local, &target);
    if (rc == NL_EXIT_OK) {
        rc = wait_nodes(cli, local, &target, timeout_ms);
    }
    nl_client_target_close(&target);
    return rc;
}

// ---- tokens ----------------------------------------------------------------

static int make_token(const struct nl_cli *cli, struct nl_client *client,
                      const struct nl_local_agent *agent) {
    Nodelink__V1__CreateAgentTokenRequest request = NODELINK__V1__CREATE_AGENT_TOKEN_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    struct nl_client_error error;
    request.agent_id = (char *)agent->id;
    struct nl_client_call call = {
        .method = "CreateAgentToken",
        .request = &request.base,
        .repeat = NL_CLIENT_ONCE,
        .timeout_ms = TOKEN_MS,
    };
    if (!nl_client_wait(client, &call, &message, &error)) {
        nl_cli_fail_call(cli, &error, "create an agent's token");
        return NL_EXIT_FAILED;
    }
    const Nodelink__V1__CreateAgentTokenReply *reply =
        (const Nodelink__V1__CreateAgentTokenReply *)message;
    int rc = nl_local_write(cli, agent->token_file, reply->token);
    nl_rpc_message_free(message);
    return rc;
}

static bool has_token(const struct nl_local_agent *agent) {
    char *token = NULL;
    bool ok = nl_fs_read_secret(agent->token_file, &token) == NL_OK;
    free(token);
    return ok;
}

int nl_local_make_tokens(const struct nl_cli *cli, struct nl_local *local) {
    struct nl_client_target target;
    int rc = nl_local_target(cli, local, &target);
    struct nl_client *client = rc == NL_EXIT_OK ? nl_client_new(&target) : NULL;
    if (rc == NL_EXIT_OK && client == NULL) {
        rc = nl_cli_usage(cli, "out of memory");
    }
    for (size_t i = 0; i < local->n_agents && rc == NL_EXIT_OK; i++) {
        if (!has_token(&local->agents[i])) {
            rc = make_token(cli, client, &local->agents[i]);
        }
    }
    nl_client_free(client);
    nl_client_target_close(&target);
    return rc;
}

// ---- agents ----------------------------------------------------------------

struct fleet {
    struct nl_local *local;
    bool *connected;  // per agent of local
};

static int note_agent(void *user, const Nodelink__V1__Agent *agent) {
    struct fleet *fleet = user;
    struct nl_local_agent *ours = nl_local_agent_by_id(fleet->local, agent->id);
    if (ours != NULL) {
        fleet->connected[ours - fleet->local->agents] =
            agent->connection == NODELINK__V1__AGENT_CONNECTION__AGENT_CONNECTED;
    }
    return NL_OK;
}

static int fail_agent(const struct nl_cli *cli, const struct nl_local_agent *agent,
                      const char *what) {
    char log[NL_LOCAL_PATH];
    nl_cli_fail(cli, &(struct nl_failure){.code = "UNAVAILABLE", .outcome = "failed"},
                "agent %s %s", agent->id, what);
    nl_local_agent_log(agent, log);
    nl_local_print_log(agent->id, log);
    return NL_EXIT_FAILED;
}

static const struct nl_local_agent *missing_agent(const struct fleet *fleet) {
    for (size_t i = 0; i < fleet->local->n_agents; i++) {
        if (!fleet->connected[i]) {
            return &fleet->local->agents[i];
        }
    }
    return NULL;
}

static int wait_agents(const struct nl_cli *cli, struct fleet *fleet, struct nl_client *client,
                       uint64_t timeout_ms) {
    static const struct nl_labels ANY = {0};
    uint64_t deadline = nl_clock_mono_ms() + timeout_ms;
    struct nl_client_error error;
    for (;;) {
        bool listed = nl_agents_each(client, &ANY, 0, 0, note_agent, fleet, &error);
        const struct nl_local_agent *missing = missing_agent(fleet);
        if (listed && missing == NULL) {
            return NL_EXIT_OK;
        }
        nl_local_refresh(fleet->local);
        if (missing != NULL && nl_process_state(&missing->link) == NL_PROCESS_GONE) {
            return fail_agent(cli, missing, "ended right after its start");
        }
        if (nl_clock_mono_ms() >= deadline) {
            return missing != NULL ? fail_agent(cli, missing, "did not connect in time")
                                   : (nl_cli_fail_call(cli, &error, "list agents"), NL_EXIT_FAILED);
        }
        nl_cli_pause_ms(POLL_MS);
    }
}

int nl_local_wait_agents(const struct nl_cli *cli, struct nl_local *local, uint64_t timeout_ms) {
    struct nl_client_target target;
    struct fleet fleet = {local, calloc(local->n_agents + 1, sizeof(bool))};
    int rc = nl_local_target(cli, local, &target);
    struct nl_client *client = rc == NL_EXIT_OK ? nl_client_new(&target) : NULL;
    if (rc == NL_EXIT_OK && (client == NULL || fleet.connected == NULL)) {
        rc = nl_cli_usage(cli, "out of memory");
    }
    if (rc == NL_EXIT_OK) {
        rc = wait_agents(cli, &fleet, client, timeout_ms);
    }
    nl_client_free(client);
    nl_client_target_close(&target);
    free(fleet.connected);
    return rc;
}
