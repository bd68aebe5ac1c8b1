// What must hold, whatever happens. The history of what was applied is kept here, outside of all
// nodes: whoever applies an index first writes it, everybody else must agree.

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "tests/sim/history.h"
#include "tests/sim/sim.h"
#include "tests/sim/wrap.h"

void sim_forget_outcomes(struct nl_state *state);  // plant.c
// libraft's own (src/trail.h): the term of an entry, 0 when the log doesn't hold it.
raft_term TrailTermOf(const struct raft_trail *trail, raft_index index);

#define U(x) ((unsigned long long)(x))

static struct {
    struct sim_history history;
    uint64_t *leaders;  // by term: node id, 0: none
    size_t n_leaders;
    uint64_t acked_max, applied_max, led_max;
} check;

void sim_note(const char *format, ...) {
    va_list args;
    if (!sim.options.verbose) {
        return;
    }
    va_start(args, format);
    fprintf(stderr, "%10.3f ms  ", (double)sim.now_us / SIM_MS - 1e6);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

void sim_violation(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "seed %llu: VIOLATION at %.3f ms, step %llu: ", U(sim.options.seed),
            (double)sim.now_us / SIM_MS - 1e6, U(sim.counts[SIM_STEPS]));
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    _exit(1);
}

void sim_check_init(void) {
    memset(&check, 0, sizeof check);
}

void sim_check_free(void) {
    sim_history_free(&check.history);
    free(check.leaders);
}

uint64_t sim_check_acked_max(void) {
    return check.acked_max;
}

uint64_t sim_check_applied_max(void) {
    return check.applied_max;
}

// ---- logs match ----------------------------------------------------------------------

// Raft, section 5.3. Two entries with equal index and term are the same and have the same entry
// before them: by induction the logs are equal up to there.
void sim_check_appended(const struct sim_node *node, uint64_t index, const struct sim_entry *entry,
                        uint64_t prev_term) {
    uint64_t digest = sim_mix(sim_digest(entry->data, entry->len), entry->type);
    const char *why = sim_history_log(&check.history, index, entry->term, digest, prev_term);
    SIM_CHECK(why == NULL, "node %u stores entry %llu of term %llu, but %s", node->index + 1,
              U(index), U(entry->term), why);
}

// ---- term, vote and entries are on the disk before they are used -------------------------

void sim_check_message(const struct sim_node *node, const struct raft_message *m) {
    const struct sim_disk *disk = &node->disk;
    uint64_t term = 0;
    switch (m->type) {
        case RAFT_APPEND_ENTRIES:
            term = m->append_entries.term;
            break;
        case RAFT_APPEND_ENTRIES_RESULT:
            term = m->append_entries_result.term;
            SIM_CHECK(m->append_entries_result.rejected != 0 || term != disk->term ||
                          m->append_entries_result.last_log_index <= sim_disk_last(disk) ||
                          m->append_entries_result.last_log_index <= disk->snapshot.index,
                      "node %u says that it holds entry %llu, its disk ends at %llu",
                      node->index + 1, U(m->append_entries_result.last_log_index),
                      U(sim_disk_last(disk)));
            break;
        case RAFT_REQUEST_VOTE:
            term = m->request_vote.pre_vote ? 0 : m->request_vote.term;
            SIM_CHECK(term == 0 || disk->vote == node->id,
                      "node %u asks for votes without its own on the disk", node->index + 1);
            break;
        case RAFT_REQUEST_VOTE_RESULT:
            term = m->request_vote_result.pre_vote ? 0 : m->request_vote_result.term;
            SIM_CHECK(term == 0 || !m->request_vote_result.vote_granted ||
                          (disk->vote == m->server_id && disk->term == term),
                      "node %u gives node %llu a vote that is not on its disk", node->index + 1,
                      U(m->server_id));
            break;
        default:
            break;
    }
    SIM_CHECK(term <= disk->term, "node %u speaks in term %llu, its disk has %llu", node->index + 1,
              U(term), U(disk->term));
}

// ---- leaders ---------------------------------------------------------------------------

static void note_leader(struct sim_node *node, uint64_t term) {
    if (term >= check.n_leaders) {
        size_t n = 2 * (size_t)term + 16;
        check.leaders = realloc(check.leaders, n * sizeof *check.leaders);
        assert(check.leaders != NULL);
        memset(check.leaders + check.n_leaders, 0, (n - check.n_leaders) * sizeof *check.leaders);
        check.n_leaders = n;
    }
    SIM_CHECK(check.leaders[term] == 0 || check.leaders[term] == node->id,
              "nodes %llu and %u both lead in term %llu", U(check.leaders[term]), node->index + 1,
              U(term));
    check.leaders[term] = node->id;
}

// Raft, section 5.4: a leader holds every entry that was committed in earlier terms. (One of a
// later term may lead already.)
static void check_completeness(const struct sim_node *node, uint64_t term) {
    uint64_t index = sim_history_last_before(&check.history, check.applied_max, term);
    uint64_t want = sim_history_term(&check.history, index);
    uint64_t last = raft_last_index(node->raft);
    SIM_CHECK(last >= index, "node %u leads with a log up to %llu, but %llu was applied",
              node->index + 1, U(last), U(index));
    uint64_t have = index > 0 ? TrailTermOf(&node->raft->trail, index) : 0;
    SIM_CHECK(want == 0 || have == 0 || have == want,
              "node %u leads with entry %llu of term %llu, but that of term %llu was applied",
              node->index + 1, U(index), U(have), U(want));
}

static void check_leader(struct sim_node *node) {
    uint64_t term = raft_current_term(node->raft);
    if (raft_state(node->raft) != RAFT_LEADER || node->led_term == term) {
        return;
    }
    node->led_term = term;
    sim.counts[SIM_ELECTIONS]++;
    sim_note("node %u leads in term %llu", node->index + 1, U(term));
    note_leader(node, term);
    check_completeness(node, term);
    check.led_max = term > check.led_max ? term : check.led_max;
}

// ---- what is applied -------------------------------------------------------------------

static uint64_t hash_of(const struct nl_state *state) {
    uint8_t hash[NL_STATE_HASH_LEN];
    uint64_t half;
    nl_state_hash(state, hash);
    memcpy(&half, hash, sizeof half);
    return half;
}

// The entry that the node was applying is complete: the same commands, the same state after it.
static void end_entry(struct sim_node *node) {
    if (node->apply_index == 0) {
        return;
    }
    uint64_t index = node->apply_index;
    const char *why =
        sim_history_apply(&check.history, index, node->apply_digest, hash_of(node->cluster_state));
    SIM_CHECK(why == NULL, "node %u at entry %llu: %s", node->index + 1, U(index), why);
    sim_trace(index, hash_of(node->cluster_state));
    node->apply_index = 0;
    sim.counts[SIM_ENTRIES_APPLIED]++;
}

static void begin_entry(struct sim_node *node, uint64_t index) {
    end_entry(node);
    uint64_t term = node->raft != NULL ? TrailTermOf(&node->raft->trail, index) : 0;
    SIM_CHECK(index > node->applied_seen, "node %u applies entry %llu after %llu", node->index + 1,
              U(index), U(node->applied_seen));
    const char *why = sim_history_begin(&check.history, index, term, check.led_max);
    SIM_CHECK(why == NULL, "node %u applies entry %llu of term %llu, but %s", node->index + 1,
              U(index), U(term), why);
    node->applied_seen = node->apply_index = index;
    node->apply_digest = 0;
    check.applied_max = index > check.applied_max ? index : check.applied_max;
}

struct observer {
    struct sim_node *node;
    nl_effect_cb effect;
    void *user;
};

static void on_effect(void *user, const struct nl_effect *e) {
    const struct observer *o = user;
    if (e->kind == NL_EFFECT_OUTCOME) {
        sim.counts[e->duplicate ? SIM_DUPLICATES : SIM_COMMANDS_APPLIED]++;
        const char *why = sim_history_outcome(&check.history, e);
        SIM_CHECK(why == NULL, "node %u at entry %llu: command %llu of boot %llu of node %llu %s",
                  o->node->index + 1, U(e->index), U(e->sequence), U(e->boot), U(e->proposer), why);
    }
    o->effect(o->user, e);
}

int __wrap_nl_state_apply(struct nl_state *state, uint64_t index, const uint8_t *command,
                          size_t len, nl_effect_cb effect, void *user) {
    struct sim_node *node = sim.current;
    struct observer o = {node, effect, user};
    node->cluster_state = state;
    if (node->apply_index != index) {
        begin_entry(node, index);
    }
    node->apply_digest = sim_mix(node->apply_digest, sim_digest(command, len));
    return __real_nl_state_apply(state, index, command, len, on_effect, &o);
}

void sim_check_state(struct sim_node *node) {
    char why[256] = "";
    SIM_CHECK(nl_state_check(node->cluster_state, why, sizeof why) == NL_OK,
              "node %u: its state is not consistent: %s", node->index + 1, why);
}

// libraft's restore of a snapshot ends here: `state` gets the content of `loaded`.
void __wrap_nl_state_swap(struct nl_state *state, struct nl_state *loaded) {
    struct sim_node *node = sim.current;
    end_entry(node);
    __real_nl_state_swap(state, loaded);
    if (sim.options.plant == PLANT_NO_DEDUP) {
        sim_forget_outcomes(state);
    }
    node->cluster_state = state;
    uint64_t index = nl_state_index(state);
    SIM_CHECK(index >= node->applied_seen,
              "node %u goes back from entry %llu to a snapshot at %llu", node->index + 1,
              U(node->applied_seen), U(index));
    node->applied_seen = index;
    const char *why = sim_history_restored(&check.history, index, hash_of(state));
    SIM_CHECK(why == NULL, "node %u restores a snapshot at %llu: %s", node->index + 1, U(index),
              why);
    if (sim.options.plant != PLANT_NO_DEDUP) {
        sim_check_state(node);
    }
}

void sim_check_snapshot(const struct sim_node *node, uint64_t index, const uint8_t *data,
                        size_t len) {
    const char *why = sim_history_snapshot(&check.history, index, sim_digest(data, len));
    SIM_CHECK(why == NULL, "node %u takes a snapshot at %llu: %s", node->index + 1, U(index), why);
}

// ---- after each turn --------------------------------------------------------------------

int __wrap_raft_init(struct raft *r, struct raft_io *io, struct raft_fsm *fsm, raft_id id,
                     const char *address) {
    sim.current->raft = r;
    return __real_raft_init(r, io, fsm, id, address);
}

// A planted defect: Raft's figure 8, an entry of an old term is committed by counting.
static void count_replicas(struct sim_node *node) {
    struct raft *r = node->raft;
    if (raft_state(r) != RAFT_LEADER) {
        return;
    }
    for (uint64_t index = r->commit_index + 1; index <= r->last_stored; index++) {
        unsigned n = 0;
        for (unsigned i = 0; i < sim.n; i++) {
            raft_index match = 0;
            n += raft_match_index(r, i + 1, &match) == 0 && match >= index;
        }
        if (n > sim.n / 2) {
            r->commit_index = index;
        }
    }
}

void sim_check_turn(struct sim_node *node) {
    if (!node->up || node->raft == NULL) {
        return;
    }
    if (sim.options.plant == PLANT_COUNT_REPLICAS) {
        count_replicas(node);
    }
    end_entry(node);
    uint64_t commit = raft_commit_index(node->raft), applied = raft_last_applied(node->raft);
    SIM_CHECK(commit >= node->commit_seen, "node %u takes its commit index back from %llu to %llu",
              node->index + 1, U(node->commit_seen), U(commit));
    SIM_CHECK(applied <= commit, "node %u applied up to %llu, but committed up to %llu",
              node->index + 1, U(applied), U(commit));
    node->commit_seen = commit;
    check_leader(node);
    // O(state), so not each time.
    if (sim_below(64) == 0 && sim.options.plant != PLANT_NO_DEDUP) {
        sim_check_state(node);
    }
}

void sim_check_node_up(struct sim_node *node) {
    uint64_t boot = nl_cluster_boot(node->cluster);
    const char *why = sim_history_boot(&check.history, node->id, boot);
    SIM_CHECK(why == NULL, "node %u starts with number %llu, but %s", node->index + 1, U(boot),
              why);
    end_entry(node);
    node->cluster_state = node->cluster->state;
    sim_check_state(node);
}

// ---- what clients were told --------------------------------------------------------------

void sim_check_acked(uint64_t proposer, uint64_t boot, uint64_t sequence, uint64_t index,
                     struct nl_outcome outcome) {
    const char *why = sim_history_acked(&check.history, proposer, boot, sequence, index, outcome);
    SIM_CHECK(why == NULL, "command %llu of boot %llu of node %llu was acknowledged, but %s",
              U(sequence), U(boot), U(proposer), why);
    check.acked_max = index > check.acked_max ? index : check.acked_max;
}

void sim_check_refused(uint64_t proposer, uint64_t boot, uint64_t sequence) {
    const char *why = sim_history_refused(&check.history, proposer, boot, sequence);
    SIM_CHECK(why == NULL, "command %llu of boot %llu of node %llu was refused, but %s",
              U(sequence), U(boot), U(proposer), why);
}

// A planted defect: the leader answers when a command is in its log.
void sim_check_promised(uint64_t proposer, uint64_t boot, uint64_t sequence) {
    sim_history_promise(&check.history, proposer, boot, sequence);
}

void sim_check_promises(void) {
    const struct sim_command *c = sim_history_broken_promise(&check.history);
    SIM_CHECK(c == NULL, "command %llu of boot %llu of node %llu was acknowledged and is lost",
              U(c->sequence), U(c->boot), U(c->proposer));
}
