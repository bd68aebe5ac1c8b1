// What stock agents push: the last bytes of each stream of each task, its totals and SHA-256, and
// the result made from the final response. A stock agent has no spool: what is not kept here is
// gone.
//
// Loop thread. Bounded: NL_STOCK_STREAM_MAX per stream and task, NL_STOCK_TOTAL_MAX in all,
// NL_STOCK_TASKS_MAX tasks; ended tasks go first, the oldest first.
#ifndef NODELINK_SERVER_STOCK_H
#define NODELINK_SERVER_STOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nodelink/v1/task.pb-c.h>

#define NL_STOCK_STREAM_MAX (1024u * 1024u)
#define NL_STOCK_TOTAL_MAX (64u * 1024u * 1024u)
#define NL_STOCK_TASKS_MAX 4096u

struct nl_stock;
struct nl_stock_task;

// Told when bytes were added, or the task ended. Embedded; runs inside of append: put work off.
struct nl_stock_listener {
    void (*changed)(struct nl_stock_listener *listener);
    void (*gone)(struct nl_stock_listener *listener);  // the task was dropped: don't touch it again
    struct nl_stock_listener *prev, *next;
};

struct nl_stock *nl_stock_new(void);  // NULL: no memory
void nl_stock_free(struct nl_stock *stock);

// The task was sent. A task that is known begins anew. NL_ENOMEM.
int nl_stock_begin(struct nl_stock *stock, const char *task_id, const char *agent_id,
                   uint64_t epoch);
struct nl_stock_task *nl_stock_find(struct nl_stock *stock, const char *task_id);
void nl_stock_append(struct nl_stock *stock, struct nl_stock_task *task, int stream,
                     const uint8_t *data, size_t len);
// No more bytes will come; complete: because the agent said that it has ended.
void nl_stock_end(struct nl_stock *stock, struct nl_stock_task *task, bool complete);
// The agent's stream is over: its tasks end, incomplete.
void nl_stock_agent_gone(struct nl_stock *stock, const char *agent_id, uint64_t epoch);
void nl_stock_drop(struct nl_stock *stock, const char *task_id);

// The result that a final response means. `task` NULL: nothing of it was seen here, so the totals
// are not known and the digests are left empty. ret's digests point into `digests`.
void nl_stock_result(const struct nl_stock_task *task, const Nodelink__V1__TaskResponse *frame,
                     uint8_t digests[2][32], Nodelink__V1__TaskResult *ret);

uint64_t nl_stock_base(const struct nl_stock_task *task, int stream);
uint64_t nl_stock_total(const struct nl_stock_task *task, int stream);
bool nl_stock_ended(const struct nl_stock_task *task, bool *ret_complete);
// Bytes from `offset`, which is within base..total; valid until the next call on the stock.
const uint8_t *nl_stock_bytes(const struct nl_stock_task *task, int stream, uint64_t offset,
                              size_t *ret_len);
void nl_stock_listen(struct nl_stock_task *task, struct nl_stock_listener *listener);
void nl_stock_leave(struct nl_stock_task *task, struct nl_stock_listener *listener);

#endif
