// Between the core's structs and the messages of the wire and the journal. Pure.
#ifndef NODELINK_AGENT_SUPERVISOR_CONVERT_H
#define NODELINK_AGENT_SUPERVISOR_CONVERT_H

#include <nodelink/v1/supervisor.pb-c.h>

#include "agent/supervisor/core.h"

// A message that borrows from the result it was made of: valid as long as that.
struct sup_result_message {
    Nodelink__V1__TaskResult message;
};
void sup_result_to_message(const struct sup_result *r, struct sup_result_message *ret);
// NL_EINVAL: a kind or a digest that can't be.
int sup_result_from_message(const Nodelink__V1__TaskResult *m, struct sup_result *ret);

// Borrows from the task; don't copy or move it.
struct sup_task_message {
    Nodelink__V1__SupTask message;
    Nodelink__V1__SupSpool spool;
    struct sup_result_message result;
    char spool_dir[SUP_KEY_SIZE + 8];
};
void sup_task_to_message(struct sup_task *t, struct sup_task_message *ret);
void sup_spool_to_message(struct sup_task *t, Nodelink__V1__SupSpool *ret);

#endif
