// Which processes belong to which task: a picture of /proc, and signals by it. A process is a
// task's when it is its main process, carries the task's mark in its environment, is in the
// main process's session or group, or descends from one that is. The supervisor being the
// subreaper, all processes of its own tasks are its descendants; those of a task whose
// supervisor died are found by mark or by (pid, start time). Single-threaded.
#ifndef NODELINK_AGENT_SUPERVISOR_TREE_H
#define NODELINK_AGENT_SUPERVISOR_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/supervisor/core.h"

// Environment entry (with the journal id after it) of every process of a task.
#define SUP_TREE_MARK "NODELINK_JOURNAL="

// Start time of a process in clock ticks since boot, 0: no such process.
uint64_t sup_proc_start(pid_t pid);
// The kernel's boot id; zeros when it can't be read.
void sup_proc_boot_id(uint8_t out[16]);

struct sup_tree;

// NULL: no memory. `core` and `journal_id` are borrowed.
struct sup_tree *sup_tree_new(const struct sup_core *core, const char *journal_id);
void sup_tree_free(struct sup_tree *tree);
// Takes a new picture. `everywhere`: look at all processes, not only at descendants.
int sup_tree_refresh(struct sup_tree *tree, bool everywhere);
// Living (not zombie) processes of the task in the picture.
size_t sup_tree_count(const struct sup_tree *tree, const struct sup_task *task);
// Sends the signal to each of them once; a TERM also continues those that are stopped.
void sup_tree_signal(const struct sup_tree *tree, const struct sup_task *task, int sig);

#endif
