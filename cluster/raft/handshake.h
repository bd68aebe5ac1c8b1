// The messages two nodes exchange on a new Raft connection before libraft sees it. Pure.
//
//   client -> server  HELLO      magic, own id, the id it wants, SHA-256 of the cluster name, nonce
//   server -> client  CHALLENGE  magic, nonce, MAC "server"
//   client -> server  PROOF      MAC "client"
//   server -> client  READY
//
// A MAC is HMAC-SHA-256 with the cluster's secret over: direction, cluster name, both ids, both
// addresses as this side has them configured, both nonces. So a foreign cluster, a wrong secret, a
// replayed connection, a reflected message and a differing configuration all fail the same way.
// Under TLS the MAC is also over the channel binding: somebody in the middle, with certificates
// that both sides take, has two connections with two bindings.
// Addresses and identity come from the configuration, never from the peer.
#ifndef NODELINK_CLUSTER_RAFT_HANDSHAKE_H
#define NODELINK_CLUSTER_RAFT_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NL_HS_NONCE_LEN 32
#define NL_HS_MAC_LEN 32
#define NL_HS_HELLO_LEN (8 + 8 + 8 + 32 + NL_HS_NONCE_LEN)
#define NL_HS_CHALLENGE_LEN (8 + NL_HS_NONCE_LEN + NL_HS_MAC_LEN)
#define NL_HS_PROOF_LEN NL_HS_MAC_LEN
#define NL_HS_READY_LEN 8
#define NL_HS_MESSAGE_MAX NL_HS_HELLO_LEN
#define NL_HS_BINDING_LEN 32

struct nl_handshake {
    const char *cluster_name;  // this and the next are borrowed
    const uint8_t *secret;
    size_t secret_len;
    uint64_t client_id, server_id;
    const char *client_address, *server_address;
    const uint8_t *binding;  // NL_HS_BINDING_LEN bytes, borrowed; NULL: a plain connection
    uint8_t client_nonce[NL_HS_NONCE_LEN], server_nonce[NL_HS_NONCE_LEN];
};

// Client; fills client_nonce.
void nl_hs_make_hello(struct nl_handshake *hs, uint8_t out[NL_HS_HELLO_LEN]);
// Server, first step: who asks for whom. NL_EINVAL: not this protocol; NL_EPERM: another cluster.
// Nothing is proven yet.
int nl_hs_read_hello(const uint8_t in[NL_HS_HELLO_LEN], const char *cluster_name,
                     uint64_t *ret_client, uint64_t *ret_server,
                     uint8_t ret_nonce[NL_HS_NONCE_LEN]);
// Server, second step, with ids, addresses and client_nonce set; fills server_nonce.
void nl_hs_make_challenge(struct nl_handshake *hs, uint8_t out[NL_HS_CHALLENGE_LEN]);
// Client: NL_EINVAL (not this protocol), NL_EAUTH. On NL_OK the proof is in `out`.
int nl_hs_answer_challenge(struct nl_handshake *hs, const uint8_t in[NL_HS_CHALLENGE_LEN],
                           uint8_t out[NL_HS_PROOF_LEN]);
// Server: NL_EAUTH.
int nl_hs_check_proof(const struct nl_handshake *hs, const uint8_t in[NL_HS_PROOF_LEN]);
void nl_hs_make_ready(uint8_t out[NL_HS_READY_LEN]);
bool nl_hs_is_ready(const uint8_t in[NL_HS_READY_LEN]);

#endif
