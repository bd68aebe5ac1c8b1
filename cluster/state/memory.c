// Copies of text, and frees that wait for the end of a snapshot.

#include "cluster/state/internal.h"

int nl_grave_reserve(struct nl_state *state) {
    if (state->snapshot == NULL) {
        return NL_OK;
    }
    if (state->graves != NULL && state->graves->count + NL_GRAVE_ROOM <= NL_GRAVE_ITEMS) {
        return NL_OK;
    }
    struct nl_grave *grave = malloc(sizeof *grave);
    if (grave == NULL) {
        return NL_ENOMEM;
    }
    grave->next = state->graves;
    grave->count = 0;
    state->graves = grave;
    return NL_OK;
}

void nl_release(struct nl_state *state, void *block) {
    if (block == NULL) {
        return;
    }
    if (state->snapshot == NULL) {
        free(block);
        return;
    }
    assert(state->graves != NULL && state->graves->count < NL_GRAVE_ITEMS);
    state->graves->items[state->graves->count++] = block;
}

void nl_graves_free(struct nl_grave *graves) {
    while (graves != NULL) {
        struct nl_grave *grave = graves;
        graves = grave->next;
        for (uint32_t i = 0; i < grave->count; i++) {
            free(grave->items[i]);
        }
        free(grave);
    }
}

int nl_text_copy(const char *text, char **ret) {
    if (text == NULL || text[0] == '\0') {
        *ret = NULL;
        return NL_OK;
    }
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    if (copy == NULL) {
        return NL_ENOMEM;
    }
    memcpy(copy, text, size);
    *ret = copy;
    return NL_OK;
}

int nl_text_replace(struct nl_state *state, char **field, const char *text) {
    char *copy;
    int rv = nl_text_copy(text, &copy);
    if (rv != NL_OK) {
        return rv;
    }
    nl_release(state, *field);
    *field = copy;
    return NL_OK;
}
