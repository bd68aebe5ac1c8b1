// `cluster verify`: replicas at the same applied index hold the same state (P12).
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "tools/commands.h"
#include "tools/probe.h"

// Under load no two nodes are at the same index at the same moment, so samples are kept and an
// index is looked for that all have passed through.
enum {
    PROBE_MS = 1500,
    AGAIN_MS = 50,
    NODES = 16,
    SAMPLES = 512,
    HASH_LEN = 16,  // GetStatusReply.state_hash
    HEX = 2 * HASH_LEN + 1,
};

struct options {
    uint64_t timeout_ms;
    bool partial;
};

static const struct nl_arg ARGS[] = {
    {"timeout", 0, NL_ARG_DURATION, offsetof(struct options, timeout_ms), "DURATION", "15s",
     "how long to look for an index that all nodes were seen at"},
    {"partial", 0, NL_ARG_BOOL, offsetof(struct options, partial), NULL, NULL,
     "compare the nodes that answer, even if some don't"},
    {0},
};

struct sample {
    uint64_t index;
    uint8_t hash[HASH_LEN];
};

struct node {
    uint64_t id;
    char name[64];
    struct sample *samples;  // ring of SAMPLES, owned
    size_t n;                // so many were taken in all
    bool answering;
};

struct search {
    struct node nodes[NODES];
    size_t n_nodes;
    size_t silent;                      // members that don't answer
    char who[256];                      // their names
    const struct sample *found[NODES];  // of each answering node, at the same index
};

static struct node *node_of(struct search *s, const Nodelink__V1__GetStatusReply *reply) {
    for (size_t i = 0; i < s->n_nodes; i++) {
        if (s->nodes[i].id == reply->node_id) {
            return &s->nodes[i];
        }
    }
    if (s->n_nodes == NODES) {
        return NULL;
    }
    struct node *node = &s->nodes[s->n_nodes];
    *node = (struct node){.id = reply->node_id, .samples = calloc(SAMPLES, sizeof(struct sample))};
    snprintf(node->name, sizeof node->name, "%s", reply->name);
    return node->samples != NULL ? &s->nodes[s->n_nodes++] : NULL;
}

static const struct sample *sample_at(const struct node *node, uint64_t index) {
    for (size_t i = 0; i < node->n && i < SAMPLES; i++) {
        if (node->samples[i].index == index) {
            return &node->samples[i];
        }
    }
    return NULL;
}

static void take_sample(struct search *s, const Nodelink__V1__GetStatusReply *reply) {
    struct node *node = node_of(s, reply);
    if (node == NULL || reply->state_hash.len != HASH_LEN) {
        return;
    }
    node->answering = true;
    if (sample_at(node, reply->applied) == NULL) {
        struct sample *sample = &node->samples[node->n++ % SAMPLES];
        sample->index = reply->applied;
        memcpy(sample->hash, reply->state_hash.data, HASH_LEN);
    }
}

static void take_round(struct search *s, const struct nl_probes *probes) {
    s->silent = 0;
    s->who[0] = '\0';
    for (size_t i = 0; i < s->n_nodes; i++) {
        s->nodes[i].answering = false;
    }
    for (size_t i = 0; i < probes->count; i++) {
        const struct nl_probe *probe = &probes->items[i];
        if (probe->reply != NULL) {
            take_sample(s, probe->reply);
        } else {
            size_t at = strlen(s->who);
            snprintf(s->who + at, sizeof s->who - at, "%s%s", at > 0 ? ", " : "", probe->address);
            s->silent++;
        }
    }
}

// An index at which every answering node was seen, the newest of the first one's.
static bool find_common(struct search *s) {
    const struct node *first = NULL;
    size_t answering = 0;
    for (size_t i = 0; i < s->n_nodes; i++) {
        answering += s->nodes[i].answering;
        first = first == NULL && s->nodes[i].answering ? &s->nodes[i] : first;
    }
    if (answering < 2) {
        return false;
    }
    size_t oldest = first->n > SAMPLES ? first->n - SAMPLES : 0;
    for (size_t k = first->n; k > oldest; k--) {
        uint64_t index = first->samples[(k - 1) % SAMPLES].index;
        bool all = true;
        for (size_t i = 0; i < s->n_nodes && all; i++) {
            s->found[i] = s->nodes[i].answering ? sample_at(&s->nodes[i], index) : NULL;
            all = !s->nodes[i].answering || s->found[i] != NULL;
        }
        if (all) {
            return true;
        }
    }
    return false;
}

static int print(const struct nl_cli *cli, const struct search *s) {
    const struct sample *reference = NULL;
    json_t *nodes = json_array();
    bool equal = true;
    for (size_t i = 0; i < s->n_nodes; i++) {
        char hex[HEX];
        const struct sample *sample = s->found[i];
        if (sample == NULL) {
            continue;
        }
        reference = reference != NULL ? reference : sample;
        bool same = memcmp(sample->hash, reference->hash, HASH_LEN) == 0;
        equal = equal && same;
        nl_hex_encode(sample->hash, HASH_LEN, hex);
        json_array_append_new(nodes, json_pack("{s:s, s:I, s:s}", "name", s->nodes[i].name, "id",
                                               (json_int_t)s->nodes[i].id, "state_hash", hex));
        if (!cli->json) {
            printf("%-8s index %" PRIu64 "  %s\n", s->nodes[i].name, sample->index, hex);
        }
    }
    if (cli->json) {
        nl_cli_print_json(json_pack("{s:b, s:I, s:o, s:s?}", "equal", (int)equal, "index",
                                    (json_int_t)(reference != NULL ? reference->index : 0), "nodes",
                                    nodes, "not_compared", s->silent > 0 ? s->who : NULL));
        return equal ? NL_EXIT_OK : NL_EXIT_FAILED;
    }
    json_decref(nodes);
    puts(equal ? "equal" : "DIFFERENT: stop the node that differs from the rest and keep its data");
    return equal ? NL_EXIT_OK : NL_EXIT_FAILED;
}

static bool differs(const struct search *s) {
    const struct sample *reference = NULL;
    for (size_t i = 0; i < s->n_nodes; i++) {
        if (s->found[i] != NULL && reference == NULL) {
            reference = s->found[i];
        } else if (s->found[i] != NULL &&
                   memcmp(s->found[i]->hash, reference->hash, HASH_LEN) != 0) {
            return true;
        }
    }
    return false;
}

static int give_up(const struct nl_cli *cli, const struct search *s) {
    struct nl_failure failure = {.code = "UNAVAILABLE",
                                 .outcome = "failed",
                                 .next = s->silent > 0
                                             ? "start them, or compare the rest with --partial"
                                             : "try again with a longer --timeout"};
    if (s->silent > 0) {
        nl_cli_fail(cli, &failure, "not compared: no answer from %s", s->who);
    } else {
        nl_cli_fail(cli, &failure, "not compared: the nodes were never seen at the same index");
    }
    return NL_EXIT_UNREACHABLE;
}

static int search(const struct nl_cli *cli, struct nl_client *client, const struct options *o,
                  struct search *s) {
    uint64_t deadline = nl_clock_mono_ms() + o->timeout_ms;
    for (;;) {
        struct nl_probes probes;
        nl_probes_run(client, &cli->target, true, PROBE_MS, &probes);
        take_round(s, &probes);
        nl_probes_close(&probes);
        // A difference is one whoever else is missing.
        if (find_common(s) && (s->silent == 0 || o->partial || differs(s))) {
            return print(cli, s);
        }
        if (nl_clock_mono_ms() >= deadline) {
            return give_up(cli, s);
        }
        nl_cli_pause_ms(AGAIN_MS);
    }
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    struct search s = {0};
    struct nl_client *client = nl_cli_client(cli);
    (void)operands;
    if (client == NULL) {
        return NL_EXIT_FAILED;
    }
    int rc = search(cli, client, options, &s);
    nl_client_free(client);
    for (size_t i = 0; i < s.n_nodes; i++) {
        free(s.nodes[i].samples);
    }
    return rc;
}

const struct nl_command NL_CMD_CLUSTER_VERIFY = {
    .name = "cluster verify",
    .operands = "",
    .summary = "compare the state of all nodes at the same index",
    .details = "Exit code: 0 equal, 1 different, 3 not compared.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .run = run,
};
