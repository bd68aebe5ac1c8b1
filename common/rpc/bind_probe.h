// Says why an address can't be listened on: gRPC only says that it can't.
#ifndef NODELINK_COMMON_RPC_BIND_PROBE_H
#define NODELINK_COMMON_RPC_BIND_PROBE_H

#include <stddef.h>

// Listens on "host:port" for a moment. NL_OK; NL_EINVAL: no such address; NL_EBUSY: port in use;
// NL_EPERM, NL_EIO; with a sentence.
int nl_rpc_bind_probe(const char *address, char *error_text, size_t error_size);

#endif
