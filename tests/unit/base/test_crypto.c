#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/text.h"

static void assert_hex(const uint8_t *data, size_t len, const char *want) {
    char hex[2 * 64 + 1];
    nl_hex_encode(data, len, hex);
    assert_string_equal(hex, want);
}

// FIPS 180-2 appendix B and the empty message.
static void sha256_vectors(void **state) {
    (void)state;
    uint8_t out[NL_SHA256_LEN];
    nl_sha256_of("abc", 3, out);
    assert_hex(out, sizeof out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    nl_sha256_of("", 0, out);
    assert_hex(out, sizeof out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void sha256_running(void **state) {
    (void)state;
    uint8_t data[1000], whole[NL_SHA256_LEN], part[NL_SHA256_LEN];
    nl_random_bytes(data, sizeof data);
    struct nl_sha256 *h = nl_sha256_new();
    assert_non_null(h);
    for (size_t at = 0; at < sizeof data; at += 50) {
        nl_sha256_update(h, data + at, 50);
        nl_sha256_peek(h, part);
        nl_sha256_of(data, at + 50, whole);
        assert_memory_equal(part, whole, sizeof part);
    }
    nl_sha256_free(h);
    nl_sha256_free(NULL);
}

// RFC 4231 test cases 2 and 1 (and an empty key).
static void hmac_vectors(void **state) {
    (void)state;
    uint8_t out[NL_SHA256_LEN], key[20];
    nl_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, out);
    assert_hex(out, sizeof out, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0x0b, sizeof key);
    nl_hmac_sha256(key, sizeof key, "Hi There", 8, out);
    assert_hex(out, sizeof out, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    nl_hmac_sha256(NULL, 0, "", 0, out);
    assert_hex(out, sizeof out, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void hex(void **state) {
    (void)state;
    uint8_t out[2] = {7, 7};
    assert_int_equal(nl_hex_decode("aF09", out, 2), NL_OK);
    assert_int_equal(out[0], 0xAF);
    assert_int_equal(out[1], 0x09);
    static const char *const bad[] = {"", "a", "aF0", "aF099", "aF0g", "-F09", "a 09"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(nl_hex_decode(bad[i], out, 2), NL_EINVAL);
        assert_int_equal(out[0], 0xAF);  // untouched
    }
}

static void random_ids(void **state) {
    (void)state;
    char a[27], b[27];
    nl_random_id(a);
    nl_random_id(b);
    assert_int_equal(strlen(a), 26);
    assert_string_not_equal(a, b);
    assert_true(nl_text_id_ok(a));
    assert_true(nl_equal_const_time(a, a, 27));
    assert_false(nl_equal_const_time(a, b, 27));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_vectors), cmocka_unit_test(sha256_running),
        cmocka_unit_test(hmac_vectors),   cmocka_unit_test(hex),
        cmocka_unit_test(random_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
