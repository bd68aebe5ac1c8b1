// Records by id: linear hashing (W. Litwin, 1980). Each insertion splits at most one bucket, so
// that no command pays for moving a million entries.

#include "cluster/state/internal.h"

static uint32_t *bucket_at(const struct nl_idmap *map, uint32_t bucket) {
    return &map->pages[bucket / NL_BUCKET_PAGE][bucket % NL_BUCKET_PAGE];
}

static uint32_t *bucket_of(const struct nl_idmap *map, uint32_t hash) {
    uint32_t bucket = hash & map->mask;
    // Buckets below `split` have been divided by one more bit already.
    return bucket_at(map, bucket < map->split ? hash & (map->mask * 2 + 1) : bucket);
}

static int add_page(struct nl_idmap *map) {
    if (map->pages_used == map->pages_cap) {
        uint32_t cap = map->pages_cap == 0 ? 4 : map->pages_cap * 2;
        uint32_t **pages = realloc(map->pages, cap * sizeof(uint32_t *));
        if (pages == NULL) {
            return NL_ENOMEM;
        }
        map->pages = pages;
        map->pages_cap = cap;
    }
    uint32_t *page = calloc(NL_BUCKET_PAGE, sizeof *page);
    if (page == NULL) {
        return NL_ENOMEM;
    }
    map->pages[map->pages_used++] = page;
    return NL_OK;
}

int nl_idmap_init(struct nl_idmap *map) {
    memset(map, 0, sizeof *map);
    if (add_page(map) != NL_OK) {
        nl_idmap_close(map);
        memset(map, 0, sizeof *map);
        return NL_ENOMEM;
    }
    map->mask = NL_BUCKET_PAGE - 1;
    return NL_OK;
}

void nl_idmap_close(struct nl_idmap *map) {
    for (uint32_t i = 0; i < map->pages_used; i++) {
        free(map->pages[i]);
    }
    free(map->pages);
}

uint32_t nl_idmap_find(const struct nl_table *table, const char *id) {
    uint32_t hash = nl_hash_id(id);
    uint32_t slot = *bucket_of(&table->map, hash);
    while (slot != NL_SLOT_NONE) {
        const struct nl_link *link = nl_table_link(table, slot);
        if (link->hash == hash && strcmp(nl_table_id(table, slot), id) == 0) {
            return slot;
        }
        slot = link->hash_next;
    }
    return NL_SLOT_NONE;
}

static void push(struct nl_table *table, uint32_t slot) {
    struct nl_link *link = nl_table_link(table, slot);
    uint32_t *bucket = bucket_of(&table->map, link->hash);
    link->hash_next = *bucket;
    *bucket = slot;
}

static void split_one(struct nl_table *table) {
    struct nl_idmap *map = &table->map;
    uint32_t fresh = map->mask + 1 + map->split;
    if (fresh / NL_BUCKET_PAGE == map->pages_used && add_page(map) != NL_OK) {
        return;  // longer chains for now; the next insertion tries again
    }
    uint32_t *old = bucket_at(map, map->split);
    uint32_t slot = *old;
    *old = NL_SLOT_NONE;
    map->split++;
    while (slot != NL_SLOT_NONE) {
        uint32_t next = nl_table_link(table, slot)->hash_next;
        push(table, slot);
        slot = next;
    }
    if (map->split == map->mask + 1) {
        map->mask = map->mask * 2 + 1;
        map->split = 0;
    }
}

int nl_idmap_reserve(struct nl_idmap *map, uint32_t buckets) {
    while (map->pages_used < buckets / NL_BUCKET_PAGE + 1) {
        if (add_page(map) != NL_OK) {
            return NL_ENOMEM;
        }
    }
    while (map->mask < buckets / 2) {
        map->mask = map->mask * 2 + 1;
    }
    // Splitting an empty bucket gives an empty bucket.
    map->split = buckets > map->mask + 1 ? buckets - (map->mask + 1) : 0;
    return NL_OK;
}

void nl_idmap_add(struct nl_table *table, uint32_t slot) {
    push(table, slot);
    if (table->count > table->map.mask + 1 + table->map.split) {
        split_one(table);
    }
}

void nl_idmap_remove(struct nl_table *table, uint32_t slot) {
    struct nl_link *link = nl_table_link(table, slot);
    uint32_t *at = bucket_of(&table->map, link->hash);
    while (*at != slot) {
        assert(*at != NL_SLOT_NONE);
        at = &nl_table_link(table, *at)->hash_next;
    }
    *at = link->hash_next;
}
