// Faults, one after the other and overlapping, from the run's seed. Each undoes itself after a
// while; sim_faults_heal undoes all that is left.

#include "tests/sim/sim.h"

enum { PAUSE_US = 300 * SIM_MS };

static void restart(uint64_t index) {
    struct sim_node *node = &sim.nodes[index];
    if (!node->up) {
        sim_node_start(node);
    }
}

static uint64_t while_us(void) {
    return 5 * SIM_MS + sim_exponential(700 * SIM_MS);
}

// Half of the faults hit the leader, if there is one: that is where they hurt.
static struct sim_node *victim(void) {
    struct sim_node *leader = sim_leader();
    return leader != NULL && sim_chance(500) ? leader : &sim.nodes[sim_below(sim.n)];
}

// ---- nodes -------------------------------------------------------------------------

static void crash(struct sim_node *node, bool power) {
    if (node->up) {
        sim_note("node %u %s", node->index + 1, power ? "loses power" : "is killed");
        sim_node_crash(node, power);
        sim_at(sim.now_us + while_us(), restart, node->index);
    }
}

static void kill_node(void) {
    struct sim_node *node = victim();
    sim.counts[SIM_F_KILL] += node->up;
    crash(node, false);
}

static void cut_power(void) {
    struct sim_node *node = victim();
    sim.counts[SIM_F_POWER] += node->up;
    crash(node, true);
}

static void power_all(void) {
    sim.counts[SIM_F_POWER_ALL]++;
    for (unsigned i = 0; i < sim.n; i++) {
        crash(&sim.nodes[i], true);
    }
}

static void pause_node(void) {
    struct sim_node *node = victim();
    if (node->up) {
        sim.counts[SIM_F_PAUSE]++;
        node->paused_until_us = sim.now_us + sim_exponential(PAUSE_US);
        sim_note("node %u is paused until %.3f ms", node->index + 1,
                 (double)node->paused_until_us / SIM_MS - 1e6);
    }
}

static void transfer_body(struct sim_node *node, void *arg) {
    (void)arg;
    nl_cluster_step_down(node->cluster, 2000, NULL, NULL);
}

static void transfer(void) {
    struct sim_node *leader = sim_leader();
    if (leader != NULL) {
        sim.counts[SIM_F_TRANSFER]++;
        sim_note("node %u hands over", leader->index + 1);
        sim_as_node(leader, transfer_body, NULL);
        sim_node_wake(leader);
    }
}

static void clock_jump(void) {
    sim.counts[SIM_F_CLOCK_JUMP]++;
    victim()->wall_skew_ms = (int64_t)sim_below(20000) - 10000;
}

// ---- network -----------------------------------------------------------------------

static void open_link(uint64_t link) {
    sim_net_block((unsigned)(link / SIM_NODES_MAX), (unsigned)(link % SIM_NODES_MAX), SIM_OPEN);
}

static void cut(unsigned from, unsigned to, enum sim_block block, uint64_t until_us) {
    sim_net_block(from, to, block);
    sim_at(until_us, open_link, from * SIM_NODES_MAX + to);
}

// One node against the others, halves, or any cut at all.
static void partition(void) {
    enum sim_block block = sim_chance(500) ? SIM_DROP : SIM_STALL;
    uint64_t until_us = sim.now_us + while_us() * 2;
    unsigned side = sim_chance(500) ? 1u << victim()->index : (unsigned)sim_below(1u << sim.n);
    sim.counts[SIM_F_PARTITION]++;
    sim_note("partition %x, %s", side, block == SIM_DROP ? "dropping" : "stalling");
    for (unsigned i = 0; i < sim.n; i++) {
        for (unsigned j = 0; j < sim.n; j++) {
            if ((side >> i & 1) != (side >> j & 1)) {
                cut(i, j, block, until_us);
            }
        }
    }
}

// A node that hears nobody, or that nobody hears, or one way of one pair.
static void one_way(void) {
    enum sim_block block = sim_chance(500) ? SIM_DROP : SIM_STALL;
    uint64_t until_us = sim.now_us + while_us() * 2;
    unsigned node = victim()->index, other = (unsigned)sim_below(sim.n);
    bool out = sim_chance(500), all = sim_chance(600);
    sim.counts[SIM_F_ONE_WAY]++;
    sim_note("node %u is cut off %s %s", node + 1, out ? "towards" : "from",
             all ? "all" : "another");
    for (unsigned i = 0; i < sim.n; i++) {
        if (i != node && (all || i == other)) {
            cut(out ? node : i, out ? i : node, block, until_us);
        }
    }
}

static void reset(void) {
    unsigned from = victim()->index, to = (unsigned)sim_below(sim.n);
    if (from != to) {
        sim_net_reset(from, to);
        sim_net_reset(to, from);
    }
}

static void fast_link(uint64_t link) {
    sim.links[link / SIM_NODES_MAX][link % SIM_NODES_MAX].latency_us = 200;
}

static void slow_link(void) {
    unsigned from = victim()->index, to = (unsigned)sim_below(sim.n);
    sim.counts[SIM_F_SLOW_LINK]++;
    sim.links[from][to].latency_us = SIM_MS + sim_below(150 * SIM_MS);
    sim_at(sim.now_us + while_us() * 2, fast_link, from * SIM_NODES_MAX + to);
}

// ---- disks -------------------------------------------------------------------------

static void fast_disk(uint64_t index) {
    sim.nodes[index].disk.latency_us = 300;
    sim.nodes[index].disk.full = false;
}

static void slow_disk(void) {
    struct sim_node *node = victim();
    sim.counts[SIM_F_SLOW_DISK]++;
    node->disk.latency_us = SIM_MS + sim_below(100 * SIM_MS);
    sim_at(sim.now_us + while_us() * 2, fast_disk, node->index);
}

static void hung_disk(void) {
    struct sim_node *node = victim();
    if (node->up) {
        sim.counts[SIM_F_HUNG_DISK]++;
        sim_note("the disk of node %u hangs", node->index + 1);
        node->may_stop = true;
        node->disk.hung_until_us = sim.now_us + SIM_S + sim_below(4 * SIM_S);
        sim_at(sim.now_us + 6 * SIM_S, restart, node->index);
    }
}

static void full_disk(void) {
    struct sim_node *node = victim();
    sim.counts[SIM_F_DISK_FULL]++;
    node->disk.full = true;
    sim_at(sim.now_us + while_us() * 2, fast_disk, node->index);
}

static void failed_write(void) {
    struct sim_node *node = victim();
    node->disk.fail |= 1u << sim_below(5);
    sim_note("the disk of node %u will fail: %x", node->index + 1, node->disk.fail);
    sim_at(sim.now_us + 2 * SIM_S, restart, node->index);
}

// ------------------------------------------------------------------------------------

static const struct {
    unsigned weight;
    void (*run)(void);
} kinds[] = {
    {14, kill_node}, {10, cut_power}, {2, power_all}, {18, partition}, {12, one_way},
    {10, reset},     {6, slow_link},  {8, slow_disk}, {2, hung_disk},  {5, failed_write},
    {3, full_disk},  {9, pause_node}, {8, transfer},  {3, clock_jump},
};

// A node that stopped itself is started again sooner or later.
static void start_stopped(void) {
    for (unsigned i = 0; i < sim.n; i++) {
        if (!sim.nodes[i].up && sim_chance(50)) {
            restart(i);
        }
    }
}

void sim_faults_step(uint64_t arg) {
    unsigned total = 0, i = 0;
    if (sim.quiet) {
        return;
    }
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        total += kinds[k].weight;
    }
    for (uint64_t at = sim_below(total); at >= kinds[i].weight; i++) {
        at -= kinds[i].weight;
    }
    kinds[i].run();
    start_stopped();
    // Calm seeds and wild ones.
    uint64_t mean_us = (sim.options.seed % 4 + 1) * 150 * SIM_MS;
    sim_at(sim.now_us + sim_exponential(mean_us), sim_faults_step, arg);
}

void sim_faults_heal(void) {
    sim_net_heal();
    for (unsigned i = 0; i < sim.n; i++) {
        struct sim_node *node = &sim.nodes[i];
        node->disk.fail = 0;
        node->disk.full = false;
        node->disk.latency_us = 300;
        node->disk.read_us = 0;
        node->disk.hung_until_us = 0;
        node->paused_until_us = 0;
    }
    sim_start_all();
}
