#include "tools/overview.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/crypto.h"
#include "tools/cli.h"
#include "tools/format.h"

enum { HEARD_LATELY_MS = 2000 };

typedef Nodelink__V1__GetStatusReply Reply;

const char *nl_health_name(enum nl_health health) {
    static const char *const NAMES[] = {"healthy", "degraded", "no-quorum", "unreachable"};
    return NAMES[health];
}

int nl_health_exit(enum nl_health health) {
    return (int)health;
}

static void note(struct nl_overview *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(struct nl_overview *o, const char *fmt, ...) {
    va_list args;
    if (o->n_notes == NL_NOTES_MAX) {
        return;
    }
    va_start(args, fmt);
    vsnprintf(o->notes[o->n_notes++], sizeof o->notes[0], fmt, args);
    va_end(args);
}

// ---- who leads, whose view counts ------------------------------------------

static bool leads(const Reply *reply) {
    return strcmp(reply->role, "leader") == 0;
}

// The leader: of the nodes that say they lead and have a quorum, the one of the newest term.
static const Reply *find_leader(const struct nl_probes *probes) {
    const Reply *leader = NULL;
    for (size_t i = 0; i < probes->count; i++) {
        const Reply *reply = probes->items[i].reply;
        if (reply != NULL && leads(reply) && reply->quorum &&
            (leader == NULL || reply->term > leader->term)) {
            leader = reply;
        }
    }
    return leader;
}

static const Reply *find_most_applied(const struct nl_probes *probes) {
    const Reply *best = NULL;
    for (size_t i = 0; i < probes->count; i++) {
        const Reply *reply = probes->items[i].reply;
        if (reply != NULL && (best == NULL || reply->applied > best->applied)) {
            best = reply;
        }
    }
    return best;
}

// ---- the nodes -------------------------------------------------------------

static struct nl_node_view *node_by_id(struct nl_overview *o, uint64_t id) {
    for (size_t i = 0; i < o->n_nodes; i++) {
        if (o->nodes[i].id == id) {
            return &o->nodes[i];
        }
    }
    if (o->n_nodes == NL_NODES_MAX) {
        return NULL;
    }
    struct nl_node_view *node = &o->nodes[o->n_nodes++];
    *node = (struct nl_node_view){.id = id, .name = "?", .address = "", .role = "voter"};
    node->last_seen_ms = UINT64_MAX;
    node->voter = true;
    return node;
}

// What one node says of the members; the view's words come first and stay.
static void add_members(struct nl_overview *o, const Reply *from) {
    for (size_t i = 0; i < from->n_members; i++) {
        const Nodelink__V1__Member *member = from->members[i];
        struct nl_node_view *node = node_by_id(o, member->id);
        if (node == NULL || *node->address != '\0') {
            continue;
        }
        node->name = *member->name != '\0' ? member->name : "?";
        node->address = member->grpc_address;
        node->role = *member->role != '\0' ? member->role : "voter";
        node->voter = strcmp(node->role, "voter") == 0;
        node->last_seen_ms = member->last_seen_ms;
        node->match_index = member->match_index;
        node->state =
            member->up && member->last_seen_ms <= HEARD_LATELY_MS ? NL_NODE_OK : NL_NODE_DOWN;
    }
}

static void add_answer(struct nl_overview *o, const Reply *reply) {
    struct nl_node_view *node = node_by_id(o, reply->node_id);
    if (node == NULL) {
        return;
    }
    node->name = *reply->name != '\0' ? reply->name : node->name;
    node->address = *reply->grpc_address != '\0' ? reply->grpc_address : node->address;
    node->role = *reply->role != '\0' ? reply->role : node->role;
    node->reply = reply;
    node->state = NL_NODE_OK;
}

// No answer. A refused connection says that nothing runs there; silence alone may be our own
// network, so the leader's word counts.
static void add_silence(struct nl_overview *o, const struct nl_probe *probe) {
    for (size_t i = 0; i < o->n_nodes; i++) {
        struct nl_node_view *node = &o->nodes[i];
        if (node->reply != NULL || strcmp(node->address, probe->address) != 0) {
            continue;
        }
        bool heard = o->leader != NULL && node->last_seen_ms <= HEARD_LATELY_MS;
        node->error = probe->error.text;
        node->state = heard && !probe->error.unreachable ? NL_NODE_UNREACHABLE : NL_NODE_DOWN;
    }
}

static int by_id(const void *a, const void *b) {
    const struct nl_node_view *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static void gather_nodes(struct nl_overview *o, const struct nl_probes *probes) {
    add_members(o, o->view);
    for (size_t i = 0; i < probes->count; i++) {
        if (probes->items[i].reply != NULL) {
            add_members(o, probes->items[i].reply);
        }
    }
    for (size_t i = 0; i < probes->count; i++) {
        if (probes->items[i].reply != NULL) {
            add_answer(o, probes->items[i].reply);
        }
    }
    for (size_t i = 0; i < probes->count; i++) {
        if (probes->items[i].reply == NULL) {
            add_silence(o, &probes->items[i]);
        }
    }
    qsort(o->nodes, o->n_nodes, sizeof o->nodes[0], by_id);
}

// ---- health ----------------------------------------------------------------

// A follower's word that there is a leader counts while that leader itself was not heard to
// deny it.
static void settle_leader(struct nl_overview *o) {
    if (o->leader != NULL) {
        o->leader_id = o->leader->node_id;
    } else {
        for (size_t i = 0; i < o->n_nodes; i++) {
            const Reply *reply = o->nodes[i].reply;
            if (reply != NULL && reply->quorum && reply->leader_id != reply->node_id) {
                o->leader_id = reply->leader_id;
            }
        }
    }
    for (size_t i = 0; i < o->n_nodes; i++) {
        struct nl_node_view *node = &o->nodes[i];
        if (node->id != o->leader_id) {
            continue;
        }
        bool denied = o->leader == NULL && (node->reply != NULL || node->state == NL_NODE_DOWN);
        if (denied) {
            o->leader_id = 0;
        } else {
            o->leader_name = node->name;
        }
        return;
    }
    o->leader_id = 0;
}

static void mark_isolated(struct nl_overview *o) {
    for (size_t i = 0; i < o->n_nodes && o->leader_id != 0; i++) {
        struct nl_node_view *node = &o->nodes[i];
        if (node->reply != NULL && !node->reply->quorum) {
            node->state = NL_NODE_ISOLATED;
        }
    }
}

static void settle_health(struct nl_overview *o) {
    size_t bad = 0;
    for (size_t i = 0; i < o->n_nodes; i++) {
        bool ok = o->nodes[i].state == NL_NODE_OK;
        o->voters += o->nodes[i].voter;
        o->voters_ok += o->nodes[i].voter && ok;
        bad += !ok;
    }
    if (o->leader_id == 0) {
        o->health = NL_NO_QUORUM;
    } else if (bad > 0 || o->n_notes > 0) {
        o->health = NL_DEGRADED;
    }
}

// ---- notes -----------------------------------------------------------------

static void note_disagreement(struct nl_overview *o) {
    for (size_t i = 0; i < o->n_nodes; i++) {
        const Reply *a = o->nodes[i].reply;
        for (size_t j = i + 1; a != NULL && j < o->n_nodes; j++) {
            const Reply *b = o->nodes[j].reply;
            if (b == NULL) {
                continue;
            }
            if (leads(a) && leads(b)) {
                note(o,
                     "%s (term %" PRIu64 ") and %s (term %" PRIu64
                     ") both say that they lead. Next: look at the network between them; "
                     "the older term has no quorum",
                     a->name, a->term, b->name, b->term);
            }
            if (a->applied == b->applied && a->state_hash.len == b->state_hash.len &&
                a->state_hash.len > 0 &&
                memcmp(a->state_hash.data, b->state_hash.data, a->state_hash.len) != 0) {
                note(o,
                     "%s and %s hold different states at index %" PRIu64
                     ". Next: nodelink cluster verify; stop the one that differs from the rest",
                     a->name, b->name, a->applied);
            }
        }
    }
}

static void note_terms(struct nl_overview *o) {
    for (size_t i = 0; i < o->n_nodes && o->leader != NULL; i++) {
        const Reply *reply = o->nodes[i].reply;
        if (reply != NULL && reply->term != o->leader->term && reply != o->leader) {
            note(o,
                 "%s is in term %" PRIu64 ", the leader %s in %" PRIu64
                 ". Next: ask again; if it stays, look at its network to the others",
                 reply->name, reply->term, o->leader->name, o->leader->term);
        }
    }
}

static void note_node(struct nl_overview *o, const struct nl_node_view *node) {
    char age[32];
    nl_format_age(age, node->last_seen_ms);
    bool aged = node->last_seen_ms != UINT64_MAX && node->last_seen_ms > 0;
    switch (node->state) {
        case NL_NODE_DOWN:
            note(o,
                 "%s down%s%s%s%s%s. Next: start nodelinkd there (%s), its log says why it ended",
                 node->name, aged ? ", last heard of " : "", aged ? age : "", aged ? " ago" : "",
                 node->error != NULL ? ": " : "", node->error != NULL ? node->error : "",
                 node->address);
            break;
        case NL_NODE_UNREACHABLE:
            note(o,
                 "%s can't be reached from here (%s), the leader hears it. Next: look at the "
                 "network from this host to %s",
                 node->name, node->error != NULL ? node->error : "no answer", node->address);
            break;
        case NL_NODE_ISOLATED:
            note(o, "%s answers but hears no quorum. Next: look at its network to the other nodes",
                 node->name);
            break;
        case NL_NODE_OK:
            break;
    }
}

static void note_quorum(struct nl_overview *o) {
    size_t needed = o->voters / 2 + 1;
    if (o->health != NL_NO_QUORUM) {
        return;
    }
    if (o->voters_ok >= needed) {
        note(o,
             "no leader, though %zu of %zu voters answer: an election is under way. Next: ask "
             "again in a moment (nodelink status --wait healthy)",
             o->voters_ok, o->voters);
    } else {
        note(o,
             "no quorum: %zu of %zu voters answer, %zu are needed; nothing can be written, "
             "tasks go on running. Next: start %zu of the nodes that are down",
             o->voters_ok, o->voters, needed, needed - o->voters_ok);
    }
}

static void note_fleet(struct nl_overview *o) {
    const Nodelink__V1__FleetStatus *fleet = o->view->fleet;
    if (fleet == NULL) {
        return;
    }
    if (fleet->agents_unreachable + fleet->agents_lost > 0) {
        note(o, "%u agents unreachable, %u lost. Next: nodelink agent list shows which",
             fleet->agents_unreachable, fleet->agents_lost);
    }
    if (fleet->tasks_unknown > 0) {
        note(o,
             "%" PRIu64
             " tasks have an unknown outcome; it resolves when their agents are back. "
             "Next: nodelink task list --state unknown",
             fleet->tasks_unknown);
    }
}

void nl_overview_read_failed(struct nl_overview *o, const char *why) {
    o->health = NL_NO_QUORUM;
    if (o->voters_ok < o->voters / 2 + 1) {
        note_quorum(o);
        return;
    }
    note(o,
         "%s leads but serves no linearizable read: %s. Next: ask again; an election may be "
         "under way",
         o->leader_name != NULL ? o->leader_name : o->view->name, why);
}

void nl_overview_make(const struct nl_probes *probes, bool one_node, struct nl_overview *ret) {
    struct nl_overview *o = ret;
    *o = (struct nl_overview){.health = NL_UNREACHABLE, .cluster = ""};
    o->leader = find_leader(probes);
    o->view = o->leader != NULL ? o->leader : find_most_applied(probes);
    if (o->view == NULL) {
        return;
    }
    o->health = NL_HEALTHY;
    o->cluster = o->view->cluster;
    gather_nodes(o, probes);
    settle_leader(o);
    mark_isolated(o);
    note_disagreement(o);
    if (!one_node) {
        note_terms(o);
    }
    settle_health(o);
    for (size_t i = 0; i < o->n_nodes; i++) {
        note_node(o, &o->nodes[i]);
    }
    note_quorum(o);
    note_fleet(o);
}
