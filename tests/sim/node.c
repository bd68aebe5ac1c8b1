// A node's process: its loop turns, its start and its end.
//
// What comes for a node (a message, a finished write) waits in its inbox; the node then comes to
// itself a moment later, or when its pause is over, and takes all of it in one turn.

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/err.h"
#include "tests/sim/sim.h"

// libraft's (src/legacy.h): raft_uv calls it in each turn of the loop, so the backend here must.
void LegacyFireCompletedRequests(struct raft *r);

enum { TURN_US_MAX = 200, STOP_ROUNDS_MAX = 100 };

// ---- turns -----------------------------------------------------------------------

// Not nested: one node's code never runs inside another's.
bool sim_as_node(struct sim_node *node, void (*fn)(struct sim_node *node, void *arg), void *arg) {
    sim.current = node;
    if (setjmp(node->fatal) != 0) {
        sim.current = NULL;
        return false;
    }
    fn(node, arg);
    sim.current = NULL;
    return true;
}

static void wake(uint64_t index) {
    sim_node_wake(&sim.nodes[index]);
}

static void run_timers(struct sim_node *node) {
    for (unsigned i = 0; i < SIM_TIMERS_MAX; i++) {
        struct sim_timer *t = &node->timers[i];
        if (t->timer == NULL || t->cb == NULL || t->due_us > sim.now_us) {
            continue;
        }
        t->due_us = sim.now_us + t->repeat_us;
        sim_at_life(t->due_us, wake, node);
        t->cb(t->timer);
    }
    if (node->tick != NULL && node->tick_due_us <= sim.now_us) {
        node->tick_due_us = sim.now_us + node->tick_us;
        sim_at_life(node->tick_due_us, wake, node);
        node->tick(node->io);
    }
}

static void fire(struct sim_node *node) {
    if (node->raft != NULL) {
        LegacyFireCompletedRequests(node->raft);
    }
}

// In libuv's order: timers, input, raft_uv's check, the cluster's prepare, raft_uv's prepare.
static void turn_body(struct sim_node *node, void *arg) {
    (void)arg;
    run_timers(node);
    while (node->inbox != NULL) {
        struct sim_pending *pending = node->inbox;
        DL_DELETE(node->inbox, pending);
        sim_trace(node->id, pending->digest);
        pending->run(pending, SIM_DONE);
    }
    fire(node);
    if (node->prepare_cb != NULL) {
        node->prepare_cb(node->prepare);
    }
    fire(node);
}

// ---- the end of a life -------------------------------------------------------------

static void run_all(struct sim_node *node, enum sim_how how) {
    DL_CONCAT(node->inbox, node->pending);
    node->pending = NULL;
    while (node->inbox != NULL) {
        struct sim_pending *pending = node->inbox;
        DL_DELETE(node->inbox, pending);
        pending->run(pending, how);
    }
}

static void end_life(struct sim_node *node) {
    node->life++;
    node->up = false;
    node->cluster = NULL;
    node->raft = NULL;
    node->io = NULL;
    node->tick = NULL;
    node->prepare = NULL;
    node->prepare_cb = NULL;
    node->turn_due = false;
    node->booted = false;
    node->paused_until_us = 0;
    memset(node->timers, 0, sizeof node->timers);
}

// The node stopped in the middle of a call. Its memory stays as it is: nobody can tell which of it
// is in order. That is what a process's end is for.
static void abandon(struct sim_node *node) {
    sim.counts[SIM_F_FAIL_STOP]++;
    node->up = false;
    node->life++;
    sim_disk_crash(node, false);
    sim_disk_cancel(node, SIM_ABANDONED);
    run_all(node, SIM_ABANDONED);
    sim_rpc_crashed(node);
    sim_clients_node_gone(node);
    end_life(node);
}

static void on_closed(void *user) {
    struct sim_node *node = user;
    node->closed = true;
}

// After a crash the node's memory is given back by closing it, cut off from disk and network:
// nothing of that is seen outside, and closing at any moment is tested on the way.
static void close_body(struct sim_node *node, void *arg) {
    (void)arg;
    unsigned rounds = 0;
    node->closed = false;
    nl_cluster_close(node->cluster, on_closed, node);
    node->prepare_cb(node->prepare);
    while (!node->closed) {
        fire(node);
        sim_disk_cancel(node, SIM_CANCELED);
        run_all(node, SIM_CANCELED);
        SIM_CHECK(rounds++ < STOP_ROUNDS_MAX, "node %u does not close", node->index + 1);
    }
}

void sim_node_crash(struct sim_node *node, bool power) {
    assert(node->up);
    node->up = false;
    node->life++;
    sim_disk_crash(node, power);
    sim_rpc_crashed(node);
    sim_clients_node_gone(node);
    if (!sim_as_node(node, close_body, NULL)) {
        sim_violation("node %u stops itself while it closes", node->index + 1);
    }
    run_all(node, SIM_ABANDONED);
    end_life(node);
}

static void turn(uint64_t index) {
    struct sim_node *node = &sim.nodes[index];
    node->turn_due = false;
    if (node->paused_until_us > sim.now_us) {
        sim_node_wake(node);
        return;
    }
    if (!sim_as_node(node, turn_body, NULL)) {
        abandon(node);
        return;
    }
    sim_check_turn(node);
}

void sim_node_wake(struct sim_node *node) {
    if (node->turn_due) {
        return;
    }
    uint64_t at = sim.now_us > node->paused_until_us ? sim.now_us : node->paused_until_us;
    node->turn_due = true;
    sim_at_life(at + sim_below(TURN_US_MAX), turn, node);
}

// ---- its start -----------------------------------------------------------------------

static void on_effect(void *user, const struct nl_effect *effect) {
    (void)user;
    (void)effect;
}

static void on_restored(void *user) {
    struct sim_node *node = user;
    (void)node;
    sim.counts[SIM_SNAPSHOTS_INSTALLED]++;
}

static void on_role(void *user, enum nl_cluster_role role, uint64_t term, uint64_t leader) {
    struct sim_node *node = user;
    sim_note("node %u: role %d, term %llu, leader %llu", node->index + 1, (int)role,
             (unsigned long long)term, (unsigned long long)leader);
}

static void on_fatal(void *user, const char *why) {
    struct sim_node *node = user;
    SIM_CHECK(node->may_stop, "node %u stops without a fault of its disk: %s", node->index + 1,
              why);
    sim_note("node %u stops: %s", node->index + 1, why);
    longjmp(node->fatal, 1);
}

static void open_body(struct sim_node *node, void *arg) {
    static const struct nl_cluster_events events = {on_effect, on_restored, on_role, on_fatal};
    static const uint8_t secret[16] = "0123456789abcdef";
    struct nl_cluster_member members[SIM_NODES_MAX];
    char error[512] = "";
    (void)arg;
    for (unsigned i = 0; i < sim.n; i++) {
        snprintf(sim.nodes[i].address, sizeof sim.nodes[i].address, "node:%u", i + 1);
        members[i] = (struct nl_cluster_member){i + 1, sim.nodes[i].address, sim.nodes[i].address,
                                                sim.nodes[i].address};
    }
    struct nl_cluster_options options = {
        .loop = &node->loop,
        .cluster_name = "sim",
        .id = node->id,
        .name = node->address,
        .version = "sim",
        .data_dir = "/sim",
        .raft_address = node->address,
        .members = members,
        .n_members = sim.n,
        .bootstrap = true,
        .secret = secret,
        .secret_len = sizeof secret,
        // Small, so that snapshots come often; different per run.
        .snapshot_threshold = 8 + (uint32_t)(sim.options.seed % 7) * 10,
        .snapshot_trailing = 1 + (uint32_t)(sim.options.seed % 5) * 6,
        .snapshot_bytes = sim.options.seed % 3 == 0 ? 4096 : 0,
    };
    int rv = nl_cluster_open(&options, &events, node, &node->cluster, error, sizeof error);
    SIM_CHECK(rv == NL_OK, "node %u doesn't start: %s", node->index + 1, error);
}

void sim_node_start(struct sim_node *node) {
    assert(!node->up);
    node->life++;
    node->up = true;
    node->may_stop = node->disk.fail != 0;
    node->loop.data = node;
    node->commit_seen = node->applied_seen = node->led_term = 0;
    node->apply_index = 0;
    sim.counts[SIM_RESTARTS]++;
    if (!sim_as_node(node, open_body, NULL)) {
        abandon(node);
        return;
    }
    sim_check_node_up(node);
    sim_clients_booted(node);
    sim_node_wake(node);
}
