// Small helpers on protobuf-c messages.
#ifndef NODELINK_SERVER_MESSAGES_H
#define NODELINK_SERVER_MESSAGES_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#include <nodelink/v1/task.pb-c.h>

// Deep copy with malloc; freed with protobuf_c_message_free_unpacked(m, NULL). NULL: no memory.
ProtobufCMessage *nl_message_clone(const ProtobufCMessage *message);

// A text for a string field: never NULL.
char *nl_message_text(const char *text);

// Keys 1..64 of the id alphabet, values of at most 256 bytes, at most max of them.
bool nl_labels_ok(Nodelink__V1__Label *const *labels, size_t n, size_t max);
// Every one of `wanted` is among `labels`.
bool nl_labels_match(Nodelink__V1__Label *const *labels, size_t n,
                     Nodelink__V1__Label *const *wanted, size_t n_wanted);

#endif
