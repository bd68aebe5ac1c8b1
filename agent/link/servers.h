// The servers an agent may connect to, and in which order. Pure.
//
// Two sources are merged: configured ones (flags, file) and those that the cluster told
// (Welcome, Drain; cached on disk by the driver). A learned list replaces the learned list
// before it, so that the addresses of replaced nodes go away; configured ones stay.
//
// Order: where a Drain sent us, then the last good server, then rendezvous hashing of
// (agent id, address), so that a fleet with one and the same list spreads over the nodes and the
// agents of a dead node spread over the others. A server that just dropped us comes last.
// A round tries each once.
#ifndef NODELINK_AGENT_LINK_SERVERS_H
#define NODELINK_AGENT_LINK_SERVERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NL_LINK_SERVERS_MAX 64u

// Borrowed list of strings.
struct nl_link_strings {
    char *const *items;
    size_t count;
};

struct nl_link_server {
    char *address;        // owned, "host:port"
    uint64_t score;       // rendezvous hash
    uint32_t preference;  // 1: first choice of the last Drain, 2: second ...; 0: none
    bool configured;
    bool learned;
    bool tried;    // in this round
    bool dropped;  // it was the last to end a stream of ours
};

struct nl_link_servers {
    char *agent_id;   // owned
    char *last_good;  // owned; NULL: none. Need not be in the list
    struct nl_link_server items[NL_LINK_SERVERS_MAX];
    size_t count;
};

// NL_ENOMEM. Embedded; close works on a zeroed one.
int nl_link_servers_init(struct nl_link_servers *s, const char *agent_id);
void nl_link_servers_close(struct nl_link_servers *s);

// Replace the servers of one source. Addresses that are no "host:port" and those over the limit
// are left out. *ret_changed (may be NULL): the set is another one than before. NL_ENOMEM: what
// fits into memory is in the list.
int nl_link_servers_set_configured(struct nl_link_servers *s, struct nl_link_strings list,
                                   bool *ret_changed);
int nl_link_servers_set_learned(struct nl_link_servers *s, struct nl_link_strings list,
                                bool *ret_changed);
// A Drain's list: adds what is unknown as learned and prefers these, best first, until the next
// nl_link_servers_reset.
int nl_link_servers_prefer(struct nl_link_servers *s, struct nl_link_strings list);
bool nl_link_servers_has(const struct nl_link_servers *s, const char *address);

// Best server not yet tried in this round, other than `except` (may be NULL). NULL: none left.
// Borrowed until the list changes.
const char *nl_link_servers_pick(const struct nl_link_servers *s, const char *except);
void nl_link_servers_tried(struct nl_link_servers *s, const char *address);
void nl_link_servers_dropped(struct nl_link_servers *s, const char *address);
void nl_link_servers_new_round(struct nl_link_servers *s);
// A stream has proven stable: new round, nothing dropped, no preference.
void nl_link_servers_reset(struct nl_link_servers *s);
// *ret_changed: it was another one.
int nl_link_servers_good(struct nl_link_servers *s, const char *address, bool *ret_changed);

#endif
