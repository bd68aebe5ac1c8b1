// Metadata: what came in, as strings; what goes out, as slices.

#include <stdlib.h>
#include <string.h>

#include "common/rpc/internal.h"

char *nl_rpc_text(const void *data, size_t len) {
    char *text = malloc(len + 1);
    if (text != NULL) {
        memcpy(text, data, len);
        text[len] = '\0';
    }
    return text;
}

char *nl_rpc_slice_text(grpc_slice slice) {
    return nl_rpc_text(GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
}

static char *copy_slice(char *to, grpc_slice slice) {
    memcpy(to, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
    to += GRPC_SLICE_LENGTH(slice);
    *to++ = '\0';
    return to;
}

struct nl_rpc_headers *nl_rpc_headers_copy(const grpc_metadata_array *array) {
    size_t size = sizeof(struct nl_rpc_headers) + array->count * sizeof(struct nl_rpc_metadata);
    for (size_t i = 0; i < array->count; i++) {
        size += GRPC_SLICE_LENGTH(array->metadata[i].key) + 1;
        size += GRPC_SLICE_LENGTH(array->metadata[i].value) + 1;
    }
    struct nl_rpc_headers *headers = malloc(size);
    if (headers == NULL) {
        return NULL;
    }
    headers->count = array->count;
    char *to = (char *)&headers->list[array->count];
    for (size_t i = 0; i < array->count; i++) {
        headers->list[i].key = to;
        to = copy_slice(to, array->metadata[i].key);
        headers->list[i].value = to;
        to = copy_slice(to, array->metadata[i].value);
    }
    return headers;
}

const char *nl_rpc_headers_get(const struct nl_rpc_headers *headers, const char *key) {
    for (size_t i = 0; headers != NULL && i < headers->count; i++) {
        if (strcmp(headers->list[i].key, key) == 0) {
            return headers->list[i].value;
        }
    }
    return NULL;
}

static bool is_legal(grpc_slice key, grpc_slice value) {
    return grpc_header_key_is_legal(key) && !grpc_is_binary_header(key) &&
           grpc_header_nonbin_value_is_legal(value);
}

int nl_rpc_outgoing_init(struct nl_rpc_outgoing *out, const struct nl_rpc_metadata *metadata) {
    *out = (struct nl_rpc_outgoing){0};
    size_t count = 0;
    while (metadata != NULL && metadata[count].key != NULL) {
        count++;
    }
    if (count == 0) {
        return NL_OK;
    }
    grpc_metadata *list = calloc(count, sizeof *list);
    if (list == NULL) {
        return NL_ENOMEM;
    }
    bool legal = true;
    for (size_t i = 0; i < count; i++) {
        list[i].key = grpc_slice_from_copied_string(metadata[i].key);
        list[i].value = grpc_slice_from_copied_string(metadata[i].value);
        legal = legal && is_legal(list[i].key, list[i].value);
    }
    *out = (struct nl_rpc_outgoing){.count = count, .list = list};
    if (!legal) {
        nl_rpc_outgoing_close(out);
        return NL_EINVAL;
    }
    return NL_OK;
}

void nl_rpc_outgoing_close(struct nl_rpc_outgoing *out) {
    for (size_t i = 0; i < out->count; i++) {
        grpc_slice_unref(out->list[i].key);
        grpc_slice_unref(out->list[i].value);
    }
    free(out->list);
    *out = (struct nl_rpc_outgoing){0};
}
