// What happened in a run, kept outside of the nodes: every entry that was ever stored, what each
// index applied to, and what became of each command. Functions return NULL, or in what way the new
// fact contradicts an older one.
#ifndef NODELINK_TESTS_SIM_HISTORY_H
#define NODELINK_TESTS_SIM_HISTORY_H

#include "cluster/state/state.h"

struct sim_stored {
    uint64_t term, digest, prev_term;
};

struct sim_applied {
    uint64_t term;    // 0: not known
    uint64_t within;  // the highest term anybody led when it was first applied
    bool has_commands;
    uint64_t commands, state;   // digests
    uint64_t snapshot;          // digest of a snapshot at this index; 0: none yet
    struct sim_stored *stored;  // one per term in which an entry was stored here; owned
    unsigned n_stored;
};

enum sim_command_end { SIM_NOT_APPLIED, SIM_APPLIED, SIM_NEVER };

struct sim_command {
    uint64_t proposer, boot, sequence;  // proposer 0: free
    enum sim_command_end end;
    bool promised;  // a client was told that it is done
    uint64_t index;
    struct nl_outcome outcome;
};

struct sim_history {
    struct sim_applied *at;  // by index
    size_t n;
    struct sim_command *commands;  // hash table
    size_t n_commands, cap_commands;
};

uint64_t sim_digest(const void *data, size_t len);
void sim_history_free(struct sim_history *h);

const char *sim_history_log(struct sim_history *h, uint64_t index, uint64_t term, uint64_t digest,
                            uint64_t prev_term);
// A node begins to apply the entry at `index`, which is of `term` (0: not known).
const char *sim_history_begin(struct sim_history *h, uint64_t index, uint64_t term,
                              uint64_t within);
uint64_t sim_history_term(const struct sim_history *h, uint64_t index);  // 0: not known
// The last entry that was applied before a leader of `term` or a later one was elected.
uint64_t sim_history_last_before(const struct sim_history *h, uint64_t last, uint64_t term);
const char *sim_history_apply(struct sim_history *h, uint64_t index, uint64_t commands,
                              uint64_t state);
const char *sim_history_restored(struct sim_history *h, uint64_t index, uint64_t state);
const char *sim_history_snapshot(struct sim_history *h, uint64_t index, uint64_t digest);

// The outcome that applying a command had.
const char *sim_history_outcome(struct sim_history *h, const struct nl_effect *effect);
const char *sim_history_acked(struct sim_history *h, uint64_t proposer, uint64_t boot,
                              uint64_t sequence, uint64_t index, struct nl_outcome outcome);
const char *sim_history_refused(struct sim_history *h, uint64_t proposer, uint64_t boot,
                                uint64_t sequence);
// A node starts with this number. One that was not counted may come again, for nothing that
// carries it was sent: what its clients were told of such commands says nothing any more.
const char *sim_history_boot(struct sim_history *h, uint64_t proposer, uint64_t boot);
// A client was told that it is done, before anybody applied it (a planted defect).
void sim_history_promise(struct sim_history *h, uint64_t proposer, uint64_t boot,
                         uint64_t sequence);
// A promised command that was not applied, or NULL.
const struct sim_command *sim_history_broken_promise(const struct sim_history *h);

#endif
