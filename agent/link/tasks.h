// The link's table of tasks: what the supervisor said of each and what was told to the server.
// Pure. Losing it loses nothing: the supervisor's journal fills it again at the next attach.
//
//   STARTING --(SupTask RUNNING)--> RUNNING --(SupTask FINISHED)--> FINISHED --(ResultAck)-->
//   FORGOTTEN
//       \---(SupTask FINISHED, SupRefused, a cancel of what never ran)---^          FORGOTTEN ->
//       gone
//
// FORGOTTEN tasks are kept for readers of their spool, oldest out first, up to a limit.
#ifndef NODELINK_AGENT_LINK_TASKS_H
#define NODELINK_AGENT_LINK_TASKS_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum nl_link_phase {
    NL_LINK_STARTING,
    NL_LINK_RUNNING,
    NL_LINK_FINISHED,
    NL_LINK_FORGOTTEN,
};

// stdout is 0, stderr is 1.
enum { NL_LINK_OUT = 0, NL_LINK_ERR = 1, NL_LINK_STREAMS = 2 };

struct nl_link_sub;
TAILQ_HEAD(nl_link_sub_list, nl_link_sub);

struct nl_link_task {
    TAILQ_ENTRY(nl_link_task) in_order;  // of arrival; FORGOTTEN ones in an order of their own
    LIST_ENTRY(nl_link_task) in_bucket;
    char *id;  // owned
    uint32_t attempt;
    enum nl_link_phase phase;
    uint64_t started_ms;  // wall clock
    int32_t pid;
    Nodelink__V1__TaskResult *result;    // owned; set from FINISHED on
    Nodelink__V1__ToSupervisor *run;     // owned; STARTING: to be sent again to a new supervisor
    uint64_t start_by_ms, finish_by_ms;  // monotonic; 0: none
    uint64_t timeout_ms;                 // as asked for
    char *cancel_reason;                 // owned; a cancel that has to reach the supervisor
    bool local;  // no supervisor knows it: it was refused, or cancelled before it came
    bool acked;  // the cluster has the result, the supervisor is still to be told
    bool seen;   // by the attach that goes on
    bool lost;   // RUNNING: its supervisor died; LOST follows when what is left of it is gone
    uint64_t forgotten_at_ms;  // monotonic

    // What went out on which stream (number of its call; 0: none).
    uint64_t hello_on;
    uint64_t started_on;
    uint64_t uncertain_on;
    uint64_t result_on;
    uint64_t result_at_ms;  // monotonic

    // Spool
    char *spool_dir;                 // owned; relative to the state directory; NULL: not known yet
    uint64_t base[NL_LINK_STREAMS];  // lowest byte that is there
    uint64_t end[NL_LINK_STREAMS];
    uint64_t pushed[NL_LINK_STREAMS];        // to stock servers
    uint64_t released[NL_LINK_STREAMS];      // last told to the supervisor
    bool released_no_reader;                 // the same
    bool release_unknown;                    // what the supervisor was told last is not known
    uint32_t releases_sent, releases_taken;  // since the attach; taken: as the supervisor says
    uint64_t no_reader_at_ms;                // when to say so; 0: there is a reader, or it was said
    struct nl_link_sub_list subs;
};

#define NL_LINK_TASK_BUCKETS 4096u

TAILQ_HEAD(nl_link_task_list, nl_link_task);

struct nl_link_tasks {
    LIST_HEAD(, nl_link_task) buckets[NL_LINK_TASK_BUCKETS];
    struct nl_link_task_list live;       // all but FORGOTTEN
    struct nl_link_task_list forgotten;  // oldest first
    uint32_t live_count, forgotten_count;
};

void nl_link_tasks_init(struct nl_link_tasks *t);
void nl_link_tasks_close(struct nl_link_tasks *t);  // subs must be gone

struct nl_link_task *nl_link_tasks_find(const struct nl_link_tasks *t, const char *id,
                                        uint32_t attempt);
// Newest attempt of a task, for frames that don't say one. NULL: none.
struct nl_link_task *nl_link_tasks_find_latest(const struct nl_link_tasks *t, const char *id);
// A new live task in phase STARTING. NULL: no memory.
struct nl_link_task *nl_link_tasks_add(struct nl_link_tasks *t, const char *id, uint32_t attempt);
void nl_link_tasks_remove(struct nl_link_tasks *t, struct nl_link_task *task);
void nl_link_tasks_forget(struct nl_link_tasks *t, struct nl_link_task *task, uint64_t now_ms);

#endif
