// What the answers of the nodes mean together: the cluster's health, each node's state, where
// they disagree and what to do next. Pure: no calls, no clock.
#ifndef NODELINK_TOOLS_OVERVIEW_H
#define NODELINK_TOOLS_OVERVIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tools/probe.h"

enum nl_health { NL_HEALTHY, NL_DEGRADED, NL_NO_QUORUM, NL_UNREACHABLE };

enum nl_node_state {
    NL_NODE_OK,
    NL_NODE_DOWN,         // doesn't answer, and the others don't hear it either
    NL_NODE_UNREACHABLE,  // doesn't answer here; the leader hears it
    NL_NODE_ISOLATED,     // answers, but has no contact to the quorum
};

struct nl_node_view {
    uint64_t id;
    const char *name, *address, *role;
    enum nl_node_state state;
    const Nodelink__V1__GetStatusReply *reply;  // NULL: no answer
    const char *error;                          // then: why
    bool voter;
    uint64_t last_seen_ms;  // since the leader heard from it; UINT64_MAX: not known
    uint64_t match_index;   // what the leader knows it has; 0: not known
};

enum { NL_NOTES_MAX = 32, NL_NODES_MAX = 64 };

// Borrows from the probes that it was made from.
struct nl_overview {
    enum nl_health health;
    const char *cluster;
    const Nodelink__V1__GetStatusReply
        *leader;                               // its own answer; NULL: none leads, or none answered
    const Nodelink__V1__GetStatusReply *view;  // whose numbers of the fleet are shown
    const char *leader_name;                   // NULL: none known
    uint64_t leader_id;
    struct nl_node_view nodes[NL_NODES_MAX];  // by id
    size_t n_nodes;
    size_t voters, voters_ok;
    bool linearizable;              // a linearizable read went through just now; set by the caller
    uint64_t now_ms;                // wall clock, for show; set by the caller
    char notes[NL_NOTES_MAX][256];  // without the '!'
    size_t n_notes;
};

// `one_node`: only one was asked; the others' states are what it says of them.
void nl_overview_make(const struct nl_probes *probes, bool one_node, struct nl_overview *ret);
// The leader's answer to a linearizable read failed: there is no working quorum.
void nl_overview_read_failed(struct nl_overview *overview, const char *why);
const char *nl_health_name(enum nl_health health);  // "healthy", "degraded", "no-quorum", ...
int nl_health_exit(enum nl_health health);

json_t *nl_overview_json(const struct nl_overview *overview);
void nl_overview_print(const struct nl_overview *overview, bool color, FILE *out);

#endif
