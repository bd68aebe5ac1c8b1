// Calls to a cluster: the nodes are tried in order, the next one when a node is gone.
//
// Everything runs on the client's own loop, in the caller's thread. A read is repeated on the
// next node at will. A write is repeated only where the server knows it again (a submit by its
// task id, a cancel); any other one only if it certainly was not sent. The highest index seen
// goes along as min_index, so that no node answers with an older state than one seen before.
#ifndef NODELINK_TOOLS_CLIENT_H
#define NODELINK_TOOLS_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/rpc/rpc.h"

struct nl_client;

struct nl_client_target {
    char **addresses;  // owned, with the array
    size_t n_addresses;
    char *token;            // owned; NULL: none
    struct nl_rpc_tls tls;  // strings borrowed; used when ca_file is set
};
// "host:port,host:port"; a missing port is 7000. NL_EINVAL with a sentence in error; NL_ENOMEM.
int nl_client_parse_addresses(const char *list, struct nl_client_target *target, char *error,
                              size_t error_size);
void nl_client_target_close(struct nl_client_target *target);

// Did the thing happen (P13)?
enum nl_client_outcome {
    NL_CLIENT_FAILED,   // no
    NL_CLIENT_UNKNOWN,  // it may have
};

struct nl_client_error {
    enum nl_rpc_code code;
    enum nl_client_outcome outcome;
    bool unreachable;   // no node could be connected to
    char address[128];  // of the node that said it last
    char text[512];     // without the "failed: " or "unknown: " of the wire
};

enum nl_client_repeat {
    NL_CLIENT_READ,        // again on any node
    NL_CLIENT_IDEMPOTENT,  // a write that the server recognises
    NL_CLIENT_ONCE,        // a write that must not be sent twice
};

struct nl_client_call {
    const char *method;
    const ProtobufCMessage *request;  // borrowed until done
    uint64_t *min_index;              // field of the request to fill before each try; or NULL
    enum nl_client_repeat repeat;
    uint64_t timeout_ms;  // for all tries together; 0: 10 s
    const char *only;     // speak to this address only, once; NULL: fail over
};

// error is NULL on success; then reply is the callee's (nl_rpc_message_free).
typedef void (*nl_client_cb)(void *user, const struct nl_client_error *error,
                             ProtobufCMessage *reply);

// NULL: no memory. `target` must outlive it.
struct nl_client *nl_client_new(const struct nl_client_target *target);
// Cancels what is under way (callbacks still come) and frees. Runs the loop.
void nl_client_free(struct nl_client *client);

// done comes exactly once, never from inside this call.
int nl_client_start(struct nl_client *client, const struct nl_client_call *call, nl_client_cb done,
                    void *user);
// The same, waiting. false: *ret_error says why.
bool nl_client_wait(struct nl_client *client, const struct nl_client_call *call,
                    ProtobufCMessage **ret_reply, struct nl_client_error *ret_error);

// For users with their own streams (follow.c) or channels (bench). One gRPC runtime for all of a
// process: with two, their pollers wake each other at every event (they share gRPC's epoll set).
uv_loop_t *nl_client_loop(struct nl_client *client);
struct nl_rpc *nl_client_rpc(struct nl_client *client);
// The channel to the current node (borrowed); made when needed. NULL: no memory.
struct nl_rpc_channel *nl_client_channel(struct nl_client *client);
const struct nl_rpc_metadata *nl_client_metadata(const struct nl_client *client);
const char *nl_client_address(const struct nl_client *client);  // of the current node
// The current node failed: go to the next one. Only if it is still `address`, so that ten streams
// that break together move once.
void nl_client_next(struct nl_client *client, const char *address);
uint64_t nl_client_index(const struct nl_client *client);
void nl_client_saw_index(struct nl_client *client, uint64_t index);

// Splits a gRPC status into an error as above. `write`: without a word from the server it may
// have happened.
void nl_client_read_status(const struct nl_rpc_status *status, const char *address, bool write,
                           struct nl_client_error *ret);

#endif
