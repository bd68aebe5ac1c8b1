// Calls without gRPC, for the targets that feed a service's handlers: a call has metadata, a
// deadline and a peer's address, counts its references, and notes what it was answered. Stands in
// for common/rpc's own functions, so a target with it links no nl_rpc.
#ifndef NODELINK_TESTS_FUZZ_FAKE_CALL_H
#define NODELINK_TESTS_FUZZ_FAKE_CALL_H

#include "common/rpc/rpc.h"

struct nl_rpc_call {
    const char *keys[4];  // of the metadata; NULL ends
    const char *values[4];
    const char *peer;
    uint64_t time_left_ms;
    const struct nl_rpc_handler *handler;
    void *user;
    unsigned refs;      // taken by who serves it
    unsigned replies;   // complete ones
    unsigned messages;  // sent on a stream
    unsigned ends;      // without a reply
    bool cancelled;
    enum nl_rpc_code code;
};

// Aborts with the text.
void fuzz_require(bool condition, const char *text);
// A unary call was answered in exactly one way, and nobody holds it.
void fake_call_check(const struct nl_rpc_call *call);

#endif
