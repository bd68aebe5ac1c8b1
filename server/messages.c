#include "server/messages.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"

enum { LABEL_KEY_MAX = 64, LABEL_VALUE_MAX = 256 };

ProtobufCMessage *nl_message_clone(const ProtobufCMessage *message) {
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *data = malloc(len > 0 ? len : 1);
    if (data == NULL) {
        return NULL;
    }
    protobuf_c_message_pack(message, data);
    ProtobufCMessage *copy = protobuf_c_message_unpack(message->descriptor, NULL, len, data);
    free(data);
    return copy;
}

char *nl_message_text(const char *text) {
    return (char *)(uintptr_t)(text != NULL ? text : protobuf_c_empty_string);
}

bool nl_labels_ok(Nodelink__V1__Label *const *labels, size_t n, size_t max) {
    if (n > max) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!nl_text_id_ok(labels[i]->key) || strlen(labels[i]->key) > LABEL_KEY_MAX ||
            strlen(labels[i]->value) > LABEL_VALUE_MAX) {
            return false;
        }
    }
    return true;
}

static bool has_label(Nodelink__V1__Label *const *labels, size_t n,
                      const Nodelink__V1__Label *wanted) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(labels[i]->key, wanted->key) == 0 &&
            strcmp(labels[i]->value, wanted->value) == 0) {
            return true;
        }
    }
    return false;
}

bool nl_labels_match(Nodelink__V1__Label *const *labels, size_t n,
                     Nodelink__V1__Label *const *wanted, size_t n_wanted) {
    for (size_t i = 0; i < n_wanted; i++) {
        if (!has_label(labels, n, wanted[i])) {
            return false;
        }
    }
    return true;
}
