#include "common/base/crypto.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/base/err.h"

struct nl_sha256 {
    EVP_MD_CTX *ctx;
    EVP_MD_CTX *scratch;  // for peek: finishing destroys a context
};

// A digest that fails after its context was made means a broken library or no memory
// for a few hundred bytes. Going on would hand out wrong digests.
static void require(int ok, const char *what) {
    if (ok != 1) {
        fprintf(stderr, "crypto: %s failed\n", what);
        abort();
    }
}

void nl_random_bytes(void *out, size_t len) {
    uint8_t *at = out;
    while (len > 0) {
        ssize_t n = getrandom(at, len, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        require(n > 0, "getrandom");
        at += n;
        len -= (size_t)n;
    }
}

void nl_random_id(char out[27]) {
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
    uint8_t random[26];
    nl_random_bytes(random, sizeof random);
    for (size_t i = 0; i < sizeof random; i++) {
        out[i] = alphabet[random[i] & 31];  // 256 is a multiple of 32: no bias
    }
    out[26] = '\0';
}

// Looked up once: with EVP_sha256() each digest finds the implementation anew, which takes longer
// than hashing a command does.
static EVP_MD *sha256;

static void fetch_sha256(void) {
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    require(sha256 != NULL, "EVP_MD_fetch");
}

static const EVP_MD *sha256_md(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fetch_sha256);
    return sha256;
}

void nl_sha256_of(const void *data, size_t len, uint8_t out[NL_SHA256_LEN]) {
    require(EVP_Digest(data, len, out, NULL, sha256_md(), NULL), "EVP_Digest");
}

struct nl_sha256 *nl_sha256_new(void) {
    struct nl_sha256 *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return NULL;
    }
    h->ctx = EVP_MD_CTX_new();
    h->scratch = EVP_MD_CTX_new();
    if (h->ctx == NULL || h->scratch == NULL || EVP_DigestInit_ex(h->ctx, sha256_md(), NULL) != 1) {
        nl_sha256_free(h);
        return NULL;
    }
    return h;
}

void nl_sha256_update(struct nl_sha256 *h, const void *data, size_t len) {
    require(EVP_DigestUpdate(h->ctx, data, len), "EVP_DigestUpdate");
}

void nl_sha256_peek(const struct nl_sha256 *h, uint8_t out[NL_SHA256_LEN]) {
    require(EVP_MD_CTX_copy_ex(h->scratch, h->ctx), "EVP_MD_CTX_copy_ex");
    require(EVP_DigestFinal_ex(h->scratch, out, NULL), "EVP_DigestFinal_ex");
}

void nl_sha256_free(struct nl_sha256 *h) {
    if (h == NULL) {
        return;
    }
    EVP_MD_CTX_free(h->ctx);
    EVP_MD_CTX_free(h->scratch);
    free(h);
}

void nl_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
                    uint8_t out[NL_SHA256_LEN]) {
    // A NULL key means "the previous one" to HMAC().
    const void *k = key_len > 0 ? key : "";
    require(key_len <= INT32_MAX, "HMAC key length");
    require(HMAC(EVP_sha256(), k, (int)key_len, data, len, out, NULL) != NULL, "HMAC");
}

bool nl_equal_const_time(const void *a, const void *b, size_t len) {
    return CRYPTO_memcmp(a, b, len) == 0;
}

void nl_hex_encode(const void *data, size_t len, char *out) {
    static const char digits[] = "0123456789abcdef";
    const uint8_t *in = data;
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * len] = '\0';
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F') {
        return c - 'A' + 10;
    }
    return -1;
}

int nl_hex_decode(const char *hex, uint8_t *out, size_t len) {
    if (strlen(hex) != 2 * len) {
        return NL_EINVAL;
    }
    for (size_t i = 0; i < 2 * len; i++) {
        if (hex_digit(hex[i]) < 0) {
            return NL_EINVAL;
        }
    }
    for (size_t i = 0; i < len; i++) {
        out[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
    }
    return NL_OK;
}
