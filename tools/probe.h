// Asks every node itself for its own view, in parallel, each with a short deadline: works without
// a quorum and does not believe one node about another.
#ifndef NODELINK_TOOLS_PROBE_H
#define NODELINK_TOOLS_PROBE_H

#include <nodelink/v1/control.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/client.h"

struct nl_probe {
    char *address;                        // owned
    Nodelink__V1__GetStatusReply *reply;  // owned; NULL: it did not answer
    struct nl_client_error error;         // then
};

struct nl_probes {
    struct nl_probe *items;  // owned
    size_t count;
};

// The nodes of the client's target and, with `learn`, those that any answer names. NL_ENOMEM.
// To be closed in every case.
int nl_probes_run(struct nl_client *client, const struct nl_client_target *target, bool learn,
                  uint64_t timeout_ms, struct nl_probes *ret);
void nl_probes_close(struct nl_probes *probes);

#endif
