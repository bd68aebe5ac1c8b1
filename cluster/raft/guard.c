#include "cluster/raft/guard.h"

#include <assert.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "cluster/raft/background.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"

enum {
    APPEND_MS_MAX = 2000,
    SNAPSHOT_MS_MAX = 120000,
    WATCH_STEP_MS_MAX = 250,
    PEER_MESSAGES_MAX = 4096,
    PEER_BYTES_MAX = 64 * 1024 * 1024,
    ANSWER_AGAIN_MS = 10,
};

struct nl_guard_append {
    struct raft_io_append req;
    struct nl_guard *guard;
    struct raft_io_append *orig;
    raft_io_append_cb cb;
    const struct raft_entry *entries;  // libraft's
    unsigned n_entries;
    bool held;
    uint64_t start_us;
    uint64_t watched_ms;
    struct nl_guard_append *prev, *next;
};

struct nl_guard_snapshot {
    struct raft_io_snapshot_put req;
    struct nl_guard *guard;
    struct raft_io_snapshot_put *orig;
    raft_io_snapshot_put_cb cb;
    const struct raft_snapshot *snapshot;
    unsigned trailing;  // 0: a leader's, to be installed
    uv_work_t work;
    bool working;  // the worker has it
    bool passed;   // to the backend
    bool stored;   // by the backend, with this status
    int status;
    int encode_result;
    uint8_t *data;  // from the worker; handed to the buffers that finalize frees
    size_t len;
    uint64_t watched_ms;
};

struct guard_send {
    struct raft_io_send req;
    struct raft_io_send *orig;
    raft_io_send_cb cb;
    struct nl_guard *guard;
    struct nl_guard_peer *peer;
    size_t bytes;
    const struct raft_message *message;  // the library's; only looked at if it is a snapshot
    bool is_snapshot;
};

static struct nl_guard *of_io(struct raft_io *io) {
    return io->impl;
}

static struct nl_guard *of_inner(struct raft_io *inner) {
    return (void *)((char *)inner - offsetof(struct nl_guard, inner));
}

static int pass(struct nl_guard *g, int rv) {
    if (rv != 0) {
        memcpy(g->io.errmsg, g->inner.errmsg, sizeof g->io.errmsg);
    }
    return rv;
}

static void fatal(struct nl_guard *g, const char *what, int rv) {
    char text[RAFT_ERRMSG_BUF_SIZE + 128];
    snprintf(text, sizeof text, "%s failed: %s%s%s", what, raft_strerror(rv),
             g->inner.errmsg[0] != '\0' ? ": " : "", g->inner.errmsg);
    g->hooks.fatal(g->hooks.user, text);
}

// A write that must not fail, because libraft would go on with what is not on disk.
static int must(struct nl_guard *g, const char *what, int rv) {
    if (rv != 0 && !g->closing) {
        fatal(g, what, rv);
    }
    return pass(g, rv);
}

// The end of a write with an error. libraft asserts that there is only one, and only while it
// closes.
static int failed_or_canceled(struct nl_guard *g, const char *what, int status) {
    if (!g->closing) {
        fatal(g, what, status);
    }
    return RAFT_CANCELED;
}

struct nl_guard_peer *nl_guard_peer(struct nl_guard *g, uint64_t id) {
    for (unsigned i = 0; i < g->n_peers; i++) {
        if (g->peers[i].id == id) {
            return &g->peers[i];
        }
    }
    if (g->n_peers == NL_GUARD_PEERS_MAX) {
        return NULL;
    }
    struct nl_guard_peer *peer = &g->peers[g->n_peers++];
    memset(peer, 0, sizeof *peer);
    peer->id = id;
    return peer;
}

// ---- plain passes ------------------------------------------------------------

static int guard_init(struct raft_io *io, raft_id id, const char *address) {
    struct nl_guard *g = of_io(io);
    // The backend finds the raft instance through its own raft_io.
    g->inner.data = io->data;
    return pass(g, g->inner.init(&g->inner, id, address));
}

static int guard_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                      struct raft_snapshot **snapshot, raft_index *start_index,
                      struct raft_entry *entries[], size_t *n_entries) {
    struct nl_guard *g = of_io(io);
    int rv = pass(
        g, g->inner.load(&g->inner, term, voted_for, snapshot, start_index, entries, n_entries));
    if (rv == 0) {
        // What it said of the unwritten end of a segment; it would stand behind a later error.
        g->inner.errmsg[0] = '\0';
    }
    return rv;
}

static int guard_bootstrap(struct raft_io *io, const struct raft_configuration *conf) {
    struct nl_guard *g = of_io(io);
    int rv = NL_FAILPOINT("raft.bootstrap") ? RAFT_IOERR : g->inner.bootstrap(&g->inner, conf);
    return pass(g, rv);
}

static int guard_recover(struct raft_io *io, const struct raft_configuration *conf) {
    struct nl_guard *g = of_io(io);
    return pass(g, g->inner.recover(&g->inner, conf));
}

static int guard_set_term(struct raft_io *io, raft_term term) {
    struct nl_guard *g = of_io(io);
    int rv = NL_FAILPOINT("raft.set_term") ? RAFT_IOERR : g->inner.set_term(&g->inner, term);
    return must(g, "writing the term", rv);
}

static int guard_set_vote(struct raft_io *io, raft_id id) {
    struct nl_guard *g = of_io(io);
    int rv = NL_FAILPOINT("raft.set_vote") ? RAFT_IOERR : g->inner.set_vote(&g->inner, id);
    return must(g, "writing the vote", rv);
}

static int guard_truncate(struct raft_io *io, raft_index index) {
    struct nl_guard *g = of_io(io);
    int rv = nl_mark_lower(&g->mark, index - 1) == NL_OK ? 0 : RAFT_IOERR;
    if (rv == 0 && !NL_FAILPOINT("raft.truncate")) {
        rv = g->inner.truncate(&g->inner, index);
    } else {
        rv = RAFT_IOERR;
    }
    return must(g, "truncating the log", rv);
}

static raft_time guard_time(struct raft_io *io) {
    struct nl_guard *g = of_io(io);
    return g->inner.time(&g->inner);
}

static int guard_random(struct raft_io *io, int min, int max) {
    struct nl_guard *g = of_io(io);
    return g->inner.random(&g->inner, min, max);
}

// ---- events ------------------------------------------------------------------

static void stepped(struct nl_guard *g) {
    g->io.capacity = g->inner.capacity;
    if (!g->closing) {
        g->hooks.stepped(g->hooks.user);
    }
}

static void on_tick(struct raft_io *inner) {
    struct nl_guard *g = of_inner(inner);
    if (g->closing) {
        return;
    }
    // Not at each entry: the mark may lag, and a tick's entries are what a damage could hide then.
    // 0 while a snapshot is being installed; the mark was lowered for it.
    nl_mark_raise(&g->mark, ((const struct raft *)g->io.data)->last_stored);
    g->tick_cb(&g->io);
    stepped(g);
}

// A follower commits up to min(leader's commit, last entry of the message). libraft 0.22 sets its
// commit index to that even if it is further already (a heartbeat behind an older entry, as in
// probing and while a snapshot is under way), and soon dies of an assertion. With the minimum taken
// here, the follower's own comparison keeps it from going back.
static void bound_commit(struct raft_append_entries *args) {
    raft_index last = args->prev_log_index + args->n_entries;
    if (args->leader_commit > last) {
        args->leader_commit = last;
    }
}

// The front of our log up to `trail.offset` is in our snapshot only. A leader that missed our
// answers may go on from an entry there; libraft 0.22 then says that it lacks that entry, which
// aborts a leader that knows better, or stores entries from the first one on once more. What a
// snapshot holds is committed, so a leader of this term has the same: the message becomes a
// heartbeat behind the snapshot, and the answer tells the leader where to go on.
static void skip_compacted(const struct raft *raft, struct raft_append_entries *args) {
    const struct raft_trail *trail = &raft->trail;
    if (args->term < raft_current_term(raft) || raft->snapshot.installing ||
        args->prev_log_index > trail->offset || args->prev_log_index >= trail->snapshot.index) {
        return;
    }
    if (args->n_entries > 0) {
        raft_free(args->entries[0].batch);
        raft_free(args->entries);
    }
    args->entries = NULL;
    args->n_entries = 0;
    args->prev_log_index = trail->snapshot.index;
    args->prev_log_term = trail->snapshot.term;
    bound_commit(args);
}

// An AppendEntries of an older term is answered with the newer term; libraft 0.22 leaves the
// answer's last index unset, and says "accepted" if the message stood behind entry 0. Its sender,
// leading again in the newer term, would take its whole log for stored here. Our connections keep
// the order of messages, so none comes that late; that is too far from here to lean on. "Entry 1
// rejected" has only one reading, an empty log, whatever stands in the last index.
static void reject_old_term(const struct raft *raft, struct raft_append_entries *args) {
    if (args->term < raft_current_term(raft)) {
        args->prev_log_index = 1;
    }
}

// Snapshots that libraft 0.22 must not see; the leader sends its snapshot again when it has to.
// One that comes while another one is being installed is ignored, and then never freed. One of an
// older term is answered with "accepted, my log ends at" and a number that was never set: its
// sender, leading again by now, takes its whole log for stored there and commits what is not.
static bool drop_snapshot(const struct nl_guard *g, struct raft_message *message) {
    const struct raft *raft = g->io.data;
    struct raft_install_snapshot *args = &message->install_snapshot;
    if (message->type != RAFT_INSTALL_SNAPSHOT || args->term > raft_current_term(raft) ||
        (args->term == raft_current_term(raft) && !raft->snapshot.installing)) {
        return false;
    }
    raft_configuration_close(&args->conf);
    raft_free(args->data.base);
    return true;
}

// A follower that rejects an entry which it has acknowledged: an old message, or its log is lost.
// libraft would take its match index back and end in an assertion, at the healthy leader.
static bool takes_back(struct nl_guard *g, const struct raft_message *message) {
    const struct raft_append_entries_result *result = &message->append_entries_result;
    struct raft *raft = g->io.data;
    raft_index match = 0;
    uint32_t suppressed = 0;
    if (message->type != RAFT_APPEND_ENTRIES_RESULT || g->closing || result->rejected == 0 ||
        result->term != raft_current_term(raft) ||
        raft_match_index(raft, message->server_id, &match) != 0 || result->rejected > match) {
        return false;
    }
    if (nl_log_allow(&g->log_limit, nl_clock_mono_ms(), 1, 10000, &suppressed)) {
        nl_log(NL_LOG_WARN, "raft", "a node rejects an entry that it has stored", "node",
               nl_log_u64(message->server_id).s, "rejected", nl_log_u64(result->rejected).s,
               "stored", nl_log_u64(match).s, "holds", nl_log_u64(result->last_log_index).s, NULL);
    }
    return true;
}

static void on_recv(struct raft_io *inner, struct raft_message *message) {
    struct nl_guard *g = of_inner(inner);
    struct nl_guard_peer *peer = nl_guard_peer(g, message->server_id);
    if (peer != NULL) {
        peer->seen_ms = nl_clock_mono_ms();
    }
    if (message->type == RAFT_APPEND_ENTRIES && !g->closing) {
        skip_compacted(g->io.data, &message->append_entries);
        reject_old_term(g->io.data, &message->append_entries);
    }
    if (!drop_snapshot(g, message) && !takes_back(g, message)) {
        g->recv_cb(&g->io, message);  // when closing it only frees the message
    }
    stepped(g);
}

static int guard_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                       raft_io_recv_cb recv) {
    struct nl_guard *g = of_io(io);
    g->tick_cb = tick;
    g->recv_cb = recv;
    return pass(g, g->inner.start(&g->inner, msecs, on_tick, on_recv));
}

// ---- append --------------------------------------------------------------------

static void on_appended(struct raft_io_append *req, int status) {
    struct nl_guard_append *append = req->data;
    struct nl_guard *g = append->guard;
    struct raft_io_append *orig = append->orig;
    raft_io_append_cb cb = append->cb;
    uint64_t now_us = nl_clock_mono_us();
    DL_DELETE(g->appends, append);
    if (status != 0) {
        status = failed_or_canceled(g, "appending to the log", status);
    }
    nl_histogram_recent_add(&g->append_us, now_us - append->start_us, now_us / 1000);
    free(append);
    cb(orig, status);
    stepped(g);
}

static int start_append(struct nl_guard *g, struct nl_guard_append *append) {
    append->held = false;
    append->start_us = nl_clock_mono_us();
    if (NL_FAILPOINT("raft.append_hang")) {
        return 0;  // as with a disk that takes the write and never answers
    }
    int rv = NL_FAILPOINT("raft.append") ? RAFT_IOERR
                                         : g->inner.append(&g->inner, &append->req, append->entries,
                                                           append->n_entries, on_appended);
    return must(g, "appending to the log", rv);
}

void nl_guard_hold_appends(struct nl_guard *g) {
    g->hold_appends = true;
}

void nl_guard_release_appends(struct nl_guard *g) {
    struct nl_guard_append *append, *next;
    g->hold_appends = false;
    DL_FOREACH_SAFE (g->appends, append, next) {
        if (append->held) {
            start_append(g, append);
        }
    }
}

static int guard_append(struct raft_io *io, struct raft_io_append *req,
                        const struct raft_entry entries[], unsigned n, raft_io_append_cb cb) {
    struct nl_guard *g = of_io(io);
    struct nl_guard_append *append = calloc(1, sizeof *append);
    if (append == NULL) {
        return must(g, "appending to the log", RAFT_NOMEM);
    }
    append->guard = g;
    append->orig = req;
    append->cb = cb;
    append->entries = entries;
    append->n_entries = n;
    append->held = g->hold_appends;
    append->req.data = append;
    DL_APPEND(g->appends, append);
    for (unsigned i = 0; i < n; i++) {
        g->log_bytes += entries[i].buf.len;
    }
    g->log_entries += n;
    return append->held ? 0 : start_append(g, append);
}

// ---- snapshots -----------------------------------------------------------------

static void snapshot_done(struct nl_guard_snapshot *put, int status) {
    struct nl_guard *g = put->guard;
    struct raft_io_snapshot_put *orig = put->orig;
    raft_io_snapshot_put_cb cb = put->cb;
    g->snapshot = NULL;
    if (status == 0 && put->trailing == 0 && nl_mark_install_end(&g->mark) != NL_OK) {
        status = RAFT_IOERR;
    }
    if (status != 0) {
        status = failed_or_canceled(g, "writing a snapshot", status);
    }
    g->snapshots_taken += status == 0 && put->trailing > 0;
    free(put);
    cb(orig, status);
    stepped(g);
}

static void on_snapshot_put(struct raft_io_snapshot_put *req, int status) {
    struct nl_guard_snapshot *put = req->data;
    put->stored = true;
    put->status = status;
    if (!put->working) {
        snapshot_done(put, status);
    }
}

static int snapshot_pass(struct nl_guard_snapshot *put) {
    struct nl_guard *g = put->guard;
    put->passed = true;
    int rv = NL_FAILPOINT("raft.snapshot_put")
                 ? RAFT_IOERR
                 : g->inner.snapshot_put(&g->inner, put->trailing, &put->req, put->snapshot,
                                         on_snapshot_put);
    return must(g, "writing a snapshot", rv);
}

static void finish_close(struct nl_guard *g);

static void encode(void *arg) {
    struct nl_guard_snapshot *put = arg;
    struct nl_guard *g = put->guard;
    put->encode_result = g->hooks.snapshot_write(g->hooks.user, &put->data, &put->len);
}

static void encode_work(uv_work_t *work) {
    nl_background_run(encode, work->data);
}

static void after_encode(uv_work_t *work, int status) {
    struct nl_guard_snapshot *put = work->data;
    struct nl_guard *g = put->guard;
    put->working = false;
    if (put->encode_result == NL_OK) {
        put->snapshot->bufs[0].base = put->data;
        put->snapshot->bufs[0].len = put->len;
    }
    if (g->closing || status != 0) {
        snapshot_done(put, RAFT_CANCELED);
        finish_close(g);
        return;
    }
    if (put->encode_result != NL_OK) {
        g->hooks.fatal(g->hooks.user, "the state can't be encoded for a snapshot");
    }
    snapshot_pass(put);
}

static void load(void *arg) {
    struct nl_guard_snapshot *put = arg;
    struct nl_guard *g = put->guard;
    g->hooks.snapshot_load(g->hooks.user, put->snapshot->bufs[0].base, put->snapshot->bufs[0].len);
}

static void load_work(uv_work_t *work) {
    nl_background_run(load, work->data);
}

static void after_load(uv_work_t *work, int status) {
    struct nl_guard_snapshot *put = work->data;
    struct nl_guard *g = put->guard;
    (void)status;  // what was not made ready is made at the restore
    put->working = false;
    if (put->stored) {
        snapshot_done(put, put->status);
    }
    if (g->closing) {
        finish_close(g);
    }
}

// The bytes are stored and made a state at the same time; libraft hears when both are done. A crash
// between the storing of the snapshot and the removal of all of the log that it replaces leaves
// both: with the mark, node.c finishes that at the next start.
static int install(struct nl_guard_snapshot *put) {
    struct nl_guard *g = put->guard;
    if (nl_mark_install_begin(&g->mark, put->snapshot->index, put->snapshot->term) != NL_OK) {
        return must(g, "installing a snapshot", RAFT_IOERR);
    }
    put->working = uv_queue_work(g->loop, &put->work, load_work, after_load) == 0;
    if (!put->working) {
        load_work(&put->work);
    }
    return snapshot_pass(put);
}

// The bytes of the own state are made in a worker before they are stored; libraft keeps `snapshot`
// until `cb`.
static int take(struct nl_guard_snapshot *put) {
    struct nl_guard *g = put->guard;
    g->log_bytes = g->log_entries = 0;
    int rv = uv_queue_work(g->loop, &put->work, encode_work, after_encode);
    put->working = rv == 0;
    return must(g, "writing a snapshot", rv == 0 ? 0 : RAFT_NOMEM);
}

static int guard_snapshot_put(struct raft_io *io, unsigned trailing,
                              struct raft_io_snapshot_put *req,
                              const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb) {
    struct nl_guard *g = of_io(io);
    if (g->closing) {
        return RAFT_CANCELED;
    }
    assert(g->snapshot == NULL);
    struct nl_guard_snapshot *put = calloc(1, sizeof *put);
    if (put == NULL) {
        return must(g, "writing a snapshot", RAFT_NOMEM);
    }
    put->guard = g;
    put->orig = req;
    put->cb = cb;
    put->req.data = put;
    put->snapshot = snapshot;
    put->trailing = trailing;
    put->work.data = put;
    g->snapshot = put;
    assert(snapshot->n_bufs == 1);
    return trailing == 0 ? install(put) : take(put);
}

struct guard_get {
    struct raft_io_snapshot_get req;
    struct nl_guard *guard;
    struct raft_io_snapshot_get *orig;
    raft_io_snapshot_get_cb cb;
};

// libraft 0.22 frees fields that it never set when a snapshot can't be read, so it must not hear of
// that: the node stops, or, while it closes anyway, keeps a few bytes.
static void on_snapshot_got(struct raft_io_snapshot_get *req, struct raft_snapshot *snapshot,
                            int status) {
    struct guard_get *get = req->data;
    struct nl_guard *g = get->guard;
    struct raft_io_snapshot_get *orig = get->orig;
    raft_io_snapshot_get_cb cb = get->cb;
    free(get);
    if (status == 0) {
        g->read_index = snapshot->index;
        g->read_term = snapshot->term;
        cb(orig, snapshot, status);
    } else if (!g->closing) {
        fatal(g, "reading a snapshot", status);
    }
}

static int guard_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                              raft_io_snapshot_get_cb cb) {
    struct nl_guard *g = of_io(io);
    struct guard_get *get = calloc(1, sizeof *get);
    if (get == NULL) {
        return must(g, "reading a snapshot", RAFT_NOMEM);
    }
    get->guard = g;
    get->orig = req;
    get->cb = cb;
    get->req.data = get;
    int rv = g->inner.snapshot_get(&g->inner, &get->req, on_snapshot_got);
    if (rv != 0) {
        free(get);
    }
    return must(g, "reading a snapshot", rv);
}

// When a newer snapshot was stored since libraft decided to send one, it sends the newer one's
// index and bytes with the older one's term: the follower's log would not match anybody's. It
// calls this from on_snapshot_got.
static void set_snapshot_term(const struct nl_guard *g, struct raft_install_snapshot *args) {
    if (args->last_index == g->read_index) {
        args->last_term = g->read_term;
    }
}

// ---- send ----------------------------------------------------------------------

static size_t message_bytes(const struct raft_message *message) {
    size_t bytes = 128;
    if (message->type == RAFT_APPEND_ENTRIES) {
        for (unsigned i = 0; i < message->append_entries.n_entries; i++) {
            bytes += 16 + message->append_entries.entries[i].buf.len;
        }
    } else if (message->type == RAFT_INSTALL_SNAPSHOT) {
        bytes += message->install_snapshot.data.len;
    }
    return bytes;
}

// libraft 0.22 frees a snapshot's bytes as soon as it hears that they are sent. They are taken from
// its message before that (it keeps the message until then).
static void take_bytes(struct nl_guard *g, const struct raft_message *message) {
    struct raft_install_snapshot *args =
        (struct raft_install_snapshot *)(uintptr_t)&message->install_snapshot;
    if (message->type == RAFT_INSTALL_SNAPSHOT && !g->closing) {
        nl_reap_large(&g->reaper, args->data.base, args->data.len);
        args->data.base = NULL;
    }
}

// Before the backend has it: nothing says that it doesn't call on_sent at once.
static void queue(const struct guard_send *send) {
    send->peer->queued_messages++;
    send->peer->queued_bytes += send->bytes;
    send->peer->snapshot_queued = send->peer->snapshot_queued || send->is_snapshot;
}

static void unqueue(const struct guard_send *send) {
    send->peer->queued_messages--;
    send->peer->queued_bytes -= send->bytes;
    if (send->is_snapshot) {
        send->peer->snapshot_queued = false;
        take_bytes(send->guard, send->message);
    }
}

static void on_sent(struct raft_io_send *req, int status) {
    struct guard_send *send = req->data;
    struct raft_io_send *orig = send->orig;
    raft_io_send_cb cb = send->cb;
    unqueue(send);
    free(send);
    if (cb != NULL) {
        cb(orig, status);
    }
}

static bool has_room(const struct nl_guard_peer *peer, const struct raft_message *message,
                     size_t bytes) {
    if (message->type == RAFT_INSTALL_SNAPSHOT) {
        return !peer->snapshot_queued;  // of any size, but one at a time
    }
    return peer->queued_messages < PEER_MESSAGES_MAX &&
           (peer->queued_bytes == 0 || peer->queued_bytes + bytes <= PEER_BYTES_MAX);
}

// An "accepted" that says what the one before it said, a few milliseconds ago: the answer to a
// pushed commit index (push.h), as a rule. The leader learns nothing from it, but has to wake and
// work for it just when the next write is at hand. Raft allows any message to be lost, and the
// answer to a heartbeat comes again.
static bool is_repeated(struct nl_guard_peer *peer, const struct raft_message *message) {
    const struct raft_append_entries_result *result = &message->append_entries_result;
    uint64_t now_ms = nl_clock_mono_ms();
    if (message->type != RAFT_APPEND_ENTRIES_RESULT || result->rejected != 0) {
        return false;
    }
    if (peer->answered_term == result->term && peer->answered_index == result->last_log_index &&
        now_ms < peer->answered_ms + ANSWER_AGAIN_MS) {
        return true;
    }
    peer->answered_term = result->term;
    peer->answered_index = result->last_log_index;
    peer->answered_ms = now_ms;
    return false;
}

static int guard_send(struct raft_io *io, struct raft_io_send *req,
                      const struct raft_message *message, raft_io_send_cb cb) {
    struct nl_guard *g = of_io(io);
    struct nl_guard_peer *peer = nl_guard_peer(g, message->server_id);
    size_t bytes = message_bytes(message);
    struct guard_send *send = calloc(1, sizeof *send);
    struct raft_message bounded = *message;
    if (message->type == RAFT_APPEND_ENTRIES) {
        bound_commit(&bounded.append_entries);
    } else if (message->type == RAFT_INSTALL_SNAPSHOT) {
        set_snapshot_term(g, &bounded.install_snapshot);
    } else if (message->type == RAFT_APPEND_ENTRIES_RESULT &&
               message->append_entries_result.rejected == 1) {
        bounded.append_entries_result.last_log_index = 0;  // unset, see reject_old_term
    }
    // An error returned here would end in an assertion of the library; a message that is lost
    // would not.
    if (g->closing || send == NULL || peer == NULL || is_repeated(peer, message) ||
        !has_room(peer, message, bytes)) {
        free(send);
        take_bytes(g, message);
        req->cb = cb;
        if (cb != NULL) {
            cb(req, RAFT_NOCONNECTION);
        }
        return 0;
    }
    send->orig = req;
    send->cb = cb;
    send->peer = peer;
    send->bytes = bytes;
    send->guard = g;
    send->message = message;
    send->is_snapshot = message->type == RAFT_INSTALL_SNAPSHOT;
    send->req.data = send;
    queue(send);
    int rv = g->inner.send(&g->inner, &send->req, &bounded, on_sent);
    if (rv != 0) {
        unqueue(send);
        free(send);
        if (cb != NULL) {
            cb(req, rv);
        }
        return 0;
    }
    if (bounded.type == RAFT_APPEND_ENTRIES &&
        bounded.append_entries.leader_commit > peer->told_commit) {
        peer->told_commit = bounded.append_entries.leader_commit;
    }
    return 0;
}

// ---- close ---------------------------------------------------------------------

static void drop_hung_appends(struct nl_guard *g) {
    struct nl_guard_append *append, *next;
    DL_FOREACH_SAFE (g->appends, append, next) {
        DL_DELETE(g->appends, append);
        append->cb(append->orig, RAFT_CANCELED);
        free(append);
    }
}

static void finish_close(struct nl_guard *g) {
    if (!g->inner_closed || (g->snapshot != NULL && g->snapshot->working) ||
        g->reaper.pending > 0) {
        return;
    }
    drop_hung_appends(g);
    g->close_cb(&g->io);
}

static void on_reaped(void *user) {
    struct nl_guard *g = user;
    if (g->closing) {
        finish_close(g);
    }
}

static void on_inner_closed(struct raft_io *inner) {
    struct nl_guard *g = of_inner(inner);
    g->inner_closed = true;
    finish_close(g);
}

static void guard_close(struct raft_io *io, raft_io_close_cb cb) {
    struct nl_guard *g = of_io(io);
    nl_mark_raise(&g->mark, ((const struct raft *)io->data)->last_stored);
    g->closing = true;
    g->close_cb = cb;
    g->inner.close(&g->inner, on_inner_closed);
}

// ---- watchdog ------------------------------------------------------------------

// Time counts only as far as this loop ran: a process that was stopped for a while must not
// blame its disk.
void nl_guard_watch(struct nl_guard *g) {
    uint64_t now = nl_clock_mono_ms();
    uint64_t step = now - g->watch_ms;
    struct nl_guard_append *append;
    char text[RAFT_ERRMSG_BUF_SIZE + 128];
    g->watch_ms = now;
    step = step > WATCH_STEP_MS_MAX ? WATCH_STEP_MS_MAX : step;
    DL_FOREACH (g->appends, append) {
        append->watched_ms += step;
    }
    if (g->appends != NULL && g->appends->watched_ms > APPEND_MS_MAX) {
        snprintf(text, sizeof text,
                 "a write to the log takes longer than %d ms: the disk hangs, is full or fails%s%s",
                 APPEND_MS_MAX, g->inner.errmsg[0] != '\0' ? ": " : "", g->inner.errmsg);
        g->hooks.fatal(g->hooks.user, text);
    }
    // Encoding isn't counted: what that takes is the processors' fault, not the disk's.
    if (g->snapshot != NULL && g->snapshot->passed &&
        (g->snapshot->watched_ms += step) > SNAPSHOT_MS_MAX) {
        snprintf(text, sizeof text, "writing a snapshot takes longer than %d ms%s%s",
                 SNAPSHOT_MS_MAX, g->inner.errmsg[0] != '\0' ? ": " : "", g->inner.errmsg);
        g->hooks.fatal(g->hooks.user, text);
    }
}

void nl_guard_init(struct nl_guard *g, uv_loop_t *loop, const struct nl_guard_hooks *hooks) {
    g->loop = loop;
    g->hooks = *hooks;
    g->reaper = (struct nl_reaper){.loop = loop, .idle = on_reaped, .user = g};
    g->watch_ms = nl_clock_mono_ms();
    g->io.version = g->inner.version;
    g->io.impl = g;
    g->io.init = guard_init;
    g->io.close = guard_close;
    g->io.load = guard_load;
    g->io.start = guard_start;
    g->io.bootstrap = guard_bootstrap;
    g->io.recover = guard_recover;
    g->io.set_term = guard_set_term;
    g->io.set_vote = guard_set_vote;
    g->io.send = guard_send;
    g->io.append = guard_append;
    g->io.truncate = guard_truncate;
    g->io.snapshot_put = guard_snapshot_put;
    g->io.snapshot_get = guard_snapshot_get;
    g->io.time = guard_time;
    g->io.random = guard_random;
}
