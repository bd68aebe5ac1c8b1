// From bytes to a message, for input that nobody vouches for. protobuf-c has no recursion limit, no
// memory limit, takes any bytes for a string and cuts it at a NUL. So the encoding is walked first,
// by the descriptor: lengths, depth, strings. Then it is unpacked by an allocator with a cap.

#include <stdlib.h>

#include "common/base/text.h"
#include "common/rpc/internal.h"

// Our deepest message has 4 levels.
#define DEPTH_MAX 32

// ---- allocator -------------------------------------------------------------

struct capped {
    size_t left;
    size_t used;
    bool over;   // the cap was the reason for a refusal
    bool empty;  // malloc was
};

// Counts what was ever allocated: scratch memory of the parser included, since that is what
// an attacker would aim at.
static void *capped_alloc(void *data, size_t size) {
    struct capped *capped = data;
    if (size > capped->left) {
        capped->over = true;
        return NULL;
    }
    void *memory = malloc(size);
    if (memory == NULL) {
        capped->empty = true;
        return NULL;
    }
    capped->left -= size;
    capped->used += size;
    return memory;
}

static void capped_free(void *data, void *memory) {
    (void)data;
    free(memory);
}

// ---- walk ------------------------------------------------------------------

struct cursor {
    const uint8_t *at, *end;
};

static bool read_varint(struct cursor *c, uint64_t *ret) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && c->at < c->end; shift += 7) {
        uint8_t byte = *c->at++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if ((byte & 0x80) == 0) {
            *ret = value;
            return true;
        }
    }
    return false;
}

static bool skip(struct cursor *c, size_t len) {
    if ((size_t)(c->end - c->at) < len) {
        return false;
    }
    c->at += len;
    return true;
}

static bool walk(const ProtobufCMessageDescriptor *descriptor, struct cursor c, unsigned depth);

static bool walk_bytes(const ProtobufCFieldDescriptor *field, struct cursor *c, unsigned depth) {
    uint64_t len;
    if (!read_varint(c, &len) || len > (uint64_t)(c->end - c->at)) {
        return false;
    }
    struct cursor inner = {.at = c->at, .end = c->at + len};
    c->at += len;
    if (field == NULL) {
        return true;
    }
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        return nl_text_utf8_ok((const char *)inner.at, (size_t)len);
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        return walk(field->descriptor, inner, depth + 1);
    }
    return true;
}

static bool walk_field(const ProtobufCFieldDescriptor *field, unsigned wire_type, struct cursor *c,
                       unsigned depth) {
    uint64_t ignored;
    switch (wire_type) {
        case PROTOBUF_C_WIRE_TYPE_VARINT:
            return read_varint(c, &ignored);
        case PROTOBUF_C_WIRE_TYPE_64BIT:
            return skip(c, 8);
        case PROTOBUF_C_WIRE_TYPE_32BIT:
            return skip(c, 4);
        case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
            return walk_bytes(field, c, depth);
        default:  // groups, and what was never defined
            return false;
    }
}

static bool walk(const ProtobufCMessageDescriptor *descriptor, struct cursor c, unsigned depth) {
    if (depth > DEPTH_MAX) {
        return false;
    }
    while (c.at < c.end) {
        uint64_t key;
        if (!read_varint(&c, &key) || key > UINT32_MAX || key >> 3 == 0) {
            return false;
        }
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(key >> 3));
        if (!walk_field(field, key & 7, &c, depth)) {
            return false;
        }
    }
    return true;
}

// ---- both ------------------------------------------------------------------

int nl_rpc_unpack_sized(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                        size_t len, size_t unpacked_bytes_max, ProtobufCMessage **ret,
                        size_t *ret_bytes) {
    static const uint8_t nothing[1] = {0};
    const uint8_t *from = len > 0 ? data : nothing;
    if (!walk(descriptor, (struct cursor){.at = from, .end = from + len}, 0)) {
        return NL_EINVAL;
    }
    struct capped capped = {.left = unpacked_bytes_max};
    ProtobufCAllocator allocator = {
        .alloc = capped_alloc, .free = capped_free, .allocator_data = &capped};
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor, &allocator, len, from);
    if (message == NULL) {
        return capped.over ? NL_ETOOBIG : capped.empty ? NL_ENOMEM : NL_EINVAL;
    }
    *ret = message;
    *ret_bytes = capped.used;
    return NL_OK;
}

int nl_rpc_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t len,
                  size_t unpacked_bytes_max, ProtobufCMessage **ret) {
    size_t ignored;
    return nl_rpc_unpack_sized(descriptor, data, len, unpacked_bytes_max, ret, &ignored);
}

// The allocator's memory is malloc's, so the default one frees it.
void nl_rpc_message_free(ProtobufCMessage *message) {
    if (message != NULL) {
        protobuf_c_message_free_unpacked(message, NULL);
    }
}
