// The handshake of two nodes: any bytes for each of its messages. Without the secret none is
// accepted; one bit changed in a good one is noticed.
//
// Input: one byte for what to do, then the message's bytes.

#include <stdlib.h>
#include <string.h>

#include "cluster/raft/handshake.h"
#include "common/base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t secret[] = "sixteen bytes at least";

static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static struct nl_handshake make(void) {
    return (struct nl_handshake){.cluster_name = "c",
                                 .secret = secret,
                                 .secret_len = sizeof secret - 1,
                                 .client_id = 1,
                                 .server_id = 2,
                                 .client_address = "a:1",
                                 .server_address = "b:1"};
}

// A message of exactly its length, from the input, zeros behind it.
static void fill(uint8_t *message, size_t len, const uint8_t *data, size_t size) {
    memset(message, 0, len);
    memcpy(message, data, size < len ? size : len);
}

static void hello(const uint8_t *data, size_t size) {
    uint8_t in[NL_HS_HELLO_LEN], nonce[NL_HS_NONCE_LEN];
    uint64_t client = 0, server = 0;
    fill(in, sizeof in, data, size);
    int rv = nl_hs_read_hello(in, "c", &client, &server, nonce);
    require(rv == NL_OK || rv == NL_EINVAL || rv == NL_EPERM);
}

static void challenge(const uint8_t *data, size_t size) {
    uint8_t in[NL_HS_CHALLENGE_LEN], out[NL_HS_PROOF_LEN], unused[NL_HS_HELLO_LEN];
    struct nl_handshake client = make();
    nl_hs_make_hello(&client, unused);
    fill(in, sizeof in, data, size);
    require(nl_hs_answer_challenge(&client, in, out) != NL_OK);
}

static void proof(const uint8_t *data, size_t size) {
    uint8_t in[NL_HS_PROOF_LEN], unused[NL_HS_CHALLENGE_LEN];
    struct nl_handshake server = make();
    nl_hs_make_challenge(&server, unused);
    fill(in, sizeof in, data, size);
    require(nl_hs_check_proof(&server, in) != NL_OK);
}

// The whole, with one byte of one message changed by the input.
static void changed(const uint8_t *data, size_t size) {
    uint8_t m1[NL_HS_HELLO_LEN], m2[NL_HS_CHALLENGE_LEN], m3[NL_HS_PROOF_LEN];
    uint8_t *messages[] = {m1, m2, m3};
    const size_t lens[] = {sizeof m1, sizeof m2, sizeof m3};
    struct nl_handshake client = make(), server = make();
    unsigned which = size > 0 ? data[0] % 3 : 0;
    size_t at = size > 1 ? data[1] % lens[which] : 0;
    uint8_t by = size > 2 ? data[2] : 0;
    int rv = NL_OK;
    nl_hs_make_hello(&client, m1);
    m1[at] ^= which == 0 ? by : 0;
    rv = nl_hs_read_hello(m1, "c", &server.client_id, &server.server_id, server.client_nonce);
    if (rv == NL_OK) {
        nl_hs_make_challenge(&server, m2);
        m2[at % sizeof m2] ^= which == 1 ? by : 0;
        rv = nl_hs_answer_challenge(&client, m2, m3);
    }
    if (rv == NL_OK) {
        messages[2][at % sizeof m3] ^= which == 2 ? by : 0;
        rv = nl_hs_check_proof(&server, m3);
    }
    require((rv == NL_OK) == (by == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const what[])(const uint8_t *, size_t) = {hello, challenge, proof, changed};
    if (size > 0) {
        what[data[0] % 4](data + 1, size - 1);
    }
    uint8_t ready[NL_HS_READY_LEN];
    fill(ready, sizeof ready, data, size);
    nl_hs_is_ready(ready);
    return 0;
}
