// Random bytes, SHA-256, HMAC-SHA-256, hex, constant-time compare (OpenSSL; the only
// includers of openssl/ are this, tls_files.c and cluster/raft/tls_*.c).
#ifndef NODELINK_COMMON_BASE_CRYPTO_H
#define NODELINK_COMMON_BASE_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NL_SHA256_LEN 32

struct nl_sha256;  // running hash

void nl_random_bytes(void *out, size_t len);  // aborts if the kernel has none
// 26 lower-case base32 characters (130 bits); out holds 27. Task ids, tokens, boot ids.
void nl_random_id(char out[27]);

void nl_sha256_of(const void *data, size_t len, uint8_t out[NL_SHA256_LEN]);
struct nl_sha256 *nl_sha256_new(void);  // NULL: no memory
void nl_sha256_update(struct nl_sha256 *h, const void *data, size_t len);
// Digest so far; the hash can go on.
void nl_sha256_peek(const struct nl_sha256 *h, uint8_t out[NL_SHA256_LEN]);
void nl_sha256_free(struct nl_sha256 *h);

void nl_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
                    uint8_t out[NL_SHA256_LEN]);
bool nl_equal_const_time(const void *a, const void *b, size_t len);

// out holds 2 * len + 1.
void nl_hex_encode(const void *data, size_t len, char *out);
// NL_EINVAL unless hex is exactly 2 * len hex digits.
int nl_hex_decode(const char *hex, uint8_t *out, size_t len);

#endif
