// Snapshots: canonical bytes, restore of damaged ones, and writing on a thread while commands are
// applied.

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/state/frame.h"
#include "cluster/state/internal.h"
#include "common/base/err.h"
#include "tests/unit/state/fixture.h"
#include "tests/unit/state/generate.h"

#define EXITED NODELINK__V1__TASK_RESULT__KIND__EXITED

static const struct nl_state_limits limits = {
    .tasks_per_agent_active_max = 8, .agents_max = 5, .outcomes_per_proposer_max = 10};

// A state with records of every kind, after `n` random commands.
static struct nl_state *random_state(struct generator *g, uint64_t seed, size_t n) {
    struct nl_state *state;
    generator_init(g, seed);
    assert_int_equal(nl_state_new(&limits, &state), NL_OK);
    for (size_t i = 0; i < n; i++) {
        size_t len;
        uint8_t *data = generate(g, state, &len);
        assert_int_equal(nl_state_apply(state, i + 1, data, len, NULL, NULL), NL_OK);
        free(data);
    }
    return state;
}

static void expect_same_state(const struct nl_state *a, const struct nl_state *b) {
    uint8_t x[NL_STATE_HASH_LEN], y[NL_STATE_HASH_LEN];
    nl_state_hash(a, x);
    nl_state_hash(b, y);
    assert_memory_equal(x, y, sizeof x);
    assert_int_equal(nl_state_index(a), nl_state_index(b));
    assert_int_equal(nl_state_clock_ms(a), nl_state_clock_ms(b));
}

static void test_restore_gives_the_same_state_and_bytes(void **unused) {
    (void)unused;
    struct generator g;
    for (uint64_t seed = 1; seed < 20; seed++) {
        struct nl_state *state = random_state(&g, seed, seed * 40), *other;
        size_t len, again_len;
        uint8_t *data = fx_snapshot(state, &len);
        assert_int_equal(nl_state_new(&limits, &other), NL_OK);
        assert_int_equal(nl_state_restore(other, data, len), NL_OK);
        fx_check(other);
        expect_same_state(state, other);
        uint8_t *again = fx_snapshot(other, &again_len);
        assert_int_equal(len, again_len);
        assert_memory_equal(data, again, len);
        free(data);
        free(again);
        nl_state_free(state);
        nl_state_free(other);
    }
}

static void test_empty_state(void **unused) {
    (void)unused;
    static struct fx fx;
    size_t len;
    fx_open(&fx, NULL);
    uint8_t *data = fx_snapshot(fx.state, &len);
    fx_agent(&fx, "a");
    assert_int_equal(nl_state_restore(fx.state, data, len), NL_OK);
    free(data);
    assert_null(nl_state_agent_next(fx.state, NULL));
    assert_int_equal(nl_state_index(fx.state), 0);
    fx_agent(&fx, "a");
    fx_close(&fx);
}

// ---- canonical bytes ------------------------------------------------------------

// The same records, made in the order given; their stamps are all the same.
static uint8_t *snapshot_in_order(const unsigned *order, size_t n, size_t *ret_len,
                                  uint8_t hash[NL_STATE_HASH_LEN]) {
    static struct fx fx;
    char id[24];
    fx_open(&fx, NULL);
    fx.proposer = 0;
    fx_noop(&fx);
    for (size_t i = 0; i < n; i++) {
        fx.time_ms = 0;  // so that state time stays where the first command put it
        snprintf(id, sizeof id, "agent-%u", order[i]);
        fx_node_up(&fx, order[i] + 1, 1);
        fx_token(&fx, id, 1);
        fx_register(&fx, (struct fx_hello){.agent = id, .node = order[i] + 1});
        snprintf(id, sizeof id, "task-%u", order[i]);
        fx_submit(&fx, id, fx.effects[0].id, "true", 0);
        if (order[i] % 2 == 0) {
            fx_finish(&fx, id, nl_state_task(fx.state, id)->spec->agent_id, 1, EXITED, 0);
        }
    }
    nl_state_set_index(fx.state, 1000);
    nl_state_hash(fx.state, hash);
    uint8_t *data = fx_snapshot(fx.state, ret_len);
    fx_close(&fx);
    return data;
}

static void test_order_of_insertion_does_not_matter(void **unused) {
    (void)unused;
    unsigned order[60];
    uint8_t hash[NL_STATE_HASH_LEN], other_hash[NL_STATE_HASH_LEN];
    struct generator g;
    size_t len, other_len;
    generator_init(&g, 7);
    for (unsigned i = 0; i < 60; i++) {
        order[i] = i;
    }
    uint8_t *data = snapshot_in_order(order, 60, &len, hash);
    for (int round = 0; round < 5; round++) {
        for (size_t i = 59; i > 0; i--) {
            size_t j = generator_below(&g, i + 1);
            unsigned moved = order[i];
            order[i] = order[j];
            order[j] = moved;
        }
        uint8_t *other = snapshot_in_order(order, 60, &other_len, other_hash);
        assert_memory_equal(hash, other_hash, sizeof hash);
        assert_int_equal(len, other_len);
        assert_memory_equal(data, other, len);
        free(other);
    }
    free(data);
}

static void test_hash_depends_on_every_record(void **unused) {
    (void)unused;
    struct generator g;
    struct nl_state *state = random_state(&g, 3, 0);
    uint8_t before[NL_STATE_HASH_LEN], after[NL_STATE_HASH_LEN];
    for (size_t i = 1; i <= 500; i++) {
        size_t len, old_len, new_len;
        nl_state_hash(state, before);
        uint8_t *old = fx_snapshot(state, &old_len);
        uint8_t *data = generate(&g, state, &len);
        assert_int_equal(nl_state_apply(state, 1, data, len, NULL, NULL), NL_OK);
        nl_state_hash(state, after);
        uint8_t *now = fx_snapshot(state, &new_len);
        // The first command moves the index, which the hash doesn't cover.
        bool same = old_len == new_len && memcmp(old, now, old_len) == 0;
        assert_true(i == 1 || same == (memcmp(before, after, sizeof before) == 0));
        free(old);
        free(now);
        free(data);
    }
    nl_state_free(state);
}

// ---- damage ----------------------------------------------------------------------

static void expect_refused(struct nl_state *state, const uint8_t *data, size_t len,
                           const uint8_t hash[NL_STATE_HASH_LEN]) {
    uint8_t now[NL_STATE_HASH_LEN];
    // Exactly its size, so that a sanitizer sees a read beyond its end.
    uint8_t *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, data, len);
    assert_int_equal(nl_state_restore(state, copy, len), NL_ECORRUPT);
    nl_state_hash(state, now);
    assert_memory_equal(now, hash, sizeof now);
    free(copy);
}

static void test_every_truncation_and_bit_flip_is_noticed(void **unused) {
    (void)unused;
    struct generator g;
    struct nl_state *state = random_state(&g, 5, 150);
    uint8_t hash[NL_STATE_HASH_LEN];
    size_t len;
    uint8_t *data = fx_snapshot(state, &len);
    nl_state_hash(state, hash);
    uint64_t index = nl_state_index(state);
    for (size_t cut = 0; cut < len; cut++) {
        expect_refused(state, data, cut, hash);
    }
    for (size_t bit = 0; bit < len * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        expect_refused(state, data, len, hash);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(nl_state_index(state), index);
    fx_check(state);
    assert_int_equal(nl_state_restore(state, data, len), NL_OK);
    free(data);
    nl_state_free(state);
}

static void sign(uint8_t *data, size_t len) {
    nl_sum_bytes(nl_hash_bytes(data, len - NL_FRAME_HEAD - NL_STATE_HASH_LEN),
                 data + len - NL_STATE_HASH_LEN);
}

// Behind the checksum stand the other checks: with a fresh checksum a damage must either be
// noticed, or be one of the index, which nothing else covers, or another encoding of the same value
// (a true that isn't 1, bits of a negative number beyond its size).
static void test_damage_under_a_valid_checksum(void **unused) {
    (void)unused;
    struct generator g;
    struct nl_state *state = random_state(&g, 6, 150), *other;
    uint8_t hash[NL_STATE_HASH_LEN], now[NL_STATE_HASH_LEN];
    size_t len, restored = 0;
    uint8_t *data = fx_snapshot(state, &len);
    assert_int_equal(nl_state_new(&limits, &other), NL_OK);
    nl_state_hash(state, hash);
    for (size_t bit = 0; bit < (len - NL_FRAME_HEAD - NL_STATE_HASH_LEN) * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        sign(data, len);
        int rv = nl_state_restore(other, data, len);
        assert_true(rv == NL_OK || rv == NL_ECORRUPT);
        if (rv == NL_OK) {
            nl_state_hash(other, now);
            assert_memory_equal(now, hash, sizeof hash);
            restored++;
        }
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(restored * 50 < len * 8);
    free(data);
    nl_state_free(state);
    nl_state_free(other);
}

// ---- earlier versions ------------------------------------------------------------

static uint8_t *read_data(const char *name, size_t *ret_len) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", NL_STATE_TEST_DATA, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    enum { MAX = 1 << 20 };
    uint8_t *data = malloc(MAX);
    assert_non_null(data);
    *ret_len = fread(data, 1, MAX, file);
    assert_true(*ret_len > 0 && *ret_len < MAX);
    fclose(file);
    return data;
}

// Of the state that the first version came to with the commands of v1.commands.
static const uint8_t v1_hash[NL_STATE_HASH_LEN] = {0xf0, 0xa7, 0x3d, 0xe5, 0x80, 0x76, 0x5b, 0x2f,
                                                   0xd0, 0x59, 0xa4, 0x01, 0x5b, 0x19, 0x9e, 0x97};

static void expect_v1(const struct nl_state *state) {
    uint8_t hash[NL_STATE_HASH_LEN];
    fx_check(state);
    nl_state_hash(state, hash);
    assert_memory_equal(hash, v1_hash, sizeof hash);
}

static void test_a_snapshot_of_version_1_is_loaded(void **unused) {
    (void)unused;
    struct nl_state *state;
    size_t len;
    uint8_t *data = read_data("v1.snapshot", &len);
    assert_int_equal(nl_state_new(&limits, &state), NL_OK);
    assert_int_equal(nl_state_restore(state, data, len), NL_OK);
    expect_v1(state);
    assert_int_equal(nl_state_index(state), 900);
    free(data);
    data = fx_snapshot(state, &len);  // it goes on as one of today
    assert_int_equal(nl_state_restore(state, data, len), NL_OK);
    expect_v1(state);
    free(data);
    nl_state_free(state);
}

static void test_a_snapshot_of_a_later_version_is_refused(void **unused) {
    (void)unused;
    static struct fx fx;
    size_t len;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    uint8_t *data = fx_snapshot(fx.state, &len);
    assert_int_equal(data[NL_FRAME_HEAD], 0x08);  // field 1 of the header
    assert_int_equal(data[NL_FRAME_HEAD + 1], NL_SNAPSHOT_VERSION);
    data[NL_FRAME_HEAD + 1]++;
    sign(data, len);
    assert_int_equal(nl_state_restore(fx.state, data, len), NL_ECORRUPT);
    free(data);
    fx_close(&fx);
}

// A node that replays its log with this version, and one whose snapshot was taken with the first
// one after the same entries, hold the same state.
static void test_a_log_of_version_1_comes_to_the_same_state(void **unused) {
    (void)unused;
    struct nl_state *state;
    size_t len, at = 0;
    uint64_t index = 0;
    uint8_t *data = read_data("v1.commands", &len);
    assert_int_equal(nl_state_new(&limits, &state), NL_OK);
    while (at < len) {
        size_t size = (size_t)data[at] | (size_t)data[at + 1] << 8 | (size_t)data[at + 2] << 16;
        at += 4;
        assert_true(size <= len - at);
        assert_int_equal(nl_state_apply(state, ++index, data + at, size, NULL, NULL), NL_OK);
        at += size;
    }
    assert_int_equal(index, 900);
    expect_v1(state);
    free(data);
    nl_state_free(state);
}

// ---- sizes ----------------------------------------------------------------------

// Without the check after each command, which for thousands of tasks would take minutes.
static void submit_sized(struct fx *fx, const char *id, const char *cmd) {
    size_t len;
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__TaskSubmit m = NODELINK__V1__TASK_SUBMIT__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    spec.agent_id = (char *)"a";
    spec.cmd = (char *)(uintptr_t)cmd;
    m.task_id = (char *)(uintptr_t)id;
    m.spec = &spec;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_SUBMIT;
    command.task_submit = &m;
    command.proposer = command.boot = 1;
    command.sequence = ++fx->sequence;
    command.ack_below = fx->sequence;
    command.time_ms = fx->time_ms += 10;
    uint8_t *data = fx_pack(&command, &len);
    assert_int_equal(nl_state_apply(fx->state, ++fx->index, data, len, NULL, NULL), NL_OK);
    assert_non_null(nl_state_task(fx->state, id));
    free(data);
}

static void expect_same_after_load(const struct nl_state *state) {
    struct nl_state *loaded;
    size_t len;
    uint8_t *data = fx_snapshot((struct nl_state *)(uintptr_t)state, &len);
    assert_int_equal(nl_state_load(state, data, len, &loaded), NL_OK);
    fx_check(loaded);
    expect_same_state(state, loaded);
    nl_state_free(loaded);
    free(data);
}

// Around the powers of two at which the table of ids begins another round of splits.
static void test_loaded_at_every_size_of_the_table(void **unused) {
    (void)unused;
    static const unsigned sizes[] = {1, 1023, 1024, 1025, 2047, 2048, 2049, 3000, 4100};
    const struct nl_state_limits many = {.tasks_per_agent_active_max = 10000};
    static struct fx fx;
    unsigned n = 0;
    fx_open(&fx, &many);
    fx_agent(&fx, "a");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (; n < sizes[i]; n++) {
            char id[24];
            snprintf(id, sizeof id, "%u-task", n * 2654435761u);
            submit_sized(&fx, id, "true");
        }
        expect_same_after_load(fx.state);
    }
    fx_close(&fx);
}

// The hash of a task with this id and a command of `size` x's, with `last` at its end.
static void hash_of_large(size_t size, const char *id, char last, uint8_t hash[NL_STATE_HASH_LEN]) {
    static struct fx fx;
    char *cmd = malloc(size + 1);
    assert_non_null(cmd);
    memset(cmd, 'x', size);
    cmd[size - 1] = last;
    cmd[size] = '\0';
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    submit_sized(&fx, id, cmd);
    expect_same_after_load(fx.state);
    struct nl_task task = *nl_state_task(fx.state, id);
    // The spec's own digest is part of the record, and would tell them apart.
    memset(task.spec_sha256, 0, sizeof task.spec_sha256);
    nl_sum_bytes(nl_hash_task(&task), hash);
    fx_close(&fx);
    free(cmd);
}

// Records larger than what is hashed, or decoded, in one piece.
static void test_large_records(void **unused) {
    (void)unused;
    static const size_t sizes[] = {900, 1024, 1100, 8192, 200000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t hash[3][NL_STATE_HASH_LEN];
        hash_of_large(sizes[i], "t", 'x', hash[0]);
        hash_of_large(sizes[i], "u", 'x', hash[1]);  // other at the beginning of the record
        hash_of_large(sizes[i], "t", 'y', hash[2]);
        assert_memory_not_equal(hash[0], hash[1], sizeof hash[0]);
        assert_memory_not_equal(hash[0], hash[2], sizeof hash[0]);
    }
}

// ---- what only a wrong writer could write -----------------------------------------

// A state whose record breaks an invariant, hashed as it is: bytes, counts and hash are all right.
static void test_broken_records_are_refused(void **unused) {
    (void)unused;
    for (int what = 0; what < 5; what++) {
        static struct fx fx;
        size_t len;
        fx_open(&fx, NULL);
        fx_agent(&fx, "a");
        submit_sized(&fx, "t1", "true");
        submit_sized(&fx, "t2", "true");
        fx_finish(&fx, "t2", "a", 1, EXITED, 0);
        struct nl_rec *rec = nl_table_get(&fx.state->tasks, 2);
        struct nl_task *task = &NL_CONTAINER(rec, struct nl_task_rec, head)->task;
        const struct nl_task saved = *task;
        assert_int_equal(task->state, NL_TASK_COMPLETED);
        switch (what) {
            case 0:
                task->finished_ms = 0;
                break;
            case 1:
                task->created_ms = fx.state->clock_ms + 1;
                break;
            case 2:
                task->epoch = 99;
                break;
            case 3:
                task->order = 7;
                break;
            default:
                task->version = 0;
                break;
        }
        nl_rehash(fx.state, rec, nl_hash_task(task));
        uint8_t *data = fx_snapshot(fx.state, &len);
        struct nl_state *loaded = NULL;
        assert_int_equal(nl_state_load(fx.state, data, len, &loaded), NL_ECORRUPT);
        free(data);
        *task = saved;
        nl_rehash(fx.state, rec, nl_hash_task(task));
        fx_close(&fx);
    }
}

// The state's hash is a sum, and does not see the order of the records.
static void test_unsorted_records_are_refused(void **unused) {
    (void)unused;
    static struct fx fx;
    struct nl_state *loaded = NULL;
    size_t len, at = 0, first = 0, second = 0;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    submit_sized(&fx, "t1", "true");
    submit_sized(&fx, "t2", "true");
    uint8_t *data = fx_snapshot(fx.state, &len);
    for (size_t size = 0; first == 0 || data[at + 4] == NL_FRAME_TASK; at += size) {
        size = NL_FRAME_HEAD + ((size_t)data[at] | (size_t)data[at + 1] << 8);
        second = first != 0 ? at : 0;
        first = data[at + 4] == NL_FRAME_TASK && first == 0 ? at : first;
    }
    uint8_t *copy = malloc(at - first);
    assert_non_null(copy);
    memcpy(copy, data + first, at - first);
    memcpy(data + first, copy + (second - first), at - second);
    memcpy(data + first + (at - second), copy, second - first);
    sign(data, len);
    assert_int_equal(nl_state_load(fx.state, data, len, &loaded), NL_ECORRUPT);
    memcpy(data + first, copy, at - first);
    sign(data, len);
    assert_int_equal(nl_state_load(fx.state, data, len, &loaded), NL_OK);
    nl_state_free(loaded);
    free(copy);
    free(data);
    fx_close(&fx);
}

// ---- on a thread -------------------------------------------------------------------

struct writer {
    struct nl_state_snapshot *snapshot;
    uint8_t *data;
    size_t len;
};

static void *write_snapshot(void *arg) {
    struct writer *w = arg;
    return nl_state_snapshot_write(w->snapshot, &w->data, &w->len) == NL_OK ? w : NULL;
}

static void apply_some(struct generator *g, struct nl_state *state, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t len;
        uint8_t *data = generate(g, state, &len);
        assert_int_equal(nl_state_apply(state, nl_state_index(state) + 1, data, len, NULL, NULL),
                         NL_OK);
        free(data);
    }
}

static void test_written_on_a_thread_while_commands_are_applied(void **unused) {
    (void)unused;
    const struct nl_state_limits many = {
        .tasks_per_agent_active_max = 8, .agents_max = 5, .outcomes_per_proposer_max = 2000};
    struct generator g;
    struct nl_state *state;
    generator_init(&g, 11);
    assert_int_equal(nl_state_new(&many, &state), NL_OK);
    apply_some(&g, state, 300);
    for (int round = 0; round < 60; round++) {
        struct writer w = {0};
        pthread_t thread;
        void *result;
        size_t len;
        uint8_t *expected = fx_snapshot(state, &len);
        assert_int_equal(nl_state_snapshot_begin(state, &w.snapshot), NL_OK);
        assert_int_equal(pthread_create(&thread, NULL, write_snapshot, &w), 0);
        apply_some(&g, state, 200);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, &w);
        assert_int_equal(w.len, len);
        assert_memory_equal(w.data, expected, len);
        nl_state_snapshot_end(state, w.snapshot);
        fx_check(state);
        free(w.data);
        free(expected);
    }
    nl_state_free(state);
}

// A follower gets a leader's snapshot: read beside the state in use, exchanged, the old one freed
// on a thread again.
struct loader {
    const struct nl_state *like;
    const uint8_t *data;
    size_t len;
    struct nl_state *loaded;
};

static void *load_snapshot(void *arg) {
    struct loader *l = arg;
    return nl_state_load(l->like, l->data, l->len, &l->loaded) == NL_OK ? l : NULL;
}

static void *free_state(void *arg) {
    nl_state_free(arg);
    return NULL;
}

static void test_loaded_on_a_thread_and_swapped(void **unused) {
    (void)unused;
    struct generator g, h;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct nl_state *leader = random_state(&g, seed, 600);
        struct nl_state *follower = random_state(&h, seed + 100, 200);
        struct loader l = {.like = follower};
        uint8_t *data = fx_snapshot(leader, &l.len);
        pthread_t thread;
        void *result;
        l.data = data;
        assert_int_equal(pthread_create(&thread, NULL, load_snapshot, &l), 0);
        apply_some(&h, follower, 200);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, &l);
        fx_check(l.loaded);
        nl_state_swap(follower, l.loaded);
        assert_int_equal(pthread_create(&thread, NULL, free_state, l.loaded), 0);
        expect_same_state(leader, follower);
        apply_some(&g, follower, 100);  // with the same limits as before
        fx_check(follower);
        pthread_join(thread, NULL);
        free(data);
        nl_state_free(leader);
        nl_state_free(follower);
    }
}

static void test_what_was_let_go_is_freed_on_a_thread(void **unused) {
    (void)unused;
    struct generator g;
    struct nl_state *state = random_state(&g, 13, 300);
    struct nl_state_snapshot *snapshot, *next;
    assert_int_equal(nl_state_snapshot_begin(state, &snapshot), NL_OK);
    apply_some(&g, state, 300);
    nl_state_snapshot_detach(state, snapshot);
    // The next one may begin before the last one is freed.
    assert_int_equal(nl_state_snapshot_begin(state, &next), NL_OK);
    apply_some(&g, state, 300);
    nl_state_snapshot_free(snapshot);
    nl_state_snapshot_end(state, next);
    fx_check(state);
    nl_state_free(state);
}

// With an out-of-order sequence the outcomes before it would have to move under the writer.
static void test_out_of_order_sequence_while_frozen(void **unused) {
    (void)unused;
    static struct fx fx;
    struct nl_state_snapshot *snapshot;
    uint8_t *data;
    size_t len, expected_len;
    fx_open(&fx, NULL);
    fx.sequence = 10;
    for (int i = 0; i < 5; i++) {
        fx_noop(&fx);
    }
    uint8_t *expected = fx_snapshot(fx.state, &expected_len);
    assert_int_equal(nl_state_snapshot_begin(fx.state, &snapshot), NL_OK);
    for (uint64_t i = 0; i < 8; i++) {
        fx.sequence = 8 - i;
        fx_noop(&fx);
        assert_false(fx.duplicate);
    }
    fx.ack_below = 14;
    fx.sequence = 30;
    fx_noop(&fx);
    assert_int_equal(nl_state_snapshot_write(snapshot, &data, &len), NL_OK);
    nl_state_snapshot_end(fx.state, snapshot);
    assert_int_equal(len, expected_len);
    assert_memory_equal(data, expected, len);
    free(data);
    free(expected);
    fx_close(&fx);
}

static void test_given_up(void **unused) {
    (void)unused;
    struct generator g;
    struct nl_state *state = random_state(&g, 9, 200);
    struct nl_state_snapshot *snapshot;
    assert_int_equal(nl_state_snapshot_begin(state, &snapshot), NL_OK);
    apply_some(&g, state, 200);
    nl_state_snapshot_end(state, snapshot);
    fx_check(state);
    nl_state_free(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restore_gives_the_same_state_and_bytes),
        cmocka_unit_test(test_empty_state),
        cmocka_unit_test(test_order_of_insertion_does_not_matter),
        cmocka_unit_test(test_hash_depends_on_every_record),
        cmocka_unit_test(test_every_truncation_and_bit_flip_is_noticed),
        cmocka_unit_test(test_damage_under_a_valid_checksum),
        cmocka_unit_test(test_a_snapshot_of_version_1_is_loaded),
        cmocka_unit_test(test_a_snapshot_of_a_later_version_is_refused),
        cmocka_unit_test(test_a_log_of_version_1_comes_to_the_same_state),
        cmocka_unit_test(test_loaded_at_every_size_of_the_table),
        cmocka_unit_test(test_large_records),
        cmocka_unit_test(test_broken_records_are_refused),
        cmocka_unit_test(test_unsorted_records_are_refused),
        cmocka_unit_test(test_written_on_a_thread_while_commands_are_applied),
        cmocka_unit_test(test_loaded_on_a_thread_and_swapped),
        cmocka_unit_test(test_what_was_let_go_is_freed_on_a_thread),
        cmocka_unit_test(test_out_of_order_sequence_while_frozen),
        cmocka_unit_test(test_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
