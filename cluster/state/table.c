// Slots in pages. While a snapshot is taken, pages and records that it can see are copied before
// their first change.

#include "cluster/state/internal.h"

#define RESERVE_MAX ((uint32_t)1 << 21)  // 8 MB of buckets

void nl_table_init(struct nl_table *table, size_t id_at) {
    memset(table, 0, sizeof *table);
    table->id_at = id_at;
    table->next_slot = 1;
}

void nl_table_close(struct nl_table *table) {
    for (uint32_t i = 0; i < table->pages_used; i++) {
        free(table->pages[i]);
        free(table->links[i]);
    }
    free(table->pages);
    free(table->links);
    nl_idmap_close(&table->map);
}

struct nl_rec *nl_table_get(const struct nl_table *table, uint32_t slot) {
    assert(slot < table->next_slot);
    return table->pages[slot / NL_PAGE_SLOTS]->slots[slot % NL_PAGE_SLOTS];
}

struct nl_link *nl_table_link(const struct nl_table *table, uint32_t slot) {
    assert(slot != NL_SLOT_NONE && slot < table->next_slot);
    return &table->links[slot / NL_PAGE_SLOTS][slot % NL_PAGE_SLOTS];
}

const char *nl_table_id(const struct nl_table *table, uint32_t slot) {
    if (table->id_at == 0) {
        return "";
    }
    const char *rec = (const char *)nl_table_get(table, slot);
    return *(char *const *)(const void *)(rec + table->id_at);
}

uint32_t nl_table_find(const struct nl_table *table, const char *id) {
    return table->count == 0 ? NL_SLOT_NONE : nl_idmap_find(table, id);
}

int nl_table_reserve(struct nl_table *table, uint64_t count) {
    // Beyond this growing by halves is good enough; a damaged number must not take all memory.
    uint32_t buckets = count < RESERVE_MAX ? (uint32_t)count : RESERVE_MAX;
    assert(table->count == 0);
    if (table->map.pages == NULL && nl_idmap_init(&table->map) != NL_OK) {
        return NL_ENOMEM;
    }
    return nl_idmap_reserve(&table->map, buckets);
}

static int grow_directories(struct nl_table *table) {
    uint32_t cap = table->pages_cap == 0 ? 8 : table->pages_cap * 2;
    struct nl_page **pages = realloc(table->pages, cap * sizeof(struct nl_page *));
    if (pages == NULL) {
        return NL_ENOMEM;
    }
    table->pages = pages;
    struct nl_link **links = realloc(table->links, cap * sizeof(struct nl_link *));
    if (links == NULL) {
        return NL_ENOMEM;
    }
    table->links = links;
    table->pages_cap = cap;
    return NL_OK;
}

static int add_page(struct nl_state *state, struct nl_table *table) {
    if (table->pages_used == table->pages_cap && grow_directories(table) != NL_OK) {
        return NL_ENOMEM;
    }
    struct nl_page *page = calloc(1, sizeof *page);
    struct nl_link *links = calloc(NL_PAGE_SLOTS, sizeof *links);
    if (page == NULL || links == NULL) {
        free(page);
        free(links);
        return NL_ENOMEM;
    }
    page->generation = state->generation;
    table->pages[table->pages_used] = page;
    table->links[table->pages_used] = links;
    table->pages_used++;
    return NL_OK;
}

static bool is_frozen(const struct nl_state *state, uint32_t generation) {
    return state->snapshot != NULL && generation < state->generation;
}

// Makes the slot's page ours to write.
static int thaw_page(struct nl_state *state, struct nl_table *table, uint32_t slot) {
    struct nl_page **at = &table->pages[slot / NL_PAGE_SLOTS];
    if (!is_frozen(state, (*at)->generation)) {
        return NL_OK;
    }
    struct nl_page *copy = malloc(sizeof *copy);
    if (copy == NULL || nl_grave_reserve(state) != NL_OK) {
        free(copy);
        return NL_ENOMEM;
    }
    memcpy(copy, *at, sizeof *copy);
    copy->generation = state->generation;
    nl_release(state, *at);
    *at = copy;
    return NL_OK;
}

static void set_slot(struct nl_table *table, uint32_t slot, struct nl_rec *rec) {
    table->pages[slot / NL_PAGE_SLOTS]->slots[slot % NL_PAGE_SLOTS] = rec;
}

// The slot that the next record gets, its page writable; not taken yet.
static int prepare_slot(struct nl_state *state, struct nl_table *table, uint32_t *ret) {
    uint32_t slot = table->free_slot != NL_SLOT_NONE ? table->free_slot : table->next_slot;
    if (slot / NL_PAGE_SLOTS == table->pages_used && add_page(state, table) != NL_OK) {
        return NL_ENOMEM;
    }
    if (table->id_at != 0 && table->map.pages == NULL && nl_idmap_init(&table->map) != NL_OK) {
        return NL_ENOMEM;
    }
    int rv = thaw_page(state, table, slot);
    if (rv == NL_OK) {
        *ret = slot;
    }
    return rv;
}

int nl_table_add(struct nl_state *state, struct nl_table *table, struct nl_rec *rec,
                 uint64_t number) {
    uint32_t slot;
    int rv = prepare_slot(state, table, &slot);
    if (rv != NL_OK) {
        return rv;
    }
    if (slot == table->next_slot) {
        table->next_slot++;
    } else {
        table->free_slot = nl_table_link(table, slot)->hash_next;
    }
    struct nl_link *link = nl_table_link(table, slot);
    memset(link, 0, sizeof *link);
    rec->slot = slot;
    rec->generation = state->generation;
    set_slot(table, slot, rec);
    table->count++;
    if (table->id_at != 0) {
        link->hash = nl_hash_id(nl_table_id(table, slot));
        nl_idmap_add(table, slot);
    } else {
        struct nl_sum mixed = nl_hash_bytes(&number, sizeof number);
        link->hash = (uint32_t)mixed.lo;
    }
    return NL_OK;
}

int nl_table_remove(struct nl_state *state, struct nl_table *table, uint32_t slot) {
    int rv = thaw_page(state, table, slot);
    if (rv != NL_OK) {
        return rv;
    }
    if (table->id_at != 0) {
        nl_idmap_remove(table, slot);
    }
    set_slot(table, slot, NULL);
    nl_table_link(table, slot)->hash_next = table->free_slot;
    table->free_slot = slot;
    table->count--;
    return NL_OK;
}

int nl_table_edit(struct nl_state *state, struct nl_table *table, uint32_t slot, size_t size,
                  struct nl_rec **ret) {
    struct nl_rec *rec = nl_table_get(table, slot);
    if (nl_grave_reserve(state) != NL_OK) {
        return NL_ENOMEM;
    }
    if (!is_frozen(state, rec->generation)) {
        *ret = rec;
        return NL_OK;
    }
    struct nl_rec *copy = malloc(size);
    if (copy == NULL || thaw_page(state, table, slot) != NL_OK) {
        free(copy);
        return NL_ENOMEM;
    }
    memcpy(copy, rec, size);
    copy->generation = state->generation;
    set_slot(table, slot, copy);
    nl_release(state, rec);
    *ret = copy;
    return NL_OK;
}
