// What core.c and core_spool.c share; nobody else includes it.
#ifndef NODELINK_AGENT_SUPERVISOR_CORE_INTERNAL_H
#define NODELINK_AGENT_SUPERVISOR_CORE_INTERNAL_H

#include "agent/supervisor/core.h"

enum {
    BUCKETS = 4096,
    PID_BUCKETS = 1024,
    SCAN_MS = 50,    // between looks at a tree that is being killed
    RETRY_MS = 250,  // of a spool that could not be written
    RECORD_RETRY_MS = 1000,
    // A process in an uninterruptible wait can't be killed; a result must come all the same.
    GIVE_UP_MS = 60000,
};

struct sup_core {
    struct sup_limits limits;
    LIST_HEAD(, sup_task) buckets[BUCKETS];
    LIST_HEAD(, sup_task) pids[PID_BUCKETS];  // main processes that run
    struct sup_task_list tasks;
    struct sup_task_list forgotten, spent;  // in these phases
    size_t count, running, forgotten_count, spent_count;
    uint64_t held;       // bytes of all spools
    uint64_t now, wall;  // of the event being handled
    uint64_t next_tick;  // not later than the earliest timer; 0: none
    uint64_t idle_since;
    bool link, stopping, stop_kills, exit_said;
    struct sup_action *actions;  // waiting: [first, last)
    size_t first, last, cap;
};

// core.c
struct sup_action *sup_push(struct sup_core *c, enum sup_action_type type, struct sup_task *task);
void sup_push_stream(struct sup_core *c, enum sup_action_type type, struct sup_task *task,
                     unsigned stream, uint64_t arg);
void sup_set_timer(struct sup_core *c, uint64_t *timer, uint64_t delay_ms);
void sup_note(struct sup_result *r, const char *text);  // adds to the reason
void sup_maybe_record(struct sup_core *c, struct sup_task *t);

// core_spool.c
uint64_t sup_held_by(const struct sup_task *t);
void sup_resume(struct sup_core *c, struct sup_task *t, unsigned stream);
void sup_resume_all(struct sup_core *c);
void sup_spend(struct sup_core *c, struct sup_task *t);
void sup_shelve(struct sup_core *c, struct sup_task *t);    // it is FORGOTTEN or SPENT now
void sup_unshelve(struct sup_core *c, struct sup_task *t);  // before its phase changes
void sup_on_readable(struct sup_core *c, const struct sup_event *e);
void sup_on_output(struct sup_core *c, const struct sup_event *e);
void sup_on_spool_failed(struct sup_core *c, const struct sup_event *e);
void sup_on_release(struct sup_core *c, const struct sup_event *e);
void sup_retry_spool(struct sup_core *c, struct sup_task *t);

#endif
