// What the files of the simulation share: a cluster of real nodes (cluster/, libraft, the state
// machine) in one process, on virtual time, over a simulated disk and network, from one seed.
//
// One thread. The product's code asks for clock, loop, disk and network through functions that the
// linker replaces (--wrap, see CMakeLists.txt); those have no argument that names a node, so
// `sim.current` says whose code runs.
#ifndef NODELINK_TESTS_SIM_SIM_H
#define NODELINK_TESTS_SIM_SIM_H

#include <raft.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "cluster/internal.h"

enum {
    SIM_NODES_MAX = 5,
    SIM_TIMERS_MAX = 8,
    SIM_MS = 1000,  // virtual time is in microseconds
    SIM_S = 1000000,
};

// ---- random.c ----------------------------------------------------------------

uint64_t sim_random(void);            // of the run's seed
uint64_t sim_below(uint64_t n);       // 0 .. n-1
bool sim_chance(unsigned per_mille);  // true that often
uint64_t sim_exponential(uint64_t mean);
uint64_t sim_mix(uint64_t a, uint64_t b);

// ---- counters ----------------------------------------------------------------

// What happened, so that a run without faults or without work is seen. The names are in stats.c.
enum sim_count {
    SIM_STEPS,
    SIM_VIRTUAL_MS,
    SIM_ELECTIONS,
    SIM_ENTRIES_APPLIED,
    SIM_COMMANDS_APPLIED,
    SIM_DUPLICATES,
    SIM_SNAPSHOTS_TAKEN,
    SIM_SNAPSHOTS_INSTALLED,
    SIM_TRUNCATIONS,
    SIM_PROPOSED,
    SIM_ACKED,
    SIM_REFUSED,
    SIM_UNKNOWN,
    SIM_READS,
    SIM_RETRIES,
    SIM_RESTARTS,
    SIM_F_KILL,
    SIM_F_POWER,
    SIM_F_POWER_ALL,
    SIM_F_WRITES_LOST,
    SIM_F_FAIL_STOP,
    SIM_F_PARTITION,
    SIM_F_ONE_WAY,
    SIM_F_STALLED,
    SIM_F_RESET,
    SIM_F_DROPPED,
    SIM_F_SLOW_LINK,
    SIM_F_SLOW_DISK,
    SIM_F_HUNG_DISK,
    SIM_F_WRITE_FAILED,
    SIM_F_DISK_FULL,
    SIM_F_PAUSE,
    SIM_F_TRANSFER,
    SIM_F_CLOCK_JUMP,
    SIM_COUNTS,
};
extern const char *const sim_count_names[SIM_COUNTS];

// ---- defects that are put in on purpose ----------------------------------------

enum sim_plant {
    PLANT_NONE,
    PLANT_ACK_EARLY,       // a proposal is acknowledged when the leader has it in its log
    PLANT_NO_DEDUP,        // a restored state has forgotten which commands were applied
    PLANT_LOSE_SYNCED,     // a power failure takes the latest completed write along
    PLANT_SYNC_EARLY,      // a write is reported done before it is on the disk
    PLANT_NO_VOTE,         // the vote is not written
    PLANT_NO_TERM,         // the term is not written
    PLANT_COUNT_REPLICAS,  // an old term's entry counts as committed once a majority holds it
    PLANT_STALE_READ,      // a read is answered from the node's own state
    PLANT_COMMIT_BACK,     // without the guard's bound on a message's commit index
    PLANTS,
};
extern const char *const sim_plant_names[PLANTS];

// ---- what a node waits for -------------------------------------------------------

enum sim_how {
    SIM_DONE,       // it came
    SIM_CANCELED,   // the node closes
    SIM_ABANDONED,  // the node stopped in the middle: only the simulation's memory is freed
};

struct sim_node;

// Something that will happen to a node: a message, a finished write, the end of some work. The
// first member of what it is about; `run` frees that.
struct sim_pending {
    struct sim_node *node;
    void (*run)(struct sim_pending *pending, enum sim_how how);
    uint64_t digest;  // for the trace
    struct sim_pending *prev, *next;
};

// ---- disk ------------------------------------------------------------------------

struct sim_entry {
    uint64_t term;
    uint16_t type;
    uint8_t *data;  // owned
    size_t len;
};

struct sim_snapshot {
    uint64_t index, term;  // index 0: none
    struct raft_configuration conf;
    uint64_t conf_index;
    uint8_t *data;  // owned
    size_t len;
};

struct sim_disk_op;

struct sim_disk {
    // What survives.
    uint64_t term, vote, boot;
    bool ready;
    struct sim_snapshot snapshot;
    struct sim_entry *entries;  // owned; the log is first .. first + n - 1
    uint64_t first;
    size_t n, cap;
    uint64_t mark, mark_synced;
    uint64_t install_index, install_term;
    // What does not.
    uint64_t next;            // index of the next append, after all that is queued
    struct sim_disk_op *ops;  // queued, oldest first
    unsigned in_write;        // of them, in the write under way
    bool snapshot_under_way;  // of the own state
    // Faults.
    uint64_t latency_us;
    uint64_t read_us;  // how long it takes to read the snapshot; 0: some milliseconds
    uint64_t hung_until_us;
    bool broken;    // a write failed in this life
    unsigned fail;  // enum sim_fail, bits: the next write of that kind fails
    bool full;
};

enum sim_fail {
    SIM_FAIL_APPEND = 1,
    SIM_FAIL_TERM = 2,
    SIM_FAIL_VOTE = 4,
    SIM_FAIL_TRUNCATE = 8,
    SIM_FAIL_SNAPSHOT = 16,
};

void sim_disk_init(struct sim_disk *disk);
void sim_disk_free(struct sim_disk *disk);
// What of the queue reaches the disk is up to chance. Does not touch the product's memory.
void sim_disk_crash(struct sim_node *node, bool power);
void sim_disk_cancel(struct sim_node *node, enum sim_how how);  // ends every queued write
uint64_t sim_disk_last(const struct sim_disk *disk);            // index of the last entry
void sim_disk_clear_log(struct sim_disk *disk);                 // what a snapshot has replaced

// ---- node ------------------------------------------------------------------------

struct sim_timer {
    uv_timer_t *timer;  // NULL: free
    uv_timer_cb cb;
    uint64_t due_us, repeat_us;
};

struct sim_node {
    unsigned index;
    uint64_t id;
    char address[32];
    uv_loop_t loop;  // never run: only its address counts
    struct sim_disk disk;

    // One life, from start to crash.
    bool up;
    uint32_t life;  // rises with each start and each end
    struct nl_cluster *cluster;
    struct raft *raft;
    struct raft_io *io;  // below the guard
    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    raft_io_close_cb close;
    uint64_t tick_us, tick_due_us;
    struct sim_timer timers[SIM_TIMERS_MAX];
    uv_prepare_t *prepare;
    uv_prepare_cb prepare_cb;
    struct sim_pending *pending;  // to come
    struct sim_pending *inbox;    // here, for the next turn
    bool turn_due;
    bool closed;
    bool may_stop;  // a fault was put in that the node must answer by stopping
    bool booted;    // its NodeUp is proposed
    jmp_buf fatal;

    // Faults.
    uint64_t paused_until_us;
    int64_t wall_skew_ms;

    // For the checks.
    uint64_t commit_seen, applied_seen, led_term;
    uint64_t apply_index, apply_digest;  // the entry being applied; 0: none
    struct nl_state *cluster_state;      // of the cluster, also while it opens
};

// Runs `fn` as the node's code. false: the node stopped itself meanwhile.
bool sim_as_node(struct sim_node *node, void (*fn)(struct sim_node *node, void *arg), void *arg);
void sim_node_start(struct sim_node *node);
void sim_node_crash(struct sim_node *node, bool power);
// The node comes to itself now or when its pause is over, with what is in its inbox.
void sim_node_wake(struct sim_node *node);
void sim_post(struct sim_node *node, uint64_t delay_us, struct sim_pending *pending);

// ---- network -----------------------------------------------------------------------

enum sim_block { SIM_OPEN, SIM_STALL, SIM_DROP };

// From one node to another one, both ways of traffic (Raft and rpc).
struct sim_link {
    enum sim_block block;
    uint64_t latency_us;
    uint64_t last_raft_us, last_rpc_us;  // the latest delivery: the order is kept
    struct sim_pending *held_raft, *held_rpc;
};

void sim_net_init(void);
void sim_net_free(void);
void sim_net_block(unsigned from, unsigned to, enum sim_block block);
void sim_net_heal(void);
void sim_net_reset(unsigned from, unsigned to);  // the Raft connection and what it holds is lost
void sim_rpc_crashed(struct sim_node *node);     // the other ends hear of it
// How a scenario shapes the traffic; may change the message. false: it is lost.
typedef bool (*sim_filter)(unsigned from, unsigned to, struct raft_message *message);

// ---- checks ------------------------------------------------------------------------

// Prints what is wrong and ends the run.
void sim_violation(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
void sim_note(const char *format, ...) __attribute__((format(printf, 1, 2)));  // with -v
#define SIM_CHECK(holds, ...)           \
    do {                                \
        if (!(holds)) {                 \
            sim_violation(__VA_ARGS__); \
        }                               \
    } while (0)

void sim_check_init(void);
void sim_check_free(void);
void sim_check_appended(const struct sim_node *node, uint64_t index, const struct sim_entry *entry,
                        uint64_t prev_term);
void sim_check_message(const struct sim_node *node, const struct raft_message *message);
void sim_check_turn(struct sim_node *node);  // after each turn of a node
void sim_check_node_up(struct sim_node *node);
void sim_check_state(struct sim_node *node);
// A snapshot of the node's state, as it goes to its disk.
void sim_check_snapshot(const struct sim_node *node, uint64_t index, const uint8_t *data,
                        size_t len);
// What a node told a client about its proposal.
void sim_check_acked(uint64_t proposer, uint64_t boot, uint64_t sequence, uint64_t index,
                     struct nl_outcome outcome);
void sim_check_refused(uint64_t proposer, uint64_t boot, uint64_t sequence);
void sim_check_promised(uint64_t proposer, uint64_t boot, uint64_t sequence);
void sim_check_promises(void);         // at the end
uint64_t sim_check_acked_max(void);    // highest index known to any client
uint64_t sim_check_applied_max(void);  // highest index applied by any node

// ---- clients -----------------------------------------------------------------------

void sim_clients_init(unsigned n);
void sim_clients_free(void);
void sim_clients_stop(void);
void sim_clients_step(uint64_t client);             // the client's next step
void sim_clients_node_gone(struct sim_node *node);  // its unanswered requests are unknown
void sim_clients_booted(struct sim_node *node);     // proposes its NodeUp
bool sim_clients_idle(void);
// One command through this node; ret counts up when it is acknowledged.
void sim_clients_probe(struct sim_node *node, unsigned *ret);

// ---- faults ------------------------------------------------------------------------

void sim_faults_step(uint64_t arg);
void sim_faults_heal(void);  // everything works again; nodes that are down start

// ---- the run -----------------------------------------------------------------------

struct sim_options {
    uint64_t seed;
    uint64_t steps;
    unsigned nodes;  // 0: 3 or 5, from the seed
    const char *scenario;
    enum sim_plant plant;
    bool verbose;
};

struct sim {
    struct sim_options options;
    uint64_t now_us;
    uint64_t random;
    uint64_t trace;  // hash of what happened so far
    unsigned n;
    struct sim_node nodes[SIM_NODES_MAX];
    struct sim_link links[SIM_NODES_MAX][SIM_NODES_MAX];
    struct sim_node *current;
    sim_filter filter;
    bool quiet;  // no faults, no chance: the end of a run, or a scenario
    uint64_t counts[SIM_COUNTS];
};
extern struct sim sim;

void sim_trace(uint64_t a, uint64_t b);
// fn(arg) at a virtual time.
void sim_at(uint64_t at_us, void (*fn)(uint64_t arg), uint64_t arg);
// At a virtual time, unless the node's life has ended.
void sim_at_life(uint64_t at_us, void (*fn)(uint64_t node), struct sim_node *node);
bool sim_step(void);  // the next event; false: none
// false: `limit_us` of virtual time passed without it.
bool sim_run_until(bool (*holds)(void *arg), void *arg, uint64_t limit_us);
void sim_run_for(uint64_t us);
void sim_open(const struct sim_options *options);
void sim_start_all(void);  // that are down
void sim_close(void);
struct sim_node *sim_leader(void);  // of the highest term, or NULL
// Heals and demands that the cluster becomes live and equal.
void sim_finish(void);

// ---- scenario.c --------------------------------------------------------------------

bool sim_scenario_run(const char *name);  // false: no such scenario
void sim_scenario_list(void);

#endif
