#include "server/auth_limit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct entry {
    char *key;
    uint64_t since_ms;
    uint32_t failures;
    UT_hash_handle hh;
};

struct nl_auth_limit {
    struct entry *entries;  // uthash keeps the order of insertion: the first is the oldest
};

struct nl_auth_limit *nl_auth_limit_new(void) {
    return calloc(1, sizeof(struct nl_auth_limit));
}

static void entry_remove(struct nl_auth_limit *limit, struct entry *e) {
    HASH_DEL(limit->entries, e);
    free(e->key);
    free(e);
}

void nl_auth_limit_free(struct nl_auth_limit *limit) {
    while (limit != NULL && limit->entries != NULL) {
        entry_remove(limit, limit->entries);
    }
    free(limit);
}

// The key's entry if its window has not ended.
static struct entry *current(struct nl_auth_limit *limit, const char *key, uint64_t now_ms) {
    struct entry *e = NULL;
    HASH_FIND_STR(limit->entries, key, e);
    if (e != NULL && now_ms - e->since_ms >= NL_AUTH_WINDOW_MS) {
        entry_remove(limit, e);
        return NULL;
    }
    return e;
}

bool nl_auth_limit_allows(struct nl_auth_limit *limit, const char *key, uint64_t now_ms) {
    const struct entry *e = current(limit, key, now_ms);
    return e == NULL || e->failures < NL_AUTH_FAILURES_MAX;
}

static struct entry *entry_new(struct nl_auth_limit *limit, const char *key, uint64_t now_ms) {
    struct entry *e = calloc(1, sizeof *e);
    char *copy = strdup(key);
    if (e == NULL || copy == NULL) {
        free(e);
        free(copy);
        return NULL;
    }
    if (HASH_COUNT(limit->entries) >= NL_AUTH_KEYS_MAX) {
        entry_remove(limit, limit->entries);
    }
    e->key = copy;
    e->since_ms = now_ms;
    HASH_ADD_KEYPTR(hh, limit->entries, e->key, strlen(e->key), e);
    return e;
}

bool nl_auth_limit_failed(struct nl_auth_limit *limit, const char *key, uint64_t now_ms,
                          bool *ret_shut) {
    struct entry *e = current(limit, key, now_ms);
    e = e != NULL ? e : entry_new(limit, key, now_ms);
    if (e == NULL) {
        *ret_shut = false;
        return true;
    }
    e->failures++;
    *ret_shut = e->failures == NL_AUTH_FAILURES_MAX;
    return e->failures <= NL_AUTH_FAILURES_MAX;
}

void nl_auth_peer_host(const char *peer, char *out, unsigned long out_size) {
    const char *host =
        strncmp(peer, "ipv4:", 5) == 0 || strncmp(peer, "ipv6:", 5) == 0 ? peer + 5 : peer;
    snprintf(out, out_size, "%s", host);
    char *colon = strrchr(out, ':');
    if (colon != NULL && (strchr(out, ':') == colon || colon[-1] == ']' ||
                          (colon > out + 3 && strncmp(colon - 3, "%5D", 3) == 0))) {
        *colon = '\0';
    }
}
