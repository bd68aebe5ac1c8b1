// Clients. Each sends one command or read at a time to some node; after an unknown result it sends
// the same command again, mostly through another node, as a client with a task id does (P8).
//
// Half of the commands are of the state machine's own generator (tests/unit/state), over few
// agents and tasks, so that they meet; the others are submits with ids of their own.

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/sim/sim.h"
#include "tests/sim/wrap.h"
#include "tests/unit/state/generate.h"

enum { CLIENTS_MAX = 32, THINK_US = 40 * SIM_MS, AGENTS = 6 };

enum what { IDLE, COMMAND, READ, BOOT, PROBE };

// One request of a client to a node. Of BOOT and PROBE: without a client.
struct request {
    enum what what;
    unsigned client;
    struct sim_node *node;  // NULL: answered
    uint32_t life;
    uint64_t boot, sequence;
    uint64_t floor;  // READ: the highest index acknowledged to anybody before
    unsigned *done;  // PROBE
    struct request *next;
};

struct client {
    bool waits;
    bool again;  // the latest submit's result is not known
    unsigned submits;
};

static struct {
    struct client clients[CLIENTS_MAX];
    unsigned n;
    struct generator generator;
    struct request *requests;
    unsigned unanswered;
    bool stopped;
} load;

static void think(unsigned client) {
    sim_at(sim.now_us + sim_exponential(THINK_US), sim_clients_step, client);
}

void sim_clients_init(unsigned n) {
    load.n = n < CLIENTS_MAX ? n : CLIENTS_MAX;
    generator_init(&load.generator, sim_random());
    for (unsigned i = 0; i < load.n; i++) {
        think(i);
    }
}

void sim_clients_free(void) {
    while (load.requests != NULL) {
        struct request *r = load.requests;
        load.requests = r->next;
        free(r);
    }
    memset(&load, 0, sizeof load);
}

void sim_clients_stop(void) {
    load.stopped = true;
}

bool sim_clients_idle(void) {
    return load.unanswered == 0;
}

// ---- answers -----------------------------------------------------------------------

static struct request *request_new(struct sim_node *node, enum what what, unsigned client) {
    struct request *r = calloc(1, sizeof *r);
    assert(r != NULL);
    r->what = what;
    r->client = client;
    r->node = node;
    r->life = node->life;
    r->next = load.requests;
    load.requests = r;
    load.unanswered++;
    return r;
}

static void answered(struct request *r, bool known) {
    bool of_client = r->what == COMMAND || r->what == READ;
    r->node = NULL;
    load.unanswered--;
    if (!known) {
        sim.counts[SIM_UNKNOWN]++;
    }
    if (of_client) {
        load.clients[r->client].again = r->what == COMMAND && !known;
        load.clients[r->client].waits = false;
        think(r->client);
    }
}

static void probe_again(uint64_t index);

static void on_proposed(void *user, int result, struct nl_outcome outcome, uint64_t index,
                        uint64_t term) {
    struct request *r = user;
    struct sim_node *node = r->node;
    (void)term;
    if (node == NULL || !node->up || node->life != r->life) {
        return;  // the node died before it could say so
    }
    sim_trace(index, (uint64_t)(int64_t)result);
    if (result == NL_OK) {
        sim.counts[SIM_ACKED]++;
        sim_check_acked(node->id, r->boot, r->sequence, index, outcome);
    } else if (result != NL_EUNKNOWN) {
        sim.counts[SIM_REFUSED]++;
        sim_check_refused(node->id, r->boot, r->sequence);
    }
    if (r->done != NULL) {
        *r->done += result == NL_OK;
        SIM_CHECK(result == NL_OK, "after healing, node %u can't commit: %s", node->index + 1,
                  nl_strerror(result));
    }
    if (r->what == BOOT) {
        node->booted = result == NL_OK;
        if (!node->booted) {
            sim_at_life(sim.now_us + 200 * SIM_MS, probe_again, node);
        }
    }
    answered(r, result != NL_EUNKNOWN);
}

// Linearizable: everything that anybody was told about before is seen.
static void on_read(void *user, int result, uint64_t index, uint64_t term) {
    struct request *r = user;
    struct sim_node *node = r->node;
    (void)term;
    if (node == NULL || !node->up || node->life != r->life) {
        return;
    }
    if (result == NL_OK) {
        sim.counts[SIM_READS]++;
        SIM_CHECK(index >= r->floor,
                  "node %u answers a read at entry %llu, but %llu was acknowledged before",
                  node->index + 1, (unsigned long long)index, (unsigned long long)r->floor);
        SIM_CHECK(index <= nl_state_index(node->cluster->state),
                  "node %u answers a read of what it has not applied", node->index + 1);
    }
    answered(r, true);
}

void sim_clients_node_gone(struct sim_node *node) {
    for (struct request *r = load.requests; r != NULL; r = r->next) {
        if (r->node == node) {
            answered(r, false);
        }
    }
}

// ---- requests ----------------------------------------------------------------------

struct job {
    struct request *request;
    Nodelink__V1__Command *command;
};

static void propose_body(struct sim_node *node, void *arg) {
    struct job *job = arg;
    struct request *r = job->request;
    r->boot = node->cluster->boot;
    r->sequence = nl_core_next_sequence(node->cluster->proposer.core);
    sim.counts[SIM_PROPOSED]++;
    uint64_t timeout_ms = r->what == PROBE ? 20000 : 100 + sim_below(4000);
    if (nl_cluster_propose(node->cluster, job->command, timeout_ms, on_proposed, r) != NL_OK) {
        sim.counts[SIM_REFUSED]++;
        answered(r, true);
    }
}

static void read_body(struct sim_node *node, void *arg) {
    struct request *r = arg;
    if (sim.options.plant == PLANT_STALE_READ) {
        on_read(r, NL_OK, nl_state_index(node->cluster->state), 0);
    } else if (nl_cluster_read(node->cluster, 100 + sim_below(3000), on_read, r) != NL_OK) {
        answered(r, true);
    }
}

static void run(struct sim_node *node, void (*body)(struct sim_node *node, void *arg), void *arg) {
    sim_as_node(node, body, arg);
    sim_node_wake(node);
}

static void propose_submit(struct sim_node *node, unsigned client, const char *id) {
    char agent[24], cmd[] = "true";
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__TaskSubmit submit = NODELINK__V1__TASK_SUBMIT__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    snprintf(agent, sizeof agent, "agent-%u", client % AGENTS);
    spec.agent_id = agent;
    spec.cmd = cmd;
    spec.wait_for_agent_ms = 1000;
    submit.task_id = (char *)(uintptr_t)id;
    submit.spec = &spec;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_SUBMIT;
    command.task_submit = &submit;
    struct job job = {request_new(node, COMMAND, client), &command};
    run(node, propose_body, &job);
}

static void propose_generated(struct sim_node *node, unsigned client) {
    size_t len;
    uint8_t *data = generate(&load.generator, node->cluster->state, &len);
    Nodelink__V1__Command *command = nodelink__v1__command__unpack(NULL, len, data);
    assert(command != NULL);
    if (command->body_case == NODELINK__V1__COMMAND__BODY_NODE_UP) {
        // Only a node itself says so: made up, it would look like a lost data directory.
        nodelink__v1__node_up__free_unpacked(command->node_up, NULL);
        command->node_up = NULL;
        command->body_case = NODELINK__V1__COMMAND__BODY__NOT_SET;
    }
    struct job job = {request_new(node, COMMAND, client), command};
    run(node, propose_body, &job);
    nodelink__v1__command__free_unpacked(command, NULL);
    free(data);
}

static struct sim_node *some_node(void) {
    for (unsigned i = 0; i < 4; i++) {
        struct sim_node *node = &sim.nodes[sim_below(sim.n)];
        if (node->up) {
            return node;
        }
    }
    return NULL;
}

void sim_clients_step(uint64_t index) {
    struct client *c = &load.clients[index];
    struct sim_node *node = some_node();
    char id[48];
    if (load.stopped || c->waits) {
        return;
    }
    if (node == NULL) {
        think((unsigned)index);
        return;
    }
    c->waits = true;
    if (!c->again && sim_chance(250)) {
        struct request *r = request_new(node, READ, (unsigned)index);
        r->floor = sim_check_acked_max();
        run(node, read_body, r);
    } else if (c->again || sim_chance(500)) {
        sim.counts[SIM_RETRIES] += c->again;
        c->submits += !c->again;
        snprintf(id, sizeof id, "c%u-%u", (unsigned)index, c->submits);
        propose_submit(node, (unsigned)index, id);
    } else {
        propose_generated(node, (unsigned)index);
    }
}

// ---- a node's own ------------------------------------------------------------------

static void propose_node_up(struct sim_node *node, enum what what, unsigned *done) {
    char version[] = "sim";
    Nodelink__V1__NodeUp up = NODELINK__V1__NODE_UP__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    up.node = node->id;
    up.node_boot = node->cluster->boot;
    up.name = up.grpc_address = node->address;
    up.version = version;
    command.body_case = NODELINK__V1__COMMAND__BODY_NODE_UP;
    command.node_up = &up;
    struct job job = {request_new(node, what, 0), &command};
    job.request->done = done;
    run(node, propose_body, &job);
}

static void probe_again(uint64_t index) {
    if (!load.stopped) {
        propose_node_up(&sim.nodes[index], BOOT, NULL);
    }
}

void sim_clients_booted(struct sim_node *node) {
    if (!load.stopped) {
        propose_node_up(node, BOOT, NULL);
    }
}

void sim_clients_probe(struct sim_node *node, unsigned *ret) {
    propose_node_up(node, PROBE, ret);
}

// ---- a planted defect ----------------------------------------------------------------

// The leader says "done" when the commands are in its log.
int __wrap_nl_raft_append(struct nl_raft_node *node, struct nl_frame *frame, nl_raft_done done,
                          void *user) {
    uint64_t keys[64][3];
    unsigned n = 0;
    struct nl_frame_reader reader = {frame->data + NL_FRAME_HEADER_LEN, frame->count};
    const uint8_t *data;
    size_t len;
    while (sim.options.plant == PLANT_ACK_EARLY && n < 64 && nl_frame_next(&reader, &data, &len)) {
        Nodelink__V1__Command *c = nodelink__v1__command__unpack(NULL, len, data);
        assert(c != NULL);
        memcpy(keys[n++], (uint64_t[3]){c->proposer, c->boot, c->sequence}, sizeof keys[0]);
        nodelink__v1__command__free_unpacked(c, NULL);
    }
    int rv = __real_nl_raft_append(node, frame, done, user);
    for (unsigned i = 0; rv == NL_OK && i < n; i++) {
        sim_check_promised(keys[i][0], keys[i][1], keys[i][2]);
    }
    return rv;
}
