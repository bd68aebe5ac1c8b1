// Virtual time: a heap of events, and the run as a whole.

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "tests/sim/sim.h"

struct sim sim;

struct event {
    uint64_t at_us, seq;
    void (*fn)(uint64_t arg);
    uint64_t arg;
    struct sim_node *node;        // or NULL
    uint32_t life;                // of node
    struct sim_pending *pending;  // comes to `node`, instead of fn; or NULL
};

static struct {
    struct event *events;
    size_t n, cap;
    uint64_t seq;
} heap;

static bool before(const struct event *a, const struct event *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->seq < b->seq;
}

static void swap(struct event *a, struct event *b) {
    struct event t = *a;
    *a = *b;
    *b = t;
}

static void push(struct event event) {
    if (heap.n == heap.cap) {
        heap.cap = heap.cap > 0 ? 2 * heap.cap : 256;
        heap.events = realloc(heap.events, heap.cap * sizeof *heap.events);
        assert(heap.events != NULL);
    }
    event.seq = heap.seq++;
    event.at_us = event.at_us < sim.now_us ? sim.now_us : event.at_us;
    heap.events[heap.n] = event;
    for (size_t i = heap.n++; i > 0 && before(&heap.events[i], &heap.events[(i - 1) / 2]);
         i = (i - 1) / 2) {
        swap(&heap.events[i], &heap.events[(i - 1) / 2]);
    }
}

static struct event pop(void) {
    struct event top = heap.events[0];
    heap.events[0] = heap.events[--heap.n];
    for (size_t i = 0;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < heap.n; child++) {
            least = before(&heap.events[child], &heap.events[least]) ? child : least;
        }
        if (least == i) {
            return top;
        }
        swap(&heap.events[i], &heap.events[least]);
        i = least;
    }
}

void sim_at(uint64_t at_us, void (*fn)(uint64_t arg), uint64_t arg) {
    push((struct event){.at_us = at_us, .fn = fn, .arg = arg});
}

void sim_at_life(uint64_t at_us, void (*fn)(uint64_t node), struct sim_node *node) {
    push((struct event){
        .at_us = at_us, .fn = fn, .arg = node->index, .node = node, .life = node->life});
}

void sim_post(struct sim_node *node, uint64_t delay_us, struct sim_pending *pending) {
    pending->node = node;
    DL_APPEND(node->pending, pending);
    push((struct event){
        .at_us = sim.now_us + delay_us, .node = node, .life = node->life, .pending = pending});
}

static void arrive(struct sim_node *node, struct sim_pending *pending) {
    DL_DELETE(node->pending, pending);
    DL_APPEND(node->inbox, pending);
    sim_node_wake(node);
}

void sim_trace(uint64_t a, uint64_t b) {
    sim.trace = sim_mix(sim_mix(sim.trace, a), b);
}

bool sim_step(void) {
    if (heap.n == 0) {
        return false;
    }
    struct event event = pop();
    if (event.node != NULL && event.node->life != event.life) {
        return true;
    }
    sim.now_us = event.at_us;
    sim.counts[SIM_STEPS]++;
    sim_trace(event.at_us, event.pending != NULL ? event.pending->digest : event.arg);
    if (event.pending != NULL) {
        arrive(event.node, event.pending);
    } else {
        event.fn(event.arg);
    }
    return true;
}

bool sim_run_until(bool (*holds)(void *arg), void *arg, uint64_t limit_us) {
    uint64_t end = sim.now_us + limit_us;
    while (!holds(arg)) {
        if (sim.now_us >= end || !sim_step()) {
            return false;
        }
    }
    return true;
}

static bool never(void *arg) {
    (void)arg;
    return false;
}

static void nothing(uint64_t arg) {
    (void)arg;
}

void sim_run_for(uint64_t us) {
    sim_at(sim.now_us + us, nothing, 0);
    sim_run_until(never, NULL, us);
}

void sim_open(const struct sim_options *options) {
    memset(&sim, 0, sizeof sim);
    sim.options = *options;
    sim.random = sim_mix(options->seed, 1);
    sim.now_us = 1000 * (uint64_t)SIM_S;
    sim.n = options->nodes > 0 ? options->nodes : sim_chance(500) ? 3 : 5;
    sim_check_init();
    sim_net_init();
    for (unsigned i = 0; i < sim.n; i++) {
        struct sim_node *node = &sim.nodes[i];
        node->index = i;
        node->id = i + 1;
        node->wall_skew_ms = (int64_t)sim_below(2000) - 1000;
        sim_disk_init(&node->disk);
    }
}

void sim_start_all(void) {
    for (unsigned i = 0; i < sim.n; i++) {
        if (!sim.nodes[i].up) {
            sim_node_start(&sim.nodes[i]);
        }
    }
}

void sim_close(void) {
    sim_clients_free();
    for (unsigned i = 0; i < sim.n; i++) {
        if (sim.nodes[i].up) {
            sim_node_crash(&sim.nodes[i], false);
        }
        sim_disk_free(&sim.nodes[i].disk);
    }
    sim_net_free();
    sim_check_free();
    free(heap.events);
    memset(&heap, 0, sizeof heap);
}

struct sim_node *sim_leader(void) {
    struct sim_node *leader = NULL;
    for (unsigned i = 0; i < sim.n; i++) {
        struct sim_node *node = &sim.nodes[i];
        if (node->up && node->raft != NULL && raft_state(node->raft) == RAFT_LEADER &&
            (leader == NULL || raft_current_term(node->raft) > raft_current_term(leader->raft))) {
            leader = node;
        }
    }
    return leader;
}

// ---- the end of a run ------------------------------------------------------------

enum { LIVE_US = 30 * SIM_S };

static bool clients_idle(void *arg) {
    (void)arg;
    return sim_clients_idle();
}

static bool probes_done(void *arg) {
    return *(unsigned *)arg == sim.n;
}

static bool all_applied(void *arg) {
    (void)arg;
    for (unsigned i = 0; i < sim.n; i++) {
        if (!sim.nodes[i].up || raft_last_applied(sim.nodes[i].raft) < sim_check_applied_max()) {
            return false;
        }
    }
    return true;
}

static void demand(bool (*holds)(void *arg), void *arg, const char *what) {
    SIM_CHECK(sim_run_until(holds, arg, LIVE_US), "after healing, not in %d s of virtual time: %s",
              LIVE_US / SIM_S, what);
}

// A node that misbehaves only once in a while is not live: each must take a command.
void sim_finish(void) {
    unsigned done = 0;
    uint8_t first[NL_STATE_HASH_LEN], other[NL_STATE_HASH_LEN];
    sim.quiet = true;
    sim.filter = NULL;
    sim_clients_stop();
    sim_faults_heal();
    // A disk that was full is looked at each second; nodes may still stop for an earlier fault.
    sim_run_for(4 * SIM_S);
    sim_start_all();
    demand(clients_idle, NULL, "every request has an answer");
    for (unsigned i = 0; i < sim.n; i++) {
        sim_clients_probe(&sim.nodes[i], &done);
    }
    demand(probes_done, &done, "a command commits through every node");
    demand(all_applied, NULL, "every node applied everything");
    for (unsigned i = 0; i < sim.n; i++) {
        struct sim_node *node = &sim.nodes[i];
        sim_check_state(node);
        nl_state_hash(node->cluster->state, i == 0 ? first : other);
        SIM_CHECK(i == 0 || memcmp(first, other, sizeof first) == 0,
                  "node %u ends with another state than node 1", i + 1);
    }
    sim_check_promises();
    uint64_t half;
    memcpy(&half, first, sizeof half);
    sim_trace(half, sim_check_applied_max());
}
