// accept4() for the whole program. gRPC 1.51's listener stops for ever after one EMFILE
// (CVE-2023-4785), so when descriptors run out the waiting connection is accepted with a reserve
// descriptor and closed, and gRPC sees "nothing there". Also the cap on a server's connections.
//
// Being referenced by server.c, the definition ends up in every executable with a server in it,
// and the executable's accept4 comes before libc's for the shared libraries too.
#ifndef NODELINK_COMMON_RPC_ACCEPT_GUARD_H
#define NODELINK_COMMON_RPC_ACCEPT_GUARD_H

#include <stdint.h>

struct nl_accept_guard;

// One server's part. NULL: no memory. Any thread.
struct nl_accept_guard *nl_accept_guard_new(void);
void nl_accept_guard_free(struct nl_accept_guard *guard);  // NULL is allowed
// Starts to look after the listener on port. connections_max 0: no cap.
void nl_accept_guard_watch(struct nl_accept_guard *guard, uint16_t port, uint32_t connections_max);
// Connections closed instead of served: over the cap, or for want of descriptors.
uint64_t nl_accept_guard_refused(const struct nl_accept_guard *guard);

#endif
