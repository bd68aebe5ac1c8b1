#include "agent/link/servers.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/config.h"
#include "common/base/err.h"

// ---- hash ------------------------------------------------------------------

static uint64_t fnv1a(uint64_t h, const char *s) {
    for (; *s != '\0'; s++) {
        h = (h ^ (uint8_t)*s) * 1099511628211u;
    }
    return h;
}

// Finalizer of splitmix64: FNV alone leaves the high bits of similar strings similar.
static uint64_t mix(uint64_t h) {
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    return h ^ (h >> 31);
}

static uint64_t rendezvous(const char *agent_id, const char *address) {
    uint64_t h = fnv1a(14695981039346656037u, agent_id);
    return mix(fnv1a((h ^ '|') * 1099511628211u, address));
}

// ---- the set ---------------------------------------------------------------

int nl_link_servers_init(struct nl_link_servers *s, const char *agent_id) {
    memset(s, 0, sizeof *s);
    s->agent_id = strdup(agent_id);
    return s->agent_id == NULL ? NL_ENOMEM : NL_OK;
}

void nl_link_servers_close(struct nl_link_servers *s) {
    for (size_t i = 0; i < s->count; i++) {
        free(s->items[i].address);
    }
    free(s->agent_id);
    free(s->last_good);
    memset(s, 0, sizeof *s);
}

static struct nl_link_server *find(const struct nl_link_servers *s, const char *address) {
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(s->items[i].address, address) == 0) {
            return (struct nl_link_server *)&s->items[i];
        }
    }
    return NULL;
}

static bool address_ok(const char *address) {
    char *host = NULL;
    uint16_t port = 0;
    if (nl_parse_address(address, &host, &port) != NL_OK) {
        return false;
    }
    free(host);
    return port != 0;
}

// *ret is NULL when the address is left out.
static int add(struct nl_link_servers *s, const char *address, struct nl_link_server **ret) {
    struct nl_link_server *known = find(s, address);
    if (known != NULL || s->count == NL_LINK_SERVERS_MAX || !address_ok(address)) {
        *ret = known;
        return NL_OK;
    }
    char *copy = strdup(address);
    if (copy == NULL) {
        return NL_ENOMEM;
    }
    struct nl_link_server *item = &s->items[s->count++];
    *item = (struct nl_link_server){.address = copy, .score = rendezvous(s->agent_id, copy)};
    *ret = item;
    return NL_OK;
}

static void remove_orphans(struct nl_link_servers *s) {
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (s->items[i].configured || s->items[i].learned) {
            s->items[kept++] = s->items[i];
        } else {
            free(s->items[i].address);
        }
    }
    s->count = kept;
}

static bool *source_of(struct nl_link_server *item, bool configured) {
    return configured ? &item->configured : &item->learned;
}

static int set_source(struct nl_link_servers *s, struct nl_link_strings list, bool configured,
                      bool *ret_changed) {
    bool before[NL_LINK_SERVERS_MAX] = {false};
    for (size_t i = 0; i < s->count; i++) {
        before[i] = *source_of(&s->items[i], configured);
        *source_of(&s->items[i], configured) = false;
    }
    int rv = NL_OK;
    for (size_t i = 0; rv == NL_OK && i < list.count; i++) {
        struct nl_link_server *item = NULL;
        rv = add(s, list.items[i], &item);
        if (item != NULL) {
            *source_of(item, configured) = true;
        }
    }
    bool changed = false;
    for (size_t i = 0; i < s->count; i++) {
        changed = changed || before[i] != *source_of(&s->items[i], configured);
    }
    remove_orphans(s);
    if (ret_changed != NULL) {
        *ret_changed = changed;
    }
    return rv;
}

int nl_link_servers_set_configured(struct nl_link_servers *s, struct nl_link_strings list,
                                   bool *ret_changed) {
    return set_source(s, list, true, ret_changed);
}

int nl_link_servers_set_learned(struct nl_link_servers *s, struct nl_link_strings list,
                                bool *ret_changed) {
    return set_source(s, list, false, ret_changed);
}

int nl_link_servers_prefer(struct nl_link_servers *s, struct nl_link_strings list) {
    for (size_t i = 0; i < s->count; i++) {
        s->items[i].preference = 0;
    }
    uint32_t preference = 0;
    for (size_t i = 0; i < list.count; i++) {
        struct nl_link_server *item = NULL;
        int rv = add(s, list.items[i], &item);
        if (rv != NL_OK) {
            return rv;
        }
        if (item != NULL) {
            item->learned = item->learned || !item->configured;
            item->preference = ++preference;
            item->tried = false;
        }
    }
    return NL_OK;
}

bool nl_link_servers_has(const struct nl_link_servers *s, const char *address) {
    return find(s, address) != NULL;
}

// ---- order -----------------------------------------------------------------

static bool is_last_good(const struct nl_link_servers *s, const struct nl_link_server *item) {
    return s->last_good != NULL && strcmp(s->last_good, item->address) == 0;
}

static bool is_better(const struct nl_link_servers *s, const struct nl_link_server *a,
                      const struct nl_link_server *b) {
    if (a->preference != b->preference) {
        return a->preference != 0 && (b->preference == 0 || a->preference < b->preference);
    }
    if (a->dropped != b->dropped) {
        return b->dropped;
    }
    if (is_last_good(s, a) != is_last_good(s, b)) {
        return is_last_good(s, a);
    }
    return a->score != b->score ? a->score > b->score : strcmp(a->address, b->address) < 0;
}

const char *nl_link_servers_pick(const struct nl_link_servers *s, const char *except) {
    const struct nl_link_server *best = NULL;
    for (size_t i = 0; i < s->count; i++) {
        const struct nl_link_server *item = &s->items[i];
        if (item->tried || (except != NULL && strcmp(except, item->address) == 0)) {
            continue;
        }
        if (best == NULL || is_better(s, item, best)) {
            best = item;
        }
    }
    return best == NULL ? NULL : best->address;
}

void nl_link_servers_tried(struct nl_link_servers *s, const char *address) {
    struct nl_link_server *item = find(s, address);
    if (item != NULL) {
        item->tried = true;
    }
}

void nl_link_servers_dropped(struct nl_link_servers *s, const char *address) {
    for (size_t i = 0; i < s->count; i++) {
        s->items[i].dropped = strcmp(s->items[i].address, address) == 0;
    }
}

void nl_link_servers_new_round(struct nl_link_servers *s) {
    for (size_t i = 0; i < s->count; i++) {
        s->items[i].tried = false;
    }
}

void nl_link_servers_reset(struct nl_link_servers *s) {
    nl_link_servers_new_round(s);
    for (size_t i = 0; i < s->count; i++) {
        s->items[i].dropped = false;
        s->items[i].preference = 0;
    }
}

int nl_link_servers_good(struct nl_link_servers *s, const char *address, bool *ret_changed) {
    bool changed = s->last_good == NULL || strcmp(s->last_good, address) != 0;
    if (changed) {
        char *copy = strdup(address);
        if (copy == NULL) {
            return NL_ENOMEM;
        }
        free(s->last_good);
        s->last_good = copy;
    }
    *ret_changed = changed;
    return NL_OK;
}
