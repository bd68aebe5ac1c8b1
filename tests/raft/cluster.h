// Three simulated servers whose state machine remembers the sum of what was applied and, of one
// marked value, whether it ever was.
#ifndef NODELINK_TESTS_RAFT_CLUSTER_H
#define NODELINK_TESTS_RAFT_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include <raft.h>
#include <raft/fixture.h>

#define CLUSTER_SERVERS 3
// Proposed only where it can never be committed.
#define CLUSTER_MARKED 0xbadULL

struct cluster_machine {
    struct raft_fsm fsm;
    uint64_t sum;
    bool marked_applied;
};

struct cluster {
    struct raft_fixture fixture;
    struct cluster_machine machines[CLUSTER_SERVERS];
};

// Server 0 leads, and all have applied its first entry.
void cluster_start(struct cluster *c);
void cluster_close(struct cluster *c);

struct raft *cluster_raft(struct cluster *c, unsigned server);

// Proposes on a leader; nobody waits for it.
void cluster_propose(struct cluster *c, unsigned server, uint64_t value);
// Proposes and steps until it is committed; milliseconds of virtual time.
unsigned cluster_commit(struct cluster *c, unsigned server, uint64_t value);

// Cuts one server off, in both directions, and joins it again.
void cluster_cut(struct cluster *c, unsigned server);
void cluster_join(struct cluster *c, unsigned server);

#endif
