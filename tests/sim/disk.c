// A node's disk as libraft's raft_io: what raft_uv promises, and no more.
//
// Writes to the log are queued and done in order; all that waits is written at once, as raft_uv
// does. Truncation and the installation of a snapshot wait for the writes before them and hold
// back those after them. A snapshot of the own state is written beside them, but becomes valid only
// behind the writes that came before it. Term and vote are written before the call returns. A crash
// keeps any prefix of the write under way.

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/err.h"
#include "tests/sim/sim.h"
#include "tests/sim/wrap.h"

// libraft's own; its headers are not installed.
int entryBatchCopy(const struct raft_entry *src, struct raft_entry **dst, size_t n);
int configurationCopy(const struct raft_configuration *src, struct raft_configuration *dst);

enum op_kind { APPEND, TRUNCATE, INSTALL, TAKE };

struct sim_disk_op {
    struct sim_pending pending;  // its end, as the node hears of it
    enum op_kind kind;
    uint64_t index;  // of the first entry; truncate: of the first to go
    unsigned n;
    const struct raft_entry *entries;  // borrowed until the end
    struct raft_io_append *append;
    const struct raft_snapshot *snapshot;  // borrowed until the end
    struct raft_io_snapshot_put *put;
    struct own_snapshot *own;
    int status;
    struct sim_disk_op *prev, *next;
};

struct own_snapshot {
    struct sim_pending pending;
    struct raft_io_snapshot_put *put;
    const struct raft_snapshot *snapshot;
    unsigned trailing;
    bool behind_log;  // the writes before it are done
};
static void own_snapshot_behind_log(struct own_snapshot *s, enum sim_how how);

static struct sim_node *node_of(struct raft_io *io) {
    return io->impl;
}

// ---- content -------------------------------------------------------------------

void sim_disk_init(struct sim_disk *disk) {
    memset(disk, 0, sizeof *disk);
    disk->first = 1;
    disk->next = 1;
    disk->latency_us = 300;
}

static void drop_after(struct sim_disk *disk, uint64_t last) {
    while (disk->n > 0 && sim_disk_last(disk) > last) {
        free(disk->entries[--disk->n].data);
    }
}

static void drop_through(struct sim_disk *disk, uint64_t index) {
    size_t gone = index < disk->first ? 0 : (size_t)(index - disk->first + 1);
    gone = gone < disk->n ? gone : disk->n;
    for (size_t i = 0; i < gone; i++) {
        free(disk->entries[i].data);
    }
    memmove(disk->entries, disk->entries + gone, (disk->n - gone) * sizeof *disk->entries);
    disk->n -= gone;
    disk->first += gone;
}

static void drop_snapshot(struct sim_disk *disk) {
    if (disk->snapshot.index > 0) {
        raft_configuration_close(&disk->snapshot.conf);
        free(disk->snapshot.data);
    }
    memset(&disk->snapshot, 0, sizeof disk->snapshot);
}

void sim_disk_free(struct sim_disk *disk) {
    drop_after(disk, 0);
    drop_snapshot(disk);
    free(disk->entries);
}

uint64_t sim_disk_last(const struct sim_disk *disk) {
    return disk->first + disk->n - 1;
}

// Where a snapshot ends, it counts.
static uint64_t term_at(const struct sim_disk *disk, uint64_t index) {
    if (index == disk->snapshot.index) {
        return disk->snapshot.term;
    }
    bool held = index >= disk->first && index < disk->first + disk->n;
    return held ? disk->entries[index - disk->first].term : 0;
}

static void store_entry(struct sim_node *node, uint64_t index, const struct raft_entry *from) {
    struct sim_disk *disk = &node->disk;
    struct sim_entry entry = {from->term, (uint16_t)from->type, malloc(from->buf.len),
                              from->buf.len};
    assert(entry.data != NULL);
    SIM_CHECK(index == disk->first + disk->n, "node %u appends entry %llu behind %llu",
              node->index + 1, (unsigned long long)index, (unsigned long long)sim_disk_last(disk));
    memcpy(entry.data, from->buf.base, from->buf.len);
    if (disk->n == disk->cap) {
        disk->cap = disk->cap > 0 ? 2 * disk->cap : 64;
        disk->entries = realloc(disk->entries, disk->cap * sizeof *disk->entries);
        assert(disk->entries != NULL);
    }
    disk->entries[disk->n++] = entry;
    sim_check_appended(node, index, &entry, term_at(disk, index - 1));
}

static void store_snapshot(struct sim_disk *disk, const struct raft_snapshot *from) {
    struct sim_snapshot to = {.index = from->index,
                              .term = from->term,
                              .conf_index = from->configuration_index,
                              .data = malloc(from->bufs[0].len),
                              .len = from->bufs[0].len};
    assert(to.data != NULL && from->n_bufs == 1);
    memcpy(to.data, from->bufs[0].base, to.len);
    int rv = configurationCopy(&from->configuration, &to.conf);
    assert(rv == 0);
    drop_snapshot(disk);
    disk->snapshot = to;
}

void sim_disk_clear_log(struct sim_disk *disk) {
    drop_after(disk, 0);
    disk->first = disk->snapshot.index + 1;
}

// ---- the queue -------------------------------------------------------------------

static void perform(struct sim_node *node, const struct sim_disk_op *op) {
    switch (op->kind) {
        case APPEND:
            for (unsigned i = 0; i < op->n; i++) {
                store_entry(node, op->index + i, &op->entries[i]);
            }
            break;
        case TRUNCATE:
            drop_after(&node->disk, op->index - 1);
            sim.counts[SIM_TRUNCATIONS]++;
            break;
        case INSTALL:
            store_snapshot(&node->disk, op->snapshot);
            sim_disk_clear_log(&node->disk);
            break;
        case TAKE:
            break;
    }
}

static void run_op(struct sim_pending *pending, enum sim_how how) {
    struct sim_disk_op *op = (struct sim_disk_op *)pending;
    int status = how == SIM_CANCELED ? RAFT_CANCELED : op->status;
    if (how != SIM_ABANDONED && op->kind == APPEND && op->append != NULL) {
        op->append->cb(op->append, status);
    } else if (how != SIM_ABANDONED && op->kind == INSTALL) {
        op->put->cb(op->put, status);
    } else if (op->kind == TAKE) {
        own_snapshot_behind_log(op->own, how);
    }
    free(op);
}

static void kick(struct sim_node *node);

static bool fails(struct sim_node *node, unsigned kind) {
    if ((node->disk.fail & kind) == 0) {
        return false;
    }
    node->disk.fail &= ~kind;
    node->may_stop = true;
    sim.counts[SIM_F_WRITE_FAILED]++;
    return true;
}

static void written(uint64_t index) {
    static const unsigned fail_of[] = {SIM_FAIL_APPEND, SIM_FAIL_TRUNCATE, SIM_FAIL_SNAPSHOT, 0};
    struct sim_node *node = &sim.nodes[index];
    struct sim_disk *disk = &node->disk;
    if (disk->hung_until_us > sim.now_us) {
        sim_at_life(disk->hung_until_us, written, node);
        return;
    }
    for (; disk->in_write > 0; disk->in_write--) {
        struct sim_disk_op *op = disk->ops;
        DL_DELETE(disk->ops, op);
        // As in raft_uv, after one failure nothing is written any more; a failed truncation shows
        // only by that.
        disk->broken = disk->broken || fails(node, fail_of[op->kind]);
        if (disk->broken) {
            op->status = RAFT_IOERR;
        } else {
            perform(node, op);
        }
        sim_post(node, 0, &op->pending);
    }
    kick(node);
}

static void kick(struct sim_node *node) {
    struct sim_disk *disk = &node->disk;
    if (disk->in_write > 0 || disk->ops == NULL) {
        return;
    }
    disk->in_write = 1;
    for (struct sim_disk_op *op = disk->ops;
         op->kind == APPEND && op->next != NULL && op->next->kind == APPEND; op = op->next) {
        disk->in_write++;
    }
    uint64_t latency = disk->latency_us / 2 + sim_below(disk->latency_us);
    sim_at_life(sim.now_us + latency, written, node);
}

static struct sim_disk_op *queue_op(struct sim_node *node, enum op_kind kind, uint64_t index) {
    struct sim_disk_op *op = calloc(1, sizeof *op);
    assert(op != NULL);
    op->pending.run = run_op;
    op->pending.digest = sim_mix(kind, index);
    op->kind = kind;
    op->index = index;
    DL_APPEND(node->disk.ops, op);
    return op;
}

void sim_disk_cancel(struct sim_node *node, enum sim_how how) {
    node->disk.in_write = 0;
    while (node->disk.ops != NULL) {
        struct sim_disk_op *op = node->disk.ops;
        DL_DELETE(node->disk.ops, op);
        op->pending.run(&op->pending, how);
    }
}

// A batch has a checksum: a part of it is none of it. Between a new snapshot and the removal of all
// of the log that it replaces, the oldest part first, lies some time, too.
static void crash_write(struct sim_node *node) {
    struct sim_disk *disk = &node->disk;
    unsigned kept = disk->broken ? 0 : (unsigned)sim_below(disk->in_write + 1);
    sim.counts[SIM_F_WRITES_LOST] += kept < disk->in_write;
    struct sim_disk_op *op = disk->ops;
    for (unsigned i = 0; i < kept; i++, op = op->next) {
        if (op->kind == INSTALL && sim_chance(500)) {
            store_snapshot(disk, op->snapshot);
            drop_through(disk, disk->first - 1 + sim_below(disk->n + 1));
        } else {
            perform(node, op);
        }
    }
}

void sim_disk_crash(struct sim_node *node, bool power) {
    struct sim_disk *disk = &node->disk;
    crash_write(node);
    if (power && sim.options.plant == PLANT_LOSE_SYNCED && disk->n > 1) {
        drop_after(disk, sim_disk_last(disk) - 1);
        disk->mark_synced = disk->mark = 0;
    }
    if (power && sim_chance(500)) {
        disk->mark = disk->mark_synced;
    }
    disk->hung_until_us = 0;
    disk->broken = false;
    disk->snapshot_under_way = false;
}

// ---- raft_io ---------------------------------------------------------------------

static int io_init(struct raft_io *io, raft_id id, const char *address) {
    (void)io, (void)id, (void)address;
    return 0;
}

static void load_snapshot(const struct sim_disk *disk, struct raft_snapshot **ret) {
    struct raft_snapshot *s = raft_calloc(1, sizeof *s);
    assert(s != NULL);
    s->index = disk->snapshot.index;
    s->term = disk->snapshot.term;
    s->configuration_index = disk->snapshot.conf_index;
    int rv = configurationCopy(&disk->snapshot.conf, &s->configuration);
    s->bufs = raft_malloc(sizeof *s->bufs);
    assert(rv == 0 && s->bufs != NULL);
    s->n_bufs = 1;
    s->bufs[0].len = disk->snapshot.len;
    s->bufs[0].base = raft_malloc(disk->snapshot.len);
    assert(s->bufs[0].base != NULL);
    memcpy(s->bufs[0].base, disk->snapshot.data, disk->snapshot.len);
    *ret = s;
}

static void load_entries(const struct sim_disk *disk, struct raft_entry **ret) {
    struct raft_entry *entries = calloc(disk->n, sizeof *entries);
    assert(entries != NULL);
    for (size_t i = 0; i < disk->n; i++) {
        const struct sim_entry *from = &disk->entries[i];
        entries[i].term = from->term;
        entries[i].type = (enum raft_entry_type)from->type;
        entries[i].buf = (struct raft_buffer){from->data, from->len};
    }
    int rv = entryBatchCopy(entries, ret, disk->n);
    assert(rv == 0);
    free(entries);
}

// A log that doesn't join the snapshot, or holds other entries than it, must not come here.
static void check_joins(const struct sim_node *node) {
    const struct sim_disk *disk = &node->disk;
    uint64_t index = disk->snapshot.index;
    bool holds = index >= disk->first && index <= sim_disk_last(disk);
    SIM_CHECK(disk->first <= index + 1 && sim_disk_last(disk) >= index,
              "node %u has entries %llu to %llu beside a snapshot of %llu", node->index + 1,
              (unsigned long long)disk->first, (unsigned long long)sim_disk_last(disk),
              (unsigned long long)index);
    SIM_CHECK(!holds || disk->entries[index - disk->first].term == disk->snapshot.term,
              "node %u has a log that contradicts its snapshot of %llu", node->index + 1,
              (unsigned long long)index);
}

static int io_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                   struct raft_snapshot **snapshot, raft_index *start_index,
                   struct raft_entry *entries[], size_t *n_entries) {
    struct sim_disk *disk = &node_of(io)->disk;
    check_joins(node_of(io));
    *term = disk->term;
    *voted_for = disk->vote;
    *snapshot = NULL;
    *entries = NULL;
    *n_entries = disk->n;
    *start_index = disk->first;
    if (disk->snapshot.index > 0) {
        load_snapshot(disk, snapshot);
    }
    if (disk->n > 0) {
        load_entries(disk, entries);
    }
    disk->next = disk->first + disk->n;
    return 0;
}

static int io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                    raft_io_recv_cb recv) {
    struct sim_node *node = node_of(io);
    node->tick = tick;
    node->recv = recv;
    node->tick_us = (uint64_t)msecs * SIM_MS;
    node->tick_due_us = sim.now_us + sim_below(node->tick_us);
    sim_node_wake(node);
    return 0;
}

static int io_bootstrap(struct raft_io *io, const struct raft_configuration *conf) {
    struct sim_node *node = node_of(io);
    struct raft_entry entry = {.term = 1, .type = RAFT_CHANGE};
    int rv =
        node->disk.term != 0 ? RAFT_CANTBOOTSTRAP : raft_configuration_encode(conf, &entry.buf);
    if (rv == 0) {
        node->disk.term = 1;
        store_entry(node, 1, &entry);
        raft_free(entry.buf.base);
    }
    return rv;
}

static int io_recover(struct raft_io *io, const struct raft_configuration *conf) {
    (void)io, (void)conf;
    return RAFT_IOERR;
}

static int io_set_term(struct raft_io *io, raft_term term) {
    struct sim_node *node = node_of(io);
    if (fails(node, SIM_FAIL_TERM)) {
        return RAFT_IOERR;
    }
    if (sim.options.plant != PLANT_NO_TERM) {
        node->disk.term = term;
        node->disk.vote = 0;
    }
    return 0;
}

static int io_set_vote(struct raft_io *io, raft_id id) {
    struct sim_node *node = node_of(io);
    if (fails(node, SIM_FAIL_VOTE)) {
        return RAFT_IOERR;
    }
    if (sim.options.plant != PLANT_NO_VOTE) {
        node->disk.vote = id;
    }
    return 0;
}

// A planted defect: the end of the write is told at once, and the write goes on with a copy.
struct early {
    struct sim_pending pending;
    struct raft_io_append *append;
};

static void run_early(struct sim_pending *pending, enum sim_how how) {
    struct raft_io_append *append = ((struct early *)pending)->append;
    free(pending);
    if (how != SIM_ABANDONED) {
        append->cb(append, how == SIM_CANCELED ? RAFT_CANCELED : 0);
    }
}

static void tell_early(struct sim_node *node, struct sim_disk_op *op) {
    struct early *early = calloc(1, sizeof *early);
    struct raft_entry *copy;
    assert(early != NULL);
    int rv = entryBatchCopy(op->entries, &copy, op->n);
    assert(rv == 0);
    early->pending.run = run_early;
    early->append = op->append;
    op->entries = copy;  // never freed: it is a planted defect
    op->append = NULL;
    sim_post(node, 0, &early->pending);
}

static int io_append(struct raft_io *io, struct raft_io_append *req,
                     const struct raft_entry entries[], unsigned n, raft_io_append_cb cb) {
    struct sim_node *node = node_of(io);
    struct sim_disk_op *op = queue_op(node, APPEND, node->disk.next);
    req->cb = cb;
    op->append = req;
    op->entries = entries;
    op->n = n;
    node->disk.next += n;
    if (sim.options.plant == PLANT_SYNC_EARLY) {
        tell_early(node, op);
    }
    kick(node);
    return 0;
}

static int io_truncate(struct raft_io *io, raft_index index) {
    struct sim_node *node = node_of(io);
    if (index < node->disk.next) {
        queue_op(node, TRUNCATE, index);
        node->disk.next = index;
        kick(node);
    }
    return 0;
}

// ---- snapshots -------------------------------------------------------------------

// raft_uv removes whole segments, so more than `trailing` entries may stay.
static void finish_own_snapshot(struct sim_node *node, struct own_snapshot *s, enum sim_how how) {
    int status = how == SIM_DONE ? 0 : RAFT_CANCELED;
    node->disk.snapshot_under_way = false;
    if (how == SIM_DONE && (node->disk.broken || fails(node, SIM_FAIL_SNAPSHOT))) {
        status = RAFT_IOERR;
    } else if (how == SIM_DONE) {
        uint64_t keep = s->trailing + sim_below(s->trailing + 1);
        sim_check_snapshot(node, s->snapshot->index, s->snapshot->bufs[0].base,
                           s->snapshot->bufs[0].len);
        store_snapshot(&node->disk, s->snapshot);
        drop_through(&node->disk, s->snapshot->index > keep ? s->snapshot->index - keep : 0);
        sim.counts[SIM_SNAPSHOTS_TAKEN]++;
    }
    if (how != SIM_ABANDONED) {
        s->put->cb(s->put, status);
    }
    free(s);
}

static void run_own_snapshot(struct sim_pending *pending, enum sim_how how) {
    struct own_snapshot *s = (struct own_snapshot *)pending;
    if (how != SIM_DONE || s->behind_log) {
        finish_own_snapshot(pending->node, s, how);
        return;
    }
    struct sim_disk_op *op = queue_op(pending->node, TAKE, s->snapshot->index);
    op->own = s;
    kick(pending->node);
}

static void own_snapshot_behind_log(struct own_snapshot *s, enum sim_how how) {
    s->behind_log = true;
    if (how == SIM_DONE) {
        sim_post(s->pending.node, s->pending.node->disk.latency_us, &s->pending);
    } else {
        finish_own_snapshot(s->pending.node, s, how);
    }
}

static int io_snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                           const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb) {
    struct sim_node *node = node_of(io);
    req->cb = cb;
    if (trailing == 0) {
        struct sim_disk_op *op = queue_op(node, INSTALL, snapshot->index);
        op->put = req;
        op->snapshot = snapshot;
        node->disk.next = snapshot->index + 1;
        kick(node);
        return 0;
    }
    assert(!node->disk.snapshot_under_way);
    struct own_snapshot *s = calloc(1, sizeof *s);
    assert(s != NULL);
    node->disk.snapshot_under_way = true;
    s->pending.run = run_own_snapshot;
    s->pending.digest = snapshot->index;
    s->put = req;
    s->snapshot = snapshot;
    s->trailing = trailing;
    sim_post(node, node->disk.latency_us * 2 + sim_exponential(20 * SIM_MS), &s->pending);
    return 0;
}

struct get {
    struct sim_pending pending;
    struct raft_io_snapshot_get *req;
};

static void run_get(struct sim_pending *pending, enum sim_how how) {
    struct get *g = (struct get *)pending;
    struct raft_snapshot *snapshot = NULL;
    // raft_uv's reads end while it closes as they do else.
    if (how != SIM_ABANDONED) {
        load_snapshot(&pending->node->disk, &snapshot);
        g->req->cb(g->req, snapshot, 0);
    }
    free(g);
}

static int io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                           raft_io_snapshot_get_cb cb) {
    struct get *g = calloc(1, sizeof *g);
    assert(g != NULL);
    req->cb = cb;
    g->pending.run = run_get;
    g->pending.digest = 4;
    g->req = req;
    uint64_t read_us = node_of(io)->disk.read_us;
    sim_post(node_of(io), read_us > 0 ? read_us : 200 + sim_exponential(2 * SIM_MS), &g->pending);
    return 0;
}

// ---- the rest ----------------------------------------------------------------------

static void run_close(struct sim_pending *pending, enum sim_how how) {
    struct sim_node *node = pending->node;
    if (how != SIM_ABANDONED) {
        node->raft = NULL;
        node->close(node->io);
    }
    free(pending);
}

static void io_close(struct raft_io *io, raft_io_close_cb cb) {
    struct sim_pending *pending = calloc(1, sizeof *pending);
    assert(pending != NULL);
    node_of(io)->close = cb;
    pending->run = run_close;
    sim_post(node_of(io), 0, pending);
}

static raft_time io_time(struct raft_io *io) {
    (void)io;
    return sim.now_us / SIM_MS;
}

static int io_random(struct raft_io *io, int min, int max) {
    (void)io;
    return min + (int)sim_below((uint64_t)(max - min));
}

int sim_net_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                 raft_io_send_cb cb);

int __wrap_raft_uv_init(struct raft_io *io, struct uv_loop_s *loop, const char *dir,
                        struct raft_uv_transport *transport) {
    struct sim_node *node = loop->data;
    (void)dir, (void)transport;
    memset(io, 0, sizeof *io);
    io->version = 2;
    io->capacity = UINT16_MAX;
    io->impl = node;
    io->init = io_init;
    io->close = io_close;
    io->load = io_load;
    io->start = io_start;
    io->bootstrap = io_bootstrap;
    io->recover = io_recover;
    io->set_term = io_set_term;
    io->set_vote = io_set_vote;
    io->send = sim_net_send;
    io->append = io_append;
    io->truncate = io_truncate;
    io->snapshot_put = io_snapshot_put;
    io->snapshot_get = io_snapshot_get;
    io->time = io_time;
    io->random = io_random;
    node->io = io;
    return 0;
}

void __wrap_raft_uv_close(struct raft_io *io) {
    (void)io;
}

void __wrap_raft_uv_set_auto_recovery(struct raft_io *io, bool flag) {
    (void)io, (void)flag;
}

void __wrap_raft_uv_set_connect_retry_delay(struct raft_io *io, unsigned ms) {
    (void)io, (void)ms;
}

void __wrap_raft_uv_set_disk_retry(struct raft_io *io, unsigned ms) {
    (void)io, (void)ms;
}

void __wrap_raft_uv_set_tracer(struct raft_io *io, struct raft_tracer *tracer) {
    (void)io, (void)tracer;
}
