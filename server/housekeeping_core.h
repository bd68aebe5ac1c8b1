// The leader's judgements that come with time, as a pure machine: which agents are unreachable or
// lost, which tasks waited too long. The clock is the caller's monotonic one; a new leader starts
// every clock anew. A judgement names the epoch or version it judged, so a late one changes
// nothing, and is repeated until the state shows it.
#ifndef NODELINK_SERVER_HOUSEKEEPING_CORE_H
#define NODELINK_SERVER_HOUSEKEEPING_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nodelink/v1/command.pb-c.h>

#include "cluster/state/state.h"

struct nl_housekeeper;

struct nl_housekeeping_times {
    uint64_t unreachable_after_ms, disconnect_grace_ms;
    uint64_t wall_ms;  // now, for the deadlines of tasks
};

struct nl_housekeeper *nl_housekeeper_new(void);  // NULL: no memory
void nl_housekeeper_free(struct nl_housekeeper *hk);

// This node leads now: looks through the whole state. NL_ENOMEM: some deadlines are missing.
int nl_housekeeper_lead(struct nl_housekeeper *hk, uint64_t now_ms,
                        const struct nl_housekeeping_times *times, const struct nl_state *state);
void nl_housekeeper_follow(struct nl_housekeeper *hk);

// Changes while leading; without effect otherwise. NL_ENOMEM.
int nl_housekeeper_on_agent(struct nl_housekeeper *hk, uint64_t now_ms,
                            const struct nl_housekeeping_times *times, const struct nl_agent *agent,
                            enum nl_agent_connection old);
int nl_housekeeper_on_task(struct nl_housekeeper *hk, uint64_t now_ms,
                           const struct nl_housekeeping_times *times, const struct nl_task *task,
                           enum nl_task_state old);

// The next judgement that is due. Points into itself and the state: not to be copied.
struct nl_judgement {
    Nodelink__V1__Command command;
    union {
        Nodelink__V1__AgentTimeout timeout;
        Nodelink__V1__TaskExpire expire;
    } body;
    const char *agent_id, *task_id;  // for the log; NULL
    const char *what;
};
bool nl_housekeeper_next(struct nl_housekeeper *hk, uint64_t now_ms, const struct nl_state *state,
                         struct nl_judgement *ret);
size_t nl_housekeeper_count(const struct nl_housekeeper *hk);

// Which ended tasks are to go: fills *ret and returns true if there are any. wall_ms: for ages.
bool nl_housekeeper_prune(const struct nl_state *state, uint64_t wall_ms, uint64_t keep_ms,
                          uint64_t keep_max, Nodelink__V1__TaskPrune *ret);

#endif
