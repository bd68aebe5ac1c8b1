// The canonical decoder takes what packing gives and nothing else: it must agree with protobuf-c on
// every byte it takes, because the hash of a loaded record is that of its bytes. The encoder must
// give the bytes that protobuf-c gives.

#include <stdlib.h>
#include <string.h>

#include "cluster/state/frame.h"
#include "cluster/state/internal.h"
#include "common/base/err.h"
#include "tests/unit/state/fixture.h"
#include "tests/unit/state/generate.h"

#define MEMORY_MAX ((size_t)1 << 20)

static const ProtobufCMessageDescriptor *const types[] = {
    [NL_FRAME_HEADER] = &nodelink__v1__snapshot_header__descriptor,
    [NL_FRAME_NODE] = &nodelink__v1__node_record__descriptor,
    [NL_FRAME_PROPOSER] = &nodelink__v1__proposer_record__descriptor,
    [NL_FRAME_AGENT] = &nodelink__v1__agent_record__descriptor,
    [NL_FRAME_TASK] = &nodelink__v1__task_record__descriptor,
    [NL_FRAME_FOOTER] = &nodelink__v1__snapshot_footer__descriptor,
};

static struct nl_arena *arena_new(void) {
    struct nl_arena *arena = calloc(1, sizeof *arena);
    assert_non_null(arena);
    return arena;
}

static void arena_free(struct nl_arena *arena) {
    nl_arena_reset(arena);
    free(arena);
}

// In room for just these bytes, and not in less.
static void expect_encoded(const ProtobufCMessage *message, const uint8_t *data, size_t len) {
    uint8_t *buffer = malloc(len + 1), *begin = NULL;
    assert_non_null(buffer);
    assert_true(nl_canonical_encode(message, buffer, len, &begin));
    assert_ptr_equal(begin, buffer);
    assert_memory_equal(begin, data, len);
    for (size_t room = len > 40 ? len - 40 : 0; room < len; room++) {
        assert_false(nl_canonical_encode(message, buffer, room, &begin));
    }
    free(buffer);
}

// Whether it takes the bytes; if it does, they are what packing gives and protobuf-c reads the
// same.
static bool takes(struct nl_arena *arena, const ProtobufCMessageDescriptor *type,
                  const uint8_t *data, size_t len) {
    int rv = NL_OK;
    // Exactly its size, so that a sanitizer sees a read beyond its end.
    uint8_t *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, data, len);
    ProtobufCMessage *message = nl_canonical_decode(arena, type, copy, len, MEMORY_MAX);
    if (message != NULL) {
        ProtobufCMessage *other = nl_message_decode(type, copy, len, MEMORY_MAX, &rv);
        uint8_t *packed = malloc(len + 1);
        assert_non_null(other);
        assert_non_null(packed);
        assert_int_equal(protobuf_c_message_get_packed_size(message), len);
        assert_int_equal(protobuf_c_message_pack(message, packed), len);
        assert_memory_equal(packed, copy, len);
        expect_encoded(message, copy, len);
        assert_int_equal(nl_message_same(message, other), 1);
        free(packed);
        nl_message_free(other);
    }
    free(copy);
    return message != NULL;
}

// One random change of the bytes in `data`, which has room for one more.
static size_t mutate(struct generator *g, uint8_t *data, size_t len) {
    size_t at = generator_below(g, len + 1);
    switch (generator_below(g, 4)) {
        case 0:  // one more
            memmove(data + at + 1, data + at, len - at);
            data[at] = (uint8_t)generator_next(g);
            return len + 1;
        case 1:  // one less
            if (at == len) {
                return len;
            }
            memmove(data + at, data + at + 1, len - at - 1);
            return len - 1;
        case 2:
            if (at < len) {
                data[at] ^= (uint8_t)(1u << generator_below(g, 8));
            }
            return len;
        default:
            return at;  // cut off
    }
}

// Damaged records too: most are refused here and some by both, but none may be read otherwise.
static void damage(struct nl_arena *arena, struct generator *g,
                   const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len) {
    uint8_t *copy = malloc(len + 4);
    assert_non_null(copy);
    for (int round = 0; round < 40; round++) {
        size_t now = len;
        memcpy(copy, data, len);
        for (uint64_t n = generator_below(g, 3); now > 0 && n < 3; n++) {
            now = mutate(g, copy, now);
        }
        takes(arena, type, copy, now);
    }
    free(copy);
}

static void each_record(struct nl_arena *arena, struct generator *g, const uint8_t *data,
                        size_t len, unsigned seen[NL_FRAME_CHECKSUM + 1]) {
    for (size_t at = 0; at < len;) {
        const uint8_t *head = data + at;
        size_t size = (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16;
        if (head[4] != NL_FRAME_CHECKSUM) {
            assert_true(takes(arena, types[head[4]], head + NL_FRAME_HEAD, size));
            damage(arena, g, types[head[4]], head + NL_FRAME_HEAD, size);
        }
        seen[head[4]]++;
        at += NL_FRAME_HEAD + size;
    }
}

// Every record of a snapshot is taken, or a restart with a million would be slow again.
static void test_records_of_random_states(void **unused) {
    (void)unused;
    unsigned seen[NL_FRAME_CHECKSUM + 1] = {0};
    const struct nl_state_limits limits = {.tasks_per_agent_active_max = 8, .agents_max = 5};
    struct nl_arena *arena = arena_new();
    struct generator g;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct nl_state *state;
        size_t len;
        generator_init(&g, seed);
        assert_int_equal(nl_state_new(&limits, &state), NL_OK);
        for (size_t i = 0; i < 400; i++) {
            uint8_t *command = generate(&g, state, &len);
            assert_int_equal(nl_state_apply(state, i + 1, command, len, NULL, NULL), NL_OK);
            free(command);
        }
        uint8_t *data = fx_snapshot(state, &len);
        each_record(arena, &g, data, len, seen);
        free(data);
        nl_state_free(state);
    }
    for (int type = NL_FRAME_HEADER; type <= NL_FRAME_CHECKSUM; type++) {
        assert_true(seen[type] > 0);
    }
    arena_free(arena);
}

#define TASK_IS(...)                                                                     \
    takes(arena, &nodelink__v1__task_record__descriptor, (const uint8_t[]){__VA_ARGS__}, \
          sizeof(const uint8_t[]){__VA_ARGS__})

// Field 1 is text, 2 and 16 are messages, 4 is a number, 8 is a flag, 19 a signed number.
static void test_forms_of_a_field(void **unused) {
    (void)unused;
    struct nl_arena *arena = arena_new();
    assert_true(TASK_IS(0x0a, 1, 'a'));
    assert_true(TASK_IS(0x0a, 1, 'a', 0x12, 0));                // an empty message is there
    assert_false(TASK_IS(0x0a, 0));                             // empty text isn't
    assert_false(TASK_IS(0x0a, 2, 'a', 0));                     // a zero in a text
    assert_false(TASK_IS(0x0a, 3, 'a'));                        // cut off
    assert_false(TASK_IS(0x0a, 0x81, 0x00, 'a'));               // a length in a longer form
    assert_false(TASK_IS(0x8a, 0x00, 1, 'a'));                  // a tag in a longer form
    assert_false(TASK_IS(0x0a, 1, 'a', 0x0a, 1, 'b'));          // twice
    assert_false(TASK_IS(0x12, 0, 0x0a, 1, 'a'));               // in another order
    assert_false(TASK_IS(0x08, 1));                             // a number instead of a text
    assert_true(TASK_IS(0x20, 1));                              // a number
    assert_false(TASK_IS(0x20, 0));                             // a default
    assert_false(TASK_IS(0x20, 0x81, 0x00));                    // in a longer form
    assert_true(TASK_IS(0x20, 0xff, 0xff, 0xff, 0xff, 0x0f));   // the largest
    assert_false(TASK_IS(0x20, 0xff, 0xff, 0xff, 0xff, 0x1f));  // one bit more
    assert_false(TASK_IS(0x25, 1, 0, 0, 0));                    // of fixed size
    assert_true(TASK_IS(0x40, 1));                              // true
    assert_false(TASK_IS(0x40, 2));                             // truer
    assert_false(TASK_IS(0xfa, 0xff, 0x03, 0));                 // a field that is not known
    assert_true(TASK_IS(0x98, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1));
    assert_false(TASK_IS(0x98, 0x01, 0xff, 0xff, 0xff, 0xff, 0x0f));  // -1, not widened
    assert_true(TASK_IS(0x12, 5, 0x5a, 3, 1, 0, 3));                  // packed numbers in a spec
    assert_false(TASK_IS(0x12, 2, 0x5a, 0));                          // none of them
    assert_false(TASK_IS(0x12, 2, 0x58, 1));                          // not packed
    assert_false(TASK_IS(0x12, 4, 0x5a, 2, 1, 0x83));                 // the last one is cut off
    assert_false(TASK_IS(0x12, 5, 0x5a, 3, 1, 0x83, 0));              // in a longer form
    assert_false(TASK_IS(0x98, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 3));
    arena_free(arena);
}

// What no record of ours has is left to protobuf-c.
static void test_not_encoded(void **unused) {
    (void)unused;
    uint8_t buffer[256], *begin;
    ProtobufCMessageUnknownField unknown = {
        .tag = 100, .wire_type = PROTOBUF_C_WIRE_TYPE_VARINT, .len = 1, .data = buffer};
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__TaskRecord record = NODELINK__V1__TASK_RECORD__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    record.spec = &spec;
    assert_true(nl_canonical_encode(&record.base, buffer, sizeof buffer, &begin));
    assert_int_equal(buffer + sizeof buffer - begin, 2);
    spec.base.n_unknown_fields = 1;
    spec.base.unknown_fields = &unknown;
    assert_false(nl_canonical_encode(&record.base, buffer, sizeof buffer, &begin));
    assert_false(nl_canonical_encode(&command.base, buffer, sizeof buffer, &begin));
}

static void test_no_more_memory_than_allowed(void **unused) {
    (void)unused;
    static const uint8_t data[] = {0x0a, 1, 'a'};
    const ProtobufCMessageDescriptor *type = &nodelink__v1__task_record__descriptor;
    struct nl_arena *arena = arena_new();
    assert_non_null(nl_canonical_decode(arena, type, data, 3, type->sizeof_message + 2));
    assert_null(nl_canonical_decode(arena, type, data, 3, type->sizeof_message + 1));
    assert_null(nl_canonical_decode(arena, type, data, 3, type->sizeof_message - 1));
    arena_free(arena);
}

// A default that is written out: protobuf-c takes it, and the record's hash is made anew.
static void test_a_record_in_another_form_is_loaded(void **unused) {
    (void)unused;
    static const uint8_t no_late_results[] = {0x90, 0x01, 0x00};
    static struct fx fx;
    const size_t tail = NL_FRAME_HEAD + NL_STATE_HASH_LEN;
    struct nl_state *loaded;
    uint8_t hash[NL_STATE_HASH_LEN], now[NL_STATE_HASH_LEN];
    size_t len, at = 0;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    uint8_t *data = fx_snapshot(fx.state, &len);
    data = realloc(data, len + 3);
    assert_non_null(data);
    while (data[at + 4] != NL_FRAME_TASK) {
        at += NL_FRAME_HEAD + data[at] + (size_t)data[at + 1] * 256;
    }
    size_t end = at + NL_FRAME_HEAD + data[at];
    assert_true(data[at] < 250 && data[at + 1] == 0);
    data[at] = (uint8_t)(data[at] + 3);
    memmove(data + end + 3, data + end, len - end);
    memcpy(data + end, no_late_results, 3);
    len += 3;
    nl_sum_bytes(nl_hash_bytes(data, len - tail), data + len - NL_STATE_HASH_LEN);
    assert_int_equal(nl_state_load(fx.state, data, len, &loaded), NL_OK);
    fx_check(loaded);
    nl_state_hash(fx.state, hash);
    nl_state_hash(loaded, now);
    assert_memory_equal(hash, now, sizeof hash);
    nl_state_free(loaded);
    free(data);
    fx_close(&fx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_of_random_states),
        cmocka_unit_test(test_forms_of_a_field),
        cmocka_unit_test(test_not_encoded),
        cmocka_unit_test(test_no_more_memory_than_allowed),
        cmocka_unit_test(test_a_record_in_another_form_is_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
