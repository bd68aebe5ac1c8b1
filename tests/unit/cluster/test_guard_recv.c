// What becomes of messages that libraft takes wrongly, and of a snapshot that can't be read: real
// libraft and real guard on a backend that does nothing by itself. The simulation's network keeps
// the order of messages, so it never shows the first of these.

#include <raft.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/raft/guard.h"

int configurationEncode(const struct raft_configuration *conf, struct raft_buffer *buf);
int configurationCopy(const struct raft_configuration *from, struct raft_configuration *to);

enum { SENT_MAX = 64, APPENDS_MAX = 16, HEARTBEAT_MS = 100, ELECTION_MS = 1000 };

struct server {
    struct raft raft;
    struct nl_guard guard;
    struct raft_fsm fsm;
    struct raft_configuration conf;
    // What it finds on its disk: entries `first` to `last`, all of one term.
    raft_term term;
    raft_index first, last, snapshot_index;
    raft_time now;
    raft_io_tick_cb tick;
    raft_io_recv_cb recv;
    struct raft_message sent[SENT_MAX];
    unsigned n_sent;
    struct raft_io_append *appends[APPENDS_MAX];
    raft_io_append_cb append_cbs[APPENDS_MAX];
    unsigned n_appends;
    struct raft_io_snapshot_get *get;
    raft_io_snapshot_get_cb get_cb;
    unsigned fatals;
    bool may_stop;
};

static struct server *server_of(struct raft_io *io) {
    return io->impl;
}

// ---- the backend ---------------------------------------------------------------

static int io_init(struct raft_io *io, raft_id id, const char *address) {
    (void)io, (void)id, (void)address;
    return 0;
}

static void io_close(struct raft_io *io, raft_io_close_cb cb) {
    cb(io);
}

static struct raft_snapshot *make_snapshot(const struct server *s) {
    struct raft_snapshot *snapshot = raft_calloc(1, sizeof *snapshot);
    assert_non_null(snapshot);
    snapshot->index = s->snapshot_index;
    snapshot->term = s->term;
    snapshot->configuration_index = 1;
    assert_int_equal(configurationCopy(&s->conf, &snapshot->configuration), 0);
    snapshot->n_bufs = 1;
    snapshot->bufs = raft_calloc(1, sizeof *snapshot->bufs);
    assert_non_null(snapshot->bufs);
    snapshot->bufs[0] = (struct raft_buffer){raft_malloc(8), 8};
    return snapshot;
}

static void fill_entry(const struct server *s, raft_index index, struct raft_entry *entry) {
    *entry = (struct raft_entry){.term = s->term, .type = RAFT_COMMAND};
    if (index == 1) {
        entry->type = RAFT_CHANGE;
        assert_int_equal(configurationEncode(&s->conf, &entry->buf), 0);
    } else {
        entry->buf = (struct raft_buffer){raft_calloc(1, 8), 8};
    }
    entry->batch = entry->buf.base;
}

static int io_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                   struct raft_snapshot **snapshot, raft_index *start_index,
                   struct raft_entry *entries[], size_t *n_entries) {
    const struct server *s = server_of(io);
    *term = s->term;
    *voted_for = 0;
    *snapshot = s->snapshot_index > 0 ? make_snapshot(s) : NULL;
    *start_index = s->first;
    *n_entries = (size_t)(s->last - s->first + 1);
    *entries = raft_calloc(*n_entries, sizeof **entries);
    assert_non_null(*entries);
    for (size_t i = 0; i < *n_entries; i++) {
        fill_entry(s, s->first + i, &(*entries)[i]);
    }
    return 0;
}

static int io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                    raft_io_recv_cb recv) {
    (void)msecs;
    server_of(io)->tick = tick;
    server_of(io)->recv = recv;
    return 0;
}

static int io_set(struct raft_io *io, unsigned long long value) {
    (void)io, (void)value;
    return 0;
}

static int io_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                   raft_io_send_cb cb) {
    struct server *s = server_of(io);
    assert_true(s->n_sent < SENT_MAX);
    s->sent[s->n_sent++] = *message;
    cb(req, 0);
    return 0;
}

static int io_append(struct raft_io *io, struct raft_io_append *req,
                     const struct raft_entry entries[], unsigned n, raft_io_append_cb cb) {
    struct server *s = server_of(io);
    (void)entries, (void)n;
    assert_true(s->n_appends < APPENDS_MAX);
    s->appends[s->n_appends] = req;
    s->append_cbs[s->n_appends++] = cb;
    return 0;
}

static int io_snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                           raft_io_snapshot_get_cb cb) {
    server_of(io)->get = req;
    server_of(io)->get_cb = cb;
    return 0;
}

static raft_time io_time(struct raft_io *io) {
    return server_of(io)->now;
}

static int io_random(struct raft_io *io, int min, int max) {
    (void)io, (void)max;
    return min;
}

static int restore(struct raft_fsm *fsm, struct raft_buffer *buf) {
    (void)fsm;
    raft_free(buf->base);
    return 0;
}

static int apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result) {
    (void)fsm, (void)buf;
    *result = NULL;
    return 0;
}

// ---- a server ------------------------------------------------------------------

static void stepped(void *user) {
    (void)user;
}

// The product's does not return.
static void fatal(void *user, const char *why) {
    struct server *s = user;
    if (!s->may_stop) {
        fail_msg("%s", why);
    }
    s->fatals++;
}

static void server_open(struct server *s, raft_id id) {
    const struct nl_guard_hooks hooks = {.user = s, .stepped = stepped, .fatal = fatal};
    struct raft_io *io = &s->guard.inner;
    raft_configuration_init(&s->conf);
    assert_int_equal(raft_configuration_add(&s->conf, 1, "1", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&s->conf, 2, "2", RAFT_VOTER), 0);
    assert_int_equal(raft_configuration_add(&s->conf, 3, "3", RAFT_VOTER), 0);
    *io = (struct raft_io){.version = 2,
                           .capacity = UINT16_MAX,
                           .impl = s,
                           .init = io_init,
                           .close = io_close,
                           .load = io_load,
                           .start = io_start,
                           .set_term = io_set,
                           .set_vote = io_set,
                           .truncate = io_set,
                           .send = io_send,
                           .append = io_append,
                           .snapshot_get = io_snapshot_get,
                           .time = io_time,
                           .random = io_random};
    s->fsm = (struct raft_fsm){.version = 1, .apply = apply, .restore = restore};
    s->guard.mark.fd = -1;
    nl_guard_init(&s->guard, uv_default_loop(), &hooks);
    assert_int_equal(raft_init(&s->raft, &s->guard.io, &s->fsm, id, id == 1 ? "1" : "2"), 0);
    raft_set_heartbeat_timeout(&s->raft, HEARTBEAT_MS);
    raft_set_election_timeout(&s->raft, ELECTION_MS);
    raft_set_snapshot_threshold(&s->raft, 1000000);
    assert_int_equal(raft_start(&s->raft), 0);
}

static void server_close(struct server *s) {
    raft_close(&s->raft, NULL);
    raft_configuration_close(&s->conf);
}

static void deliver(struct server *s, struct raft_message message, raft_id from) {
    message.server_id = from;
    message.server_address = from == 1 ? "1" : from == 2 ? "2" : "3";
    s->recv(&s->guard.inner, &message);
}

// The latest answer to an AppendEntries.
static const struct raft_append_entries_result *answer(const struct server *s) {
    for (unsigned i = s->n_sent; i > 0; i--) {
        if (s->sent[i - 1].type == RAFT_APPEND_ENTRIES_RESULT) {
            return &s->sent[i - 1].append_entries_result;
        }
    }
    fail_msg("no answer");
    return NULL;
}

// Becomes leader of the term after its own, with the vote of server 3.
static void elect(struct server *s) {
    struct raft_message vote = {.type = RAFT_REQUEST_VOTE_RESULT};
    raft_set_pre_vote(&s->raft, false);
    s->now += 3 * ELECTION_MS;
    s->tick(&s->guard.inner);
    vote.request_vote_result.term = s->term + 1;
    vote.request_vote_result.vote_granted = true;
    deliver(s, vote, 3);
    assert_int_equal(raft_state(&s->raft), RAFT_LEADER);
}

// What an unset variable of the next call will hold.
static void __attribute__((noinline)) fill_stack(uint8_t with) {
    volatile uint8_t bytes[32768];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = with;
    }
}

// ---- tests ---------------------------------------------------------------------

// libraft answers an AppendEntries of an older term with an index that it never set. Behind entry 0
// that would mean: accepted, stored up to there. Its sender may lead again in the newer term.
static void answer_to_an_old_term(void **state) {
    static const raft_index behind[] = {0, 1, 2, 7};
    (void)state;
    for (size_t i = 0; i < sizeof behind / sizeof *behind; i++) {
        struct server follower = {.term = 8, .first = 1, .last = 2};
        struct server leader = {.term = 7, .first = 1, .last = 40};
        struct raft_message old = {.type = RAFT_APPEND_ENTRIES};
        server_open(&follower, 1);
        server_open(&leader, 2);
        elect(&leader);
        old.append_entries.term = 5;
        old.append_entries.prev_log_index = behind[i];
        fill_stack(0x20);  // 0x2020202020202020 entries
        deliver(&follower, old, 2);
        struct raft_append_entries_result result = *answer(&follower);
        assert_int_equal(result.term, 8);

        struct raft_message message = {.type = RAFT_APPEND_ENTRIES_RESULT};
        raft_index match = 1;
        message.append_entries_result = result;
        deliver(&leader, message, 1);
        assert_int_equal(raft_match_index(&leader.raft, 1, &match), 0);
        assert_int_equal(match, 0);
        assert_true(raft_commit_index(&leader.raft) < 40);
        assert_int_equal(result.rejected, 1);
        assert_int_equal(result.last_log_index, 0);  // and no memory of ours is sent
        server_close(&follower);
        server_close(&leader);
    }
}

// With the commit index that the guard lets a leader send.
static void heartbeat_behind(struct server *s, raft_index index) {
    struct raft_message message = {.type = RAFT_APPEND_ENTRIES};
    message.append_entries.term = s->term;
    message.append_entries.prev_log_index = index;
    message.append_entries.prev_log_term = s->term;
    message.append_entries.leader_commit = index;
    deliver(s, message, 2);
}

// A leader that missed answers goes on behind an entry that is only in the follower's snapshot.
static void resume_below_the_snapshot(void **state) {
    struct server s = {.term = 3, .first = 16, .last = 25, .snapshot_index = 20};
    (void)state;
    server_open(&s, 1);
    for (raft_index index = 1; index <= 19; index++) {
        s.n_sent = 0;
        nl_guard_peer(&s.guard, 2)->answered_term = 0;  // an equal answer is not sent twice
        heartbeat_behind(&s, index);
        assert_int_equal(answer(&s)->rejected, 0);
        // Far enough to go on from, and no further than what the leader and this node share.
        assert_true(answer(&s)->last_log_index >= index);
        assert_true(answer(&s)->last_log_index <= 20);
        assert_int_equal(raft_commit_index(&s.raft), 20);
    }
    heartbeat_behind(&s, 25);
    assert_int_equal(answer(&s)->last_log_index, 25);
    server_close(&s);
}

// The same with the entries themselves, from the first one on: nothing is stored a second time.
static void entries_below_the_snapshot(void **state) {
    struct server s = {.term = 3, .first = 16, .last = 25, .snapshot_index = 20};
    struct raft_message message = {.type = RAFT_APPEND_ENTRIES};
    struct raft_append_entries *args = &message.append_entries;
    (void)state;
    server_open(&s, 1);
    args->term = 3;
    args->leader_commit = 4;
    args->n_entries = 4;
    args->entries = raft_calloc(4, sizeof *args->entries);
    uint64_t *batch = raft_calloc(4, sizeof *batch);
    assert_non_null(args->entries);
    for (unsigned i = 0; i < 4; i++) {
        args->entries[i] = (struct raft_entry){
            .term = 3, .type = RAFT_COMMAND, .buf = {&batch[i], 8}, .batch = batch};
    }
    deliver(&s, message, 2);
    assert_int_equal(s.n_appends, 0);
    assert_int_equal(answer(&s)->rejected, 0);
    assert_int_equal(answer(&s)->last_log_index, 20);
    assert_int_equal(raft_last_index(&s.raft), 25);
    server_close(&s);
}

static void result(struct server *leader, raft_index rejected, raft_index last) {
    struct raft_message message = {.type = RAFT_APPEND_ENTRIES_RESULT};
    message.append_entries_result.term = raft_current_term(&leader->raft);
    message.append_entries_result.rejected = rejected;
    message.append_entries_result.last_log_index = last;
    deliver(leader, message, 1);
}

// A follower rejects what the leader knows it has stored: the leader goes on.
static void rejection_of_what_is_stored(void **state) {
    struct server leader = {.term = 7, .first = 1, .last = 40};
    raft_index match = 0;
    (void)state;
    server_open(&leader, 2);
    elect(&leader);
    result(&leader, 0, 40);
    // Not heard of for a while, it is asked again behind its last entry.
    for (unsigned i = 0; i < 2; i++) {
        struct raft_message alive = {.type = RAFT_APPEND_ENTRIES_RESULT};
        alive.append_entries_result.term = 8;
        deliver(&leader, alive, 3);
        leader.now += ELECTION_MS;
        leader.tick(&leader.guard.inner);
    }
    assert_int_equal(raft_state(&leader.raft), RAFT_LEADER);
    result(&leader, 40, 12);
    assert_int_equal(raft_match_index(&leader.raft, 1, &match), 0);
    assert_int_equal(match, 40);
    server_close(&leader);
}

// Known here, so that no leak is seen in what a node that stops leaves behind.
static void *given[256];

static void *poisoned_malloc(void *data, size_t size) {
    static size_t n;
    (void)data;
    void *p = malloc(size);
    given[n++ % 256] = p;
    return p != NULL ? memset(p, 0xa5, size) : NULL;
}

static void plain_free(void *data, void *p) {
    (void)data;
    free(p);
}

static void *plain_calloc(void *data, size_t n, size_t size) {
    (void)data;
    return calloc(n, size);
}

static void *plain_realloc(void *data, void *p, size_t size) {
    (void)data;
    return realloc(p, size);
}

static void *plain_aligned_alloc(void *data, size_t alignment, size_t size) {
    (void)data;
    return aligned_alloc(alignment, size);
}

static void aligned_free(void *data, size_t alignment, void *p) {
    (void)data, (void)alignment;
    free(p);
}

// libraft would free what it never set.
static void snapshot_that_cant_be_read(void **state) {
    struct raft_heap heap = {NULL,          poisoned_malloc,     plain_free,  plain_calloc,
                             plain_realloc, plain_aligned_alloc, aligned_free};
    struct server leader = {.term = 7, .first = 30, .last = 40, .snapshot_index = 35};
    (void)state;
    raft_heap_set(&heap);
    server_open(&leader, 2);
    elect(&leader);
    result(&leader, 40, 3);
    assert_non_null(leader.get);
    leader.may_stop = true;
    leader.get_cb(leader.get, raft_malloc(sizeof(struct raft_snapshot)), RAFT_IOERR);
    assert_int_equal(leader.fatals, 1);
    server_close(&leader);
    raft_heap_set_default();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answer_to_an_old_term),      cmocka_unit_test(resume_below_the_snapshot),
        cmocka_unit_test(entries_below_the_snapshot), cmocka_unit_test(rejection_of_what_is_stored),
        cmocka_unit_test(snapshot_that_cant_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
