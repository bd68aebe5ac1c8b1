#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "tools/commands.h"
#include "tools/overview.h"

enum { PROBE_MS = 1500, WAIT_MS = 60000, AGAIN_MS = 200 };

struct options {
    const char *wait;
    uint64_t timeout_ms;
    uint64_t interval_ms;
    bool watch;
};

static const struct nl_arg ARGS[] = {
    {"wait", 0, NL_ARG_STRING, offsetof(struct options, wait), "healthy|quorum", NULL,
     "wait until the cluster is healthy, or has at least a quorum"},
    {"timeout", 0, NL_ARG_DURATION, offsetof(struct options, timeout_ms), "DURATION", NULL,
     "with --wait: how long (default 60s); else how long each node may take (1.5s)"},
    {"watch", 'w', NL_ARG_BOOL, offsetof(struct options, watch), NULL, NULL,
     "again and again, until Ctrl-C"},
    {"interval", 0, NL_ARG_DURATION, offsetof(struct options, interval_ms), "DURATION", "1s",
     "with --watch: how often"},
    {0},
};

struct look {
    struct nl_probes probes;
    struct nl_overview overview;
};

// The leader says that it leads; whether it still does only a linearizable read proves.
static void prove(struct nl_client *client, struct nl_overview *o, uint64_t timeout_ms) {
    Nodelink__V1__ListAgentsRequest request = NODELINK__V1__LIST_AGENTS_REQUEST__INIT;
    struct nl_client_error error;
    ProtobufCMessage *reply = NULL;
    request.limit = 1;
    if (o->health == NL_NO_QUORUM || o->health == NL_UNREACHABLE) {
        return;
    }
    struct nl_client_call call = {
        .method = "ListAgents",
        .request = &request.base,
        .repeat = NL_CLIENT_READ,
        .timeout_ms = timeout_ms,
        .only = o->view->grpc_address,
    };
    o->linearizable = nl_client_wait(client, &call, &reply, &error);
    if (!o->linearizable) {
        nl_overview_read_failed(o, error.text);
    }
    nl_rpc_message_free(reply);
}

static int look(const struct nl_cli *cli, struct nl_client *client, uint64_t timeout_ms,
                struct look *ret) {
    int rc = nl_probes_run(client, &cli->target, !cli->one_node, timeout_ms, &ret->probes);
    nl_overview_make(&ret->probes, cli->one_node, &ret->overview);
    prove(client, &ret->overview, timeout_ms);
    ret->overview.now_ms = nl_clock_wall_ms();
    return rc;
}

static int print(const struct nl_cli *cli, const struct look *l) {
    const struct nl_overview *o = &l->overview;
    if (o->health != NL_UNREACHABLE) {
        if (cli->json) {
            nl_cli_print_json(nl_overview_json(o));
        } else {
            nl_overview_print(o, cli->color, stdout);
        }
        return nl_health_exit(o->health);
    }
    for (size_t i = 0; i < l->probes.count; i++) {
        char what[192];
        snprintf(what, sizeof what, "ask %s for its status", l->probes.items[i].address);
        nl_cli_fail_call(cli, &l->probes.items[i].error, what);
    }
    return nl_health_exit(o->health);
}

static int watch(const struct nl_cli *cli, struct nl_client *client, uint64_t interval_ms) {
    for (;;) {
        struct look l = {0};
        look(cli, client, PROBE_MS, &l);
        if (cli->color) {
            fputs("\033[H\033[2J", stdout);
        }
        print(cli, &l);
        if (fflush(stdout) != 0) {
            return NL_EXIT_FAILED;
        }
        nl_probes_close(&l.probes);
        nl_cli_pause_ms(interval_ms);
    }
}

static bool good_enough(const struct options *o, enum nl_health health) {
    return health == NL_HEALTHY ||
           (health == NL_DEGRADED && o->wait != NULL && strcmp(o->wait, "quorum") == 0);
}

static int look_until(const struct nl_cli *cli, struct nl_client *client, const struct options *o) {
    bool waiting = o->wait != NULL;
    uint64_t limit = o->timeout_ms > 0 ? o->timeout_ms : waiting ? WAIT_MS : PROBE_MS;
    uint64_t deadline = nl_clock_mono_ms() + limit;
    for (;;) {
        struct look l = {0};
        look(cli, client, waiting && limit > PROBE_MS ? PROBE_MS : limit, &l);
        bool over = !waiting || good_enough(o, l.overview.health) ||
                    nl_clock_mono_ms() + AGAIN_MS >= deadline;
        int rc = over ? print(cli, &l) : 0;
        if (over && waiting && good_enough(o, l.overview.health)) {
            rc = NL_EXIT_OK;
        }
        nl_probes_close(&l.probes);
        if (over) {
            return rc;
        }
        nl_cli_pause_ms(AGAIN_MS);
    }
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    struct nl_client *client = nl_cli_client(cli);
    (void)operands;
    if (client == NULL) {
        return NL_EXIT_FAILED;
    }
    int rc = o->watch ? watch(cli, client, o->interval_ms) : look_until(cli, client, o);
    nl_client_free(client);
    return rc;
}

const struct nl_command NL_CMD_STATUS = {
    .name = "status",
    .operands = "",
    .summary = "the cluster's health, asking every node itself",
    .details =
        "Works without a quorum. Asks the nodes given and those that they name; --addr with\n"
        "one node asks that one only. Exit code: 0 healthy, 1 degraded, 2 no quorum,\n"
        "3 no node reachable.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .run = run,
};
