#include "cluster/raft/handshake.h"

#include <string.h>

#include "common/base/crypto.h"
#include "common/base/err.h"

static const char magic[8] = {'n', 'l', 'r', 'a', 'f', 't', '1', '\n'};
static const char ready[NL_HS_READY_LEN] = {'n', 'l', 'r', 'e', 'a', 'd', 'y', '\n'};

static void put_u64(uint8_t *at, uint64_t v) {
    for (int i = 0; i < 8; i++) {
        at[i] = (uint8_t)(v >> (8 * i));
    }
}

static uint64_t get_u64(const uint8_t *at) {
    uint64_t v = 0;
    for (int i = 0; i < 8; i++) {
        v |= (uint64_t)at[i] << (8 * i);
    }
    return v;
}

// Hashing each text first makes every field of the transcript of fixed length, and the binding is
// the last: no two different inputs give the same bytes.
static uint8_t *put_text(uint8_t *at, const char *text) {
    nl_sha256_of(text, strlen(text), at);
    return at + NL_SHA256_LEN;
}

static void mac(const struct nl_handshake *hs, const char *direction, uint8_t out[NL_HS_MAC_LEN]) {
    uint8_t transcript[4 * NL_SHA256_LEN + 16 + 2 * NL_HS_NONCE_LEN + NL_HS_BINDING_LEN];
    size_t len = sizeof transcript - NL_HS_BINDING_LEN;
    uint8_t *at = put_text(transcript, direction);
    at = put_text(at, hs->cluster_name);
    at = put_text(at, hs->client_address);
    at = put_text(at, hs->server_address);
    put_u64(at, hs->client_id);
    put_u64(at + 8, hs->server_id);
    memcpy(at + 16, hs->client_nonce, NL_HS_NONCE_LEN);
    memcpy(at + 16 + NL_HS_NONCE_LEN, hs->server_nonce, NL_HS_NONCE_LEN);
    if (hs->binding != NULL) {
        memcpy(transcript + len, hs->binding, NL_HS_BINDING_LEN);
        len += NL_HS_BINDING_LEN;
    }
    nl_hmac_sha256(hs->secret, hs->secret_len, transcript, len, out);
}

void nl_hs_make_hello(struct nl_handshake *hs, uint8_t out[NL_HS_HELLO_LEN]) {
    nl_random_bytes(hs->client_nonce, sizeof hs->client_nonce);
    memcpy(out, magic, 8);
    put_u64(out + 8, hs->client_id);
    put_u64(out + 16, hs->server_id);
    put_text(out + 24, hs->cluster_name);
    memcpy(out + 56, hs->client_nonce, NL_HS_NONCE_LEN);
}

int nl_hs_read_hello(const uint8_t in[NL_HS_HELLO_LEN], const char *cluster_name,
                     uint64_t *ret_client, uint64_t *ret_server,
                     uint8_t ret_nonce[NL_HS_NONCE_LEN]) {
    uint8_t name[NL_SHA256_LEN];
    if (memcmp(in, magic, 8) != 0) {
        return NL_EINVAL;
    }
    put_text(name, cluster_name);
    if (memcmp(in + 24, name, sizeof name) != 0) {
        return NL_EPERM;
    }
    *ret_client = get_u64(in + 8);
    *ret_server = get_u64(in + 16);
    memcpy(ret_nonce, in + 56, NL_HS_NONCE_LEN);
    return NL_OK;
}

void nl_hs_make_challenge(struct nl_handshake *hs, uint8_t out[NL_HS_CHALLENGE_LEN]) {
    nl_random_bytes(hs->server_nonce, sizeof hs->server_nonce);
    memcpy(out, magic, 8);
    memcpy(out + 8, hs->server_nonce, NL_HS_NONCE_LEN);
    mac(hs, "nodelink raft server", out + 8 + NL_HS_NONCE_LEN);
}

int nl_hs_answer_challenge(struct nl_handshake *hs, const uint8_t in[NL_HS_CHALLENGE_LEN],
                           uint8_t out[NL_HS_PROOF_LEN]) {
    uint8_t want[NL_HS_MAC_LEN];
    if (memcmp(in, magic, 8) != 0) {
        return NL_EINVAL;
    }
    memcpy(hs->server_nonce, in + 8, NL_HS_NONCE_LEN);
    mac(hs, "nodelink raft server", want);
    if (!nl_equal_const_time(want, in + 8 + NL_HS_NONCE_LEN, sizeof want)) {
        return NL_EAUTH;
    }
    mac(hs, "nodelink raft client", out);
    return NL_OK;
}

int nl_hs_check_proof(const struct nl_handshake *hs, const uint8_t in[NL_HS_PROOF_LEN]) {
    uint8_t want[NL_HS_MAC_LEN];
    mac(hs, "nodelink raft client", want);
    return nl_equal_const_time(want, in, sizeof want) ? NL_OK : NL_EAUTH;
}

void nl_hs_make_ready(uint8_t out[NL_HS_READY_LEN]) {
    memcpy(out, ready, sizeof ready);
}

bool nl_hs_is_ready(const uint8_t in[NL_HS_READY_LEN]) {
    return memcmp(in, ready, sizeof ready) == 0;
}
