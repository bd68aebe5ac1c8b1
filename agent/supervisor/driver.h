// The supervisor's driver: everything with a descriptor. Private to this folder.
//
//   supervisor.c  the state directory, start and end
//   loop.c        epoll, signals, the order of things in one turn
//   actions.c     carries out what the core says; the journal's part of it
//   output.c      pipes and spool of one task
//   attach.c      the socket and the one attached link
//
// One thread. One turn: take what is ready, step the core for each, carry out its actions;
// then make the journal durable once for all that waits for it; then tell the link.
#ifndef NODELINK_AGENT_SUPERVISOR_DRIVER_H
#define NODELINK_AGENT_SUPERVISOR_DRIVER_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "agent/supervisor/core.h"
#include "agent/supervisor/journal.h"
#include "agent/supervisor/spawn.h"
#include "agent/supervisor/supervisor.h"
#include "agent/supervisor/tree.h"
#include "common/base/buf.h"
#include "common/base/log.h"

struct sup_driver;

// What epoll points to. fd -1: not watched. The object that embeds it is freed at the end of
// the turn, so that an event of the same turn never meets a freed one.
struct sup_watch {
    void (*ready)(struct sup_driver *d, struct sup_watch *w, uint32_t events);
    int fd;
    uint32_t events;  // watched now; 0: not in epoll
};

struct sup_io;

struct sup_pipe {
    struct sup_watch watch;  // the read end
    struct sup_io *io;
    unsigned stream;
    int file;                // of the spool, -1: none (nothing was written yet)
    struct nl_sha256 *hash;  // of what is in the spool; NULL without a file
    uint8_t *pending;        // read, and not yet written because of a failure
    size_t pending_at, pending_len;
    bool cut;
};

// The driver's side of a task; exists as long as the task.
struct sup_io {
    struct sup_task *task;
    struct sup_spec *spec;  // from the request until the exec
    struct sup_watch status;
    struct sup_pipe out[2];
    uint8_t boot[16];
    bool waits_intent, waits_result;  // for the journal
    const char *failed;               // why the append failed; NULL: it did not
    bool spool_made;                  // its directory exists, or may
    bool report_dirty, spool_dirty;   // something the link has not been told
    uint32_t releases;                // taken since the link attached
    bool dead;
    TAILQ_ENTRY(sup_io) waiting;  // for the journal
    TAILQ_ENTRY(sup_io) report;
    TAILQ_ENTRY(sup_io) spool;
    TAILQ_ENTRY(sup_io) garbage;
};
TAILQ_HEAD(sup_io_list, sup_io);

// A connection; it is the link's once it has sent SupAttach.
struct sup_conn {
    struct sup_watch watch;
    struct nl_buf in, out;
    bool closed;
    TAILQ_ENTRY(sup_conn) all;
};
TAILQ_HEAD(sup_conn_list, sup_conn);

struct sup_driver {
    const struct nl_supervisor_options *options;
    char journal_id[27];
    char boot_id[27];  // of this supervisor, not the kernel's
    uint8_t kernel_boot[16];
    struct sup_core *core;
    struct sup_journal *journal;
    struct sup_tree *tree;
    bool tree_fresh;  // taken in this turn
    int spool_fd, lock_fd, epoll_fd;
    struct sup_watch signals, listener;
    struct sup_spawn_base spawn_base;
    uint8_t *buffer;  // SUP_READ_BYTES_MAX
    uint64_t now_ms, wall_ms;
    bool exiting;
    bool draining;              // actions are being carried out
    bool again;                 // input waits that epoll will not report
    struct sup_spec *run_spec;  // of the SUP_EV_RUN being handled

    struct sup_io_list waiting;          // for the journal
    struct sup_io_list reports, spools;  // to be told to the link, oldest first
    struct sup_io_list garbage;
    uint64_t spool_told_ms;     // when growth was last announced
    uint64_t rewrite_after_ms;  // not before that
    uint64_t rewrite_size;      // rewrite the journal when it is larger

    struct sup_conn_list conns;
    size_t conn_count;
    struct sup_conn *link;  // one of conns, NULL: none
    struct nl_log_limit refuse_log, spool_log, journal_log;
};

// loop.c
int sup_loop_open(struct sup_driver *d);
void sup_loop_close(struct sup_driver *d);
void sup_loop_run(struct sup_driver *d);  // until SUP_DO_EXIT
// events 0: out of epoll, which would report a hang-up for ever. NL_ENOMEM, NL_EFULL.
int sup_watch_set(struct sup_driver *d, struct sup_watch *w, uint32_t events);
void sup_watch_close(struct sup_driver *d, struct sup_watch *w);
// Steps the core and does what it says, until there is nothing more to do. Called while
// that goes on it only steps: the actions follow in their turn.
void sup_driver_step(struct sup_driver *d, const struct sup_event *e);

// actions.c
void sup_do(struct sup_driver *d, const struct sup_action *a);
// The end of a turn: durable journal, then what waited for it.
void sup_commit(struct sup_driver *d);
void sup_maintain_journal(struct sup_driver *d);
void sup_reap(struct sup_driver *d);
struct sup_io *sup_io_new(struct sup_task *t);  // sets t->io; NULL: no memory
void sup_io_free(struct sup_driver *d, struct sup_io *io);
int sup_journal_emit_all(void *user, struct sup_journal *fresh);

// output.c
void sup_pipe_init(struct sup_pipe *p, struct sup_io *io, unsigned stream);
void sup_pipe_ready(struct sup_driver *d, struct sup_watch *w, uint32_t events);
void sup_pipe_read(struct sup_driver *d, struct sup_pipe *p, size_t max);
void sup_pipe_read_last(struct sup_driver *d, struct sup_pipe *p, size_t max);
void sup_pipe_retry(struct sup_driver *d, struct sup_pipe *p);
void sup_pipe_cut(struct sup_pipe *p);
void sup_pipe_free(struct sup_driver *d, struct sup_pipe *p);
void sup_close_output(struct sup_driver *d, struct sup_io *io);

// attach.c
int sup_listen(struct sup_driver *d);
void sup_hang_up_all(struct sup_driver *d);
void sup_mark_report(struct sup_driver *d, struct sup_io *io);
void sup_mark_spool(struct sup_driver *d, struct sup_io *io);
void sup_unmark(struct sup_driver *d, struct sup_io *io);
void sup_send_refused(struct sup_driver *d, const char *id, uint32_t attempt, const char *text);
// Packs what is dirty while there is room, and writes. Returns ms until growth may be announced
// again, -1: nothing waits for that.
int sup_flush_link(struct sup_driver *d);
void sup_bury_conns(struct sup_driver *d);
// Frames that were received and not handled yet.
void sup_process_again(struct sup_driver *d);

#endif
