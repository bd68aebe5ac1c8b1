// Schedules written by hand, on the same world as the random ones.

#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

raft_term TrailTermOf(const struct raft_trail *trail, raft_index index);

#define U(x) ((unsigned long long)(x))

static bool is_leader(void *arg) {
    const struct sim_node *node = arg;
    return node->up && raft_state(node->raft) == RAFT_LEADER;
}

// ---- figure 8 --------------------------------------------------------------------------
//
// Raft, section 5.4.2: an entry of an old term on a majority of the disks is not committed by
// that. S1 stores an entry of its term on S2 only and dies; S5, elected by S3 and S4, stores
// another one at the same index and dies; S1, elected again, copies its old entry to S3, so that
// three of five hold it. If S1 counted it as committed now, S5 could still overwrite it.

static struct {
    unsigned candidate;    // only this one's requests for votes arrive
    unsigned copies;       // bits: nodes that get entries from the leader
    uint64_t entries_max;  // nothing beyond this index arrives; 0: no bound
} fig8;

// A leader may send as few entries as it likes: a message that is cut short is one that Raft knows.
static void fig8_shorten(struct raft_append_entries *a) {
    bool none = a->prev_log_index >= fig8.entries_max;
    a->n_entries = none ? 0 : (unsigned)(fig8.entries_max - a->prev_log_index);
    if (none) {
        raft_free(a->entries[0].batch);
        raft_free(a->entries);
        a->entries = NULL;
    }
    uint64_t last = a->prev_log_index + a->n_entries;
    a->leader_commit = a->leader_commit < last ? a->leader_commit : last;
}

static bool fig8_filter(unsigned from, unsigned to, struct raft_message *m) {
    if (m->type == RAFT_REQUEST_VOTE) {
        return from == fig8.candidate;
    }
    if (m->type == RAFT_TIMEOUT_NOW || m->type == RAFT_INSTALL_SNAPSHOT) {
        return false;
    }
    if (m->type != RAFT_APPEND_ENTRIES || m->append_entries.n_entries == 0) {
        return true;
    }
    struct raft_append_entries *a = &m->append_entries;
    if ((fig8.copies >> to & 1) == 0) {
        return false;
    }
    if (fig8.entries_max != 0 && a->prev_log_index + a->n_entries > fig8.entries_max) {
        fig8_shorten(a);
    }
    return true;
}

static uint64_t stored_term(const struct sim_node *node, uint64_t index) {
    const struct sim_disk *d = &node->disk;
    return index >= d->first && index <= sim_disk_last(d) ? d->entries[index - d->first].term : 0;
}

struct stored {
    unsigned node;
    uint64_t index, term;
};

static bool has_stored(void *arg) {
    const struct stored *s = arg;
    return stored_term(&sim.nodes[s->node], s->index) == s->term;
}

static void reach(bool holds, const char *what) {
    SIM_CHECK(holds, "the scenario doesn't get to: %s", what);
}

static void elect(unsigned index, const char *what) {
    fig8.candidate = index;
    reach(sim_run_until(is_leader, &sim.nodes[index], 60 * SIM_S), what);
}

static void figure8(void) {
    struct sim_node *s1 = &sim.nodes[0], *s5 = &sim.nodes[4];
    fig8.candidate = 0;
    fig8.copies = 0x1f;
    fig8.entries_max = 0;
    sim.filter = fig8_filter;
    sim_start_all();
    elect(0, "S1 leads");
    sim_run_for(2 * SIM_S);
    // (a) An entry of S1's term that only S2 gets.
    uint64_t index = raft_last_index(s1->raft) + 1, old_term = raft_current_term(s1->raft);
    unsigned done = 0;
    fig8.copies = 1u << 1;
    sim_clients_probe(s1, &done);
    struct stored on_s2 = {1, index, old_term}, on_s3 = {2, index, old_term};
    reach(sim_run_until(has_stored, &on_s2, SIM_S), "S2 holds S1's entry");
    sim_node_crash(s1, true);
    // (b) S5 leads and stores its own entry at that index, on its own disk only.
    fig8.copies = 0;
    elect(4, "S5 leads");
    sim_clients_probe(s5, &done);
    struct stored on_s5 = {4, index, raft_current_term(s5->raft)};
    reach(sim_run_until(has_stored, &on_s5, SIM_S), "S5 holds another entry there");
    sim_node_crash(s5, true);
    // (c) S1 leads again and copies its old entry, and nothing newer, to S3.
    fig8.copies = 1u << 1 | 1u << 2;
    fig8.entries_max = index;
    sim_node_start(s1);
    elect(0, "S1 leads again");
    reach(raft_current_term(s1->raft) > old_term, "S1 leads in a new term");
    reach(sim_run_until(has_stored, &on_s3, 5 * SIM_S), "S3 holds S1's old entry");
    sim_run_for(SIM_S / 4);
    reach(is_leader(s1), "S1 still leads");
    for (unsigned id = 2; id <= 3; id++) {
        raft_index match = 0;
        reach(raft_match_index(s1->raft, id, &match) == 0 && match >= index,
              "S1 knows that S2 and S3 hold it");
    }
    SIM_CHECK(raft_commit_index(s1->raft) < index,
              "S1 takes entry %llu of term %llu for committed in term %llu, because three nodes "
              "hold it",
              U(index), U(old_term), U(raft_current_term(s1->raft)));
    // (d) S5 may still win, with votes of S3 and S4, and overwrite the entry everywhere.
    sim_node_crash(s1, true);
    fig8.copies = 0x1f;
    fig8.entries_max = 0;
    sim_node_start(s5);
    elect(4, "S5 leads again");
    reach(sim_run_until(has_stored, &on_s5, SIM_S), "S5 kept its entry");
    struct stored overwritten = {2, index, on_s5.term};
    reach(sim_run_until(has_stored, &overwritten, 5 * SIM_S), "S3's entry is overwritten");
}

// ---- the others ------------------------------------------------------------------------

static unsigned settle(void) {
    unsigned done = 0;
    sim_start_all();
    for (unsigned i = 0; i < sim.n && sim_leader() == NULL; i++) {
        sim_run_for(2 * SIM_S);
    }
    reach(sim_leader() != NULL, "a leader");
    return done;
}

// A follower that was away for long gets a snapshot, is killed as it is written to its disk, and
// again, and has all of it in the end.
static void install_and_kill(void) {
    settle();
    sim_clients_init(8);
    for (unsigned round = 0; round < 4; round++) {
        unsigned away = (unsigned)((sim_leader() != NULL ? sim_leader()->index : 0) + 1) % sim.n;
        sim_node_crash(&sim.nodes[away], true);
        sim_run_for(4 * SIM_S);
        sim.nodes[away].disk.latency_us = 20 * SIM_MS;
        sim_node_start(&sim.nodes[away]);
        sim_run_for(sim_below(200 * SIM_MS));
        if (sim.nodes[away].up) {
            sim_node_crash(&sim.nodes[away], true);
        }
        sim_node_start(&sim.nodes[away]);
        sim_run_for(SIM_S);
    }
    SIM_CHECK(sim.counts[SIM_SNAPSHOTS_INSTALLED] > 0, "no snapshot was installed");
}

// Power fails everywhere at once, again and again, under load.
static void all_off(void) {
    settle();
    sim_clients_init(12);
    for (unsigned round = 0; round < 15; round++) {
        sim_run_for(SIM_S + sim_below(SIM_S));
        for (unsigned i = 0; i < sim.n; i++) {
            sim_node_crash(&sim.nodes[i], true);
        }
        sim_start_all();
    }
}

// The leader hands over all the time.
static void step_down_body(struct sim_node *node, void *arg) {
    (void)arg;
    nl_cluster_step_down(node->cluster, 1000, NULL, NULL);
}

static void hand_over(void) {
    settle();
    sim_clients_init(12);
    uint64_t before = sim.counts[SIM_ELECTIONS];
    for (unsigned round = 0; round < 40; round++) {
        struct sim_node *leader = sim_leader();
        if (leader != NULL) {
            sim_as_node(leader, step_down_body, NULL);
            sim_node_wake(leader);
        }
        sim_run_for(200 * SIM_MS + sim_below(400 * SIM_MS));
    }
    SIM_CHECK(sim.counts[SIM_ELECTIONS] > before + 20, "leadership was not handed over");
}

static struct sim_node *leader_or_fail(void) {
    for (unsigned i = 0; i < 10 && sim_leader() == NULL; i++) {
        sim_run_for(SIM_S);
    }
    reach(sim_leader() != NULL, "a leader");
    return sim_leader();
}

// The leader's snapshot is of an older term when it decides to send it; while it is read, one of
// this term is stored. What is sent must be one or the other.
static void newer_snapshot(void) {
    settle();
    sim_clients_init(12);
    for (unsigned round = 0; round < 3; round++) {
        struct sim_node *leader = leader_or_fail();
        struct sim_node *away = &sim.nodes[(leader->index + 1) % sim.n];
        if (away->up) {
            sim_node_crash(away, false);
        }
        sim_run_for(3 * SIM_S);
        sim_as_node(leader, step_down_body, NULL);
        sim_node_wake(leader);
        sim_run_for(60 * SIM_MS);
        for (unsigned i = 0; i < sim.n; i++) {
            sim.nodes[i].disk.read_us = 100 * SIM_MS + sim_below(SIM_S);
        }
        sim_node_start(away);
        sim_run_for(2 * SIM_S);
    }
    SIM_CHECK(sim.counts[SIM_SNAPSHOTS_INSTALLED] > 0, "no snapshot was installed");
}

// A snapshot is long on its way; its sender is deposed meanwhile and leads again.
static void late_snapshot(void) {
    settle();
    sim_clients_init(12);
    for (unsigned round = 0; round < 5; round++) {
        struct sim_node *leader = leader_or_fail();
        struct sim_node *away = &sim.nodes[(leader->index + 1) % sim.n];
        struct sim_node *third = &sim.nodes[(leader->index + 2) % sim.n];
        if (away->up) {
            sim_node_crash(away, false);
        }
        sim_run_for(4 * SIM_S);
        sim.links[leader->index][away->index].latency_us = 500 * SIM_MS;
        sim_node_start(away);
        sim_run_for(600 * SIM_MS + sim_below(SIM_S));
        for (unsigned i = 0; i < 2; i++) {
            struct sim_node *from = i == 0 ? leader : third;
            if (is_leader(from)) {
                sim_as_node(from, step_down_body, NULL);
                sim_node_wake(from);
            }
            sim_run_for(100 * SIM_MS);
        }
        sim_run_for(2 * SIM_S);
        sim.links[leader->index][away->index].latency_us = 200;
    }
}

static const struct {
    const char *name;
    unsigned nodes;
    void (*run)(void);
} scenarios[] = {
    {"figure-8", 5, figure8},
    {"install-and-kill", 3, install_and_kill},
    {"all-off", 3, all_off},
    {"hand-over", 5, hand_over},
    {"newer-snapshot", 3, newer_snapshot},
    {"late-snapshot", 3, late_snapshot},
};

bool sim_scenario_run(const char *name) {
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (strcmp(scenarios[i].name, name) == 0) {
            sim.n = sim.options.nodes > 0 ? sim.n : scenarios[i].nodes;
            sim_net_init();
            scenarios[i].run();
            return true;
        }
    }
    return false;
}

void sim_scenario_list(void) {
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        fprintf(stderr, " %s", scenarios[i].name);
    }
}
