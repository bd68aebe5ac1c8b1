// Sorted orders of records: treaps (Seidel and Aragon, 1996) over slots, sorted by (key, id).
//
// A list kept in order by walking back from its tail would do while stamps rise, but state time
// stands still after a proposer's clock ran ahead, and then each insertion would walk over all
// records of that stamp. Priorities are the hashes of the ids: nothing random.

#include "cluster/state/internal.h"

static struct nl_order_node *node_at(const struct nl_table *table, enum nl_order_kind kind,
                                     uint32_t slot) {
    return &nl_table_link(table, slot)->order[kind];
}

// Below 0, 0, above 0 as the record at `slot` sorts below, at or above (key, id).
static int compare(const struct nl_table *table, enum nl_order_kind kind, uint32_t slot,
                   uint64_t key, const char *id) {
    const struct nl_order_node *node = node_at(table, kind, slot);
    if (node->key != key) {
        return node->key < key ? -1 : 1;
    }
    return id == NULL ? 1 : strcmp(nl_table_id(table, slot), id);
}

static void replace_child(struct nl_table *table, enum nl_order_kind kind, uint32_t *root,
                          uint32_t parent, uint32_t old, uint32_t child) {
    if (parent == NL_SLOT_NONE) {
        *root = child;
    } else {
        struct nl_order_node *p = node_at(table, kind, parent);
        if (p->left == old) {
            p->left = child;
        } else {
            p->right = child;
        }
    }
    if (child != NL_SLOT_NONE) {
        node_at(table, kind, child)->parent = parent;
    }
}

// Moves `slot` above its parent; the order stays.
static void rotate_up(struct nl_table *table, enum nl_order_kind kind, uint32_t *root,
                      uint32_t slot) {
    struct nl_order_node *node = node_at(table, kind, slot);
    uint32_t up = node->parent;
    struct nl_order_node *parent = node_at(table, kind, up);
    uint32_t moved;
    replace_child(table, kind, root, parent->parent, up, slot);
    if (parent->left == slot) {
        moved = node->right;
        node->right = up;
        parent->left = moved;
    } else {
        moved = node->left;
        node->left = up;
        parent->right = moved;
    }
    parent->parent = slot;
    if (moved != NL_SLOT_NONE) {
        node_at(table, kind, moved)->parent = up;
    }
}

static bool above(const struct nl_table *table, uint32_t a, uint32_t b) {
    return nl_table_link(table, a)->hash > nl_table_link(table, b)->hash;
}

// Hangs the record below `parent` at `at`, then moves it up to where its priority belongs.
static void hang(struct nl_table *table, enum nl_order_kind kind, uint32_t *root, uint32_t parent,
                 uint32_t *at, uint32_t slot, uint64_t key) {
    *at = slot;
    *node_at(table, kind, slot) = (struct nl_order_node){.key = key, .parent = parent};
    while (node_at(table, kind, slot)->parent != NL_SLOT_NONE &&
           above(table, slot, node_at(table, kind, slot)->parent)) {
        rotate_up(table, kind, root, slot);
    }
}

void nl_order_add(struct nl_table *table, enum nl_order_kind kind, uint32_t *root, uint32_t slot,
                  uint64_t key) {
    uint32_t parent = NL_SLOT_NONE;
    uint32_t *at = root;
    while (*at != NL_SLOT_NONE) {
        parent = *at;
        struct nl_order_node *node = node_at(table, kind, parent);
        bool below = node->key < key;
        if (node->key == key) {
            // Only then are the records themselves needed, which seldom are in the cache.
            below = strcmp(nl_table_id(table, parent), nl_table_id(table, slot)) < 0;
        }
        at = below ? &node->right : &node->left;
    }
    hang(table, kind, root, parent, at, slot, key);
}

// The spine from the root to the last place is walked up from below, as in building a Cartesian
// tree (J. Vuillemin, 1980). All of it happens in `places`: the links of a million records that
// follow each other in time are all over the memory.
uint32_t nl_order_build(struct nl_table *table, enum nl_order_kind kind, struct nl_place *places,
                        uint32_t n) {
    uint32_t root = 0;
    for (uint32_t i = 1; i <= n; i++) {
        struct nl_place *place = &places[i - 1];
        uint32_t below = 0, up = i - 1;
        while (up != 0 && places[up - 1].hash < place->hash) {
            below = up;
            up = places[up - 1].parent;
        }
        place->left = below;
        place->right = 0;
        place->parent = up;
        if (below != 0) {
            places[below - 1].parent = i;
        }
        if (up != 0) {
            places[up - 1].right = i;
        } else {
            root = i;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct nl_place *p = &places[i];
        *node_at(table, kind, p->slot) = (struct nl_order_node){
            .key = p->key,
            .left = p->left == 0 ? NL_SLOT_NONE : places[p->left - 1].slot,
            .right = p->right == 0 ? NL_SLOT_NONE : places[p->right - 1].slot,
            .parent = p->parent == 0 ? NL_SLOT_NONE : places[p->parent - 1].slot,
        };
    }
    return root == 0 ? NL_SLOT_NONE : places[root - 1].slot;
}

void nl_order_remove(struct nl_table *table, enum nl_order_kind kind, uint32_t *root,
                     uint32_t slot) {
    struct nl_order_node *node = node_at(table, kind, slot);
    while (node->left != NL_SLOT_NONE && node->right != NL_SLOT_NONE) {
        rotate_up(table, kind, root,
                  above(table, node->left, node->right) ? node->left : node->right);
    }
    uint32_t child = node->left != NL_SLOT_NONE ? node->left : node->right;
    replace_child(table, kind, root, node->parent, slot, child);
    *node = (struct nl_order_node){0};
}

uint32_t nl_order_first(const struct nl_table *table, enum nl_order_kind kind, uint32_t root) {
    uint32_t slot = root;
    while (slot != NL_SLOT_NONE && node_at(table, kind, slot)->left != NL_SLOT_NONE) {
        slot = node_at(table, kind, slot)->left;
    }
    return slot;
}

uint32_t nl_order_last(const struct nl_table *table, enum nl_order_kind kind, uint32_t root) {
    uint32_t slot = root;
    while (slot != NL_SLOT_NONE && node_at(table, kind, slot)->right != NL_SLOT_NONE) {
        slot = node_at(table, kind, slot)->right;
    }
    return slot;
}

uint32_t nl_order_next(const struct nl_table *table, enum nl_order_kind kind, uint32_t slot) {
    const struct nl_order_node *node = node_at(table, kind, slot);
    if (node->right != NL_SLOT_NONE) {
        return nl_order_first(table, kind, node->right);
    }
    uint32_t up = node->parent;
    while (up != NL_SLOT_NONE && node_at(table, kind, up)->right == slot) {
        slot = up;
        up = node_at(table, kind, up)->parent;
    }
    return up;
}

uint32_t nl_order_prev(const struct nl_table *table, enum nl_order_kind kind, uint32_t slot) {
    const struct nl_order_node *node = node_at(table, kind, slot);
    if (node->left != NL_SLOT_NONE) {
        return nl_order_last(table, kind, node->left);
    }
    uint32_t up = node->parent;
    while (up != NL_SLOT_NONE && node_at(table, kind, up)->left == slot) {
        slot = up;
        up = node_at(table, kind, up)->parent;
    }
    return up;
}

uint32_t nl_order_above(const struct nl_table *table, enum nl_order_kind kind, uint32_t root,
                        uint64_t key, const char *id) {
    uint32_t best = NL_SLOT_NONE;
    uint32_t slot = root;
    while (slot != NL_SLOT_NONE) {
        const struct nl_order_node *node = node_at(table, kind, slot);
        if (compare(table, kind, slot, key, id) > 0) {
            best = slot;
            slot = node->left;
        } else {
            slot = node->right;
        }
    }
    return best;
}

uint32_t nl_order_below(const struct nl_table *table, enum nl_order_kind kind, uint32_t root,
                        uint64_t key, const char *id) {
    uint32_t best = NL_SLOT_NONE;
    uint32_t slot = root;
    while (slot != NL_SLOT_NONE) {
        const struct nl_order_node *node = node_at(table, kind, slot);
        if (compare(table, kind, slot, key, id) < 0) {
            best = slot;
            slot = node->right;
        } else {
            slot = node->left;
        }
    }
    return best;
}

uint32_t nl_order_find(const struct nl_table *table, uint64_t key) {
    uint32_t slot = nl_order_above(table, NL_ORDER_ALL, table->root, key, NULL);
    bool found = slot != NL_SLOT_NONE && node_at(table, NL_ORDER_ALL, slot)->key == key;
    return found ? slot : NL_SLOT_NONE;
}
