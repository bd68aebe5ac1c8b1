// nl_rpc_unpack on bytes, without any server.

#include "common/rpc/rpc.h"
#include "tests/unit/rpc/fixture.h"

#define CAP 100000

static int unpack(const void *data, size_t len, size_t cap) {
    ProtobufCMessage *message = NULL;
    // Of exactly this size, for the sanitizer.
    uint8_t *copy = malloc(len > 0 ? len : 1);
    memcpy(copy, data, len);
    int rc = nl_rpc_unpack(&nltest__echo__descriptor, copy, len, cap, &message);
    assert_true((rc == NL_OK) == (message != NULL));
    nl_rpc_message_free(message);
    free(copy);
    return rc;
}

#define UNPACK(literal) unpack(literal, sizeof(literal) - 1, CAP)

static void test_good(void **state) {
    (void)state;
    assert_int_equal(UNPACK(""), NL_OK);
    assert_int_equal(UNPACK("\x0a\x02hi\x18\x05"), NL_OK);
    assert_int_equal(UNPACK("\x0a\x00"), NL_OK);
    assert_int_equal(UNPACK("\x0a\x04\xf0\x9f\x98\x80"), NL_OK);      // U+1F600
    assert_int_equal(UNPACK("\x12\x03\x00\xff\x00"), NL_OK);          // bytes are bytes
    assert_int_equal(UNPACK("\x22\x02\x08\x07\x22\x00"), NL_OK);      // two items
    assert_int_equal(UNPACK("\xf8\x07\x01\xfa\x07\x01\xff"), NL_OK);  // unknown fields
    assert_int_equal(UNPACK("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), NL_OK);
}

static void test_malformed(void **state) {
    (void)state;
    assert_int_equal(UNPACK("\x0a"), NL_EINVAL);        // no length
    assert_int_equal(UNPACK("\x0a\x05hi"), NL_EINVAL);  // length beyond the end
    assert_int_equal(UNPACK("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), NL_EINVAL);
    assert_int_equal(UNPACK("\x18"), NL_EINVAL);      // no value
    assert_int_equal(UNPACK("\x18\x80"), NL_EINVAL);  // value without its end
    assert_int_equal(UNPACK("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), NL_EINVAL);
    assert_int_equal(UNPACK("\x0b"), NL_EINVAL);              // group
    assert_int_equal(UNPACK("\x00\x00"), NL_EINVAL);          // field 0
    assert_int_equal(UNPACK("\x0f"), NL_EINVAL);              // wire type 7
    assert_int_equal(UNPACK("\x22\x02\x08\x80"), NL_EINVAL);  // item without its end
    assert_int_equal(UNPACK("\x1d\x01\x02"), NL_EINVAL);      // 32 bits, cut
    assert_int_equal(UNPACK("\x19\x01\x02\x03\x04"), NL_EINVAL);
    assert_int_equal(UNPACK("\x08\x01"), NL_EINVAL);  // a string as a number
}

static void test_strings(void **state) {
    (void)state;
    assert_int_equal(UNPACK("\x0a\x03"
                            "a\0b"),
                     NL_EINVAL);
    assert_int_equal(UNPACK("\x0a\x01\x80"), NL_EINVAL);
    assert_int_equal(UNPACK("\x0a\x02\xc0\x80"), NL_EINVAL);          // overlong NUL
    assert_int_equal(UNPACK("\x0a\x03\xed\xa0\x80"), NL_EINVAL);      // surrogate
    assert_int_equal(UNPACK("\x0a\x04\xf4\x90\x80\x80"), NL_EINVAL);  // beyond U+10FFFF
    // The last occurrence counts, but the first one is checked too.
    assert_int_equal(UNPACK("\x0a\x01\xff\x0a\x01x"), NL_EINVAL);
}

static void test_cap(void **state) {
    (void)state;
    enum { ITEMS = 5000 };
    uint8_t *bomb = malloc(2 * ITEMS);
    for (size_t i = 0; i < ITEMS; i++) {
        bomb[2 * i] = 0x22;
        bomb[2 * i + 1] = 0;
    }
    assert_int_equal(unpack(bomb, 2 * ITEMS, CAP), NL_ETOOBIG);
    assert_int_equal(unpack(bomb, 2 * ITEMS, 100 * CAP), NL_OK);
    // At every cap: no crash, no leak, and one of the two answers.
    for (size_t cap = 0; cap < 4000; cap += 7) {
        int rc = unpack(bomb, 40, cap);
        assert_true(rc == NL_OK || rc == NL_ETOOBIG);
    }
    free(bomb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
