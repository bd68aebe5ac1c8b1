// Decodes the bytes that packing a message gives, and only those: each field at most once, in the
// order of the numbers, in the shortest form, none that holds its default, none unknown. Anything
// else, also what the records don't use (oneofs, fixed fields, optional scalars), is
// left to protobuf-c. So bytes that are taken here need not be packed again to know their hash, and
// decoding is one pass without a table of what was found.

#include "cluster/state/internal.h"

enum wire { WIRE_VARINT = 0, WIRE_BYTES = 2 };

struct input {
    const uint8_t *at, *end;
};

// In its shortest form.
static bool take_varint(struct input *in, uint64_t *ret) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        uint8_t byte = *in->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret = value;
            return (byte != 0 || shift == 0) && (shift < 63 || byte == 1);
        }
    }
    return false;
}

static bool take_slice(struct input *in, struct input *ret) {
    uint64_t len;
    if (!take_varint(in, &len) || len > (size_t)(in->end - in->at)) {
        return false;
    }
    *ret = (struct input){in->at, in->at + len};
    in->at += len;
    return true;
}

static bool is_of_bytes(ProtobufCType type) {
    return type == PROTOBUF_C_TYPE_STRING || type == PROTOBUF_C_TYPE_BYTES ||
           type == PROTOBUF_C_TYPE_MESSAGE;
}

// ---- values ----

static bool put_number(ProtobufCType type, uint64_t value, void *member) {
    switch (type) {
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_INT64:
            *(uint64_t *)member = value;
            return true;
        case PROTOBUF_C_TYPE_UINT32:
            *(uint32_t *)member = (uint32_t)value;
            return value <= UINT32_MAX;
        case PROTOBUF_C_TYPE_INT32:
            *(int32_t *)member = (int32_t)value;
            return value == (uint64_t)(int32_t)value;  // negative ones are widened
        case PROTOBUF_C_TYPE_ENUM:
            *(int32_t *)member = (int32_t)value;
            return value <= INT32_MAX;
        case PROTOBUF_C_TYPE_BOOL:
            *(protobuf_c_boolean *)member = value != 0;
            return value <= 1;
        default:
            return false;
    }
}

static bool put_text(struct nl_arena *arena, struct input in, void *member) {
    size_t len = (size_t)(in.end - in.at);
    char *text = nl_arena_alloc(arena, len + 1);
    // A zero inside would end the text for everybody else.
    if (text == NULL || memchr(in.at, '\0', len) != NULL) {
        return false;
    }
    memcpy(text, in.at, len);
    text[len] = '\0';
    *(char **)member = text;
    return true;
}

static bool put_bytes(struct nl_arena *arena, struct input in, void *member) {
    size_t len = (size_t)(in.end - in.at);
    uint8_t *data = nl_arena_alloc(arena, len + 1);
    if (data == NULL) {
        return false;
    }
    memcpy(data, in.at, len);
    *(ProtobufCBinaryData *)member = (ProtobufCBinaryData){len, data};
    return true;
}

static ProtobufCMessage *decode(struct nl_arena *arena, const ProtobufCMessageDescriptor *type,
                                struct input in);

static bool put_message(struct nl_arena *arena, const ProtobufCFieldDescriptor *field,
                        struct input in, void *member) {
    ProtobufCMessage *message = decode(arena, field->descriptor, in);
    *(ProtobufCMessage **)member = message;
    return message != NULL;
}

static bool put_slice(struct nl_arena *arena, const ProtobufCFieldDescriptor *field,
                      struct input in, void *member) {
    switch (field->type) {
        case PROTOBUF_C_TYPE_STRING:
            return put_text(arena, in, member);
        case PROTOBUF_C_TYPE_BYTES:
            return put_bytes(arena, in, member);
        default:
            return put_message(arena, field, in, member);
    }
}

// ---- fields ----

// A message may be empty: it is there, or not.
static bool take_one(struct nl_arena *arena, const ProtobufCFieldDescriptor *field, unsigned wire,
                     struct input *in, void *member) {
    if (is_of_bytes(field->type)) {
        struct input slice;
        return wire == WIRE_BYTES && take_slice(in, &slice) &&
               (slice.at < slice.end || field->type == PROTOBUF_C_TYPE_MESSAGE) &&
               put_slice(arena, field, slice, member);
    }
    uint64_t value;
    return wire == WIRE_VARINT && take_varint(in, &value) && value != 0 &&
           put_number(field->type, value, member);
}

// How many values of the field follow each other, the first of them behind its tag.
static size_t count_values(struct input in, uint64_t tag) {
    struct input slice;
    uint64_t next = tag;
    size_t n = 0;
    while (next == tag && take_slice(&in, &slice)) {
        n++;
        next = 0;
        if (!take_varint(&in, &next)) {
            break;
        }
    }
    return n;
}

static bool take_repeated(struct nl_arena *arena, const ProtobufCFieldDescriptor *field,
                          uint64_t tag, struct input *in, uint8_t *message) {
    size_t size =
        field->type == PROTOBUF_C_TYPE_BYTES ? sizeof(ProtobufCBinaryData) : sizeof(void *);
    size_t n = (tag & 7) == WIRE_BYTES && is_of_bytes(field->type) ? count_values(*in, tag) : 0;
    uint8_t *values = n == 0 ? NULL : nl_arena_alloc(arena, n * size);
    if (values == NULL) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        struct input slice;
        uint64_t again = tag;
        if ((i > 0 && (!take_varint(in, &again) || again != tag)) || !take_slice(in, &slice) ||
            !put_slice(arena, field, slice, values + i * size)) {
            return false;
        }
    }
    *(size_t *)(void *)(message + field->quantifier_offset) = n;
    *(uint8_t **)(void *)(message + field->offset) = values;
    return true;
}

// Numbers in one slice, which is not there if there are none.
static bool take_packed(struct nl_arena *arena, const ProtobufCFieldDescriptor *field, uint64_t tag,
                        struct input *in, uint8_t *message) {
    struct input slice;
    size_t n = 0;
    if (field->type != PROTOBUF_C_TYPE_ENUM || (tag & 7) != WIRE_BYTES || !take_slice(in, &slice)) {
        return false;
    }
    for (const uint8_t *at = slice.at; at < slice.end; at++) {
        n += *at < 0x80;
    }
    int32_t *values = n == 0 ? NULL : nl_arena_alloc(arena, n * sizeof *values);
    if (values == NULL) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t value;
        if (!take_varint(&slice, &value) || !put_number(field->type, value, &values[i])) {
            return false;
        }
    }
    *(size_t *)(void *)(message + field->quantifier_offset) = n;
    *(int32_t **)(void *)(message + field->offset) = values;
    return slice.at == slice.end;
}

static bool take_field(struct nl_arena *arena, const ProtobufCFieldDescriptor *field, uint64_t tag,
                       struct input *in, uint8_t *message) {
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        return false;
    }
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        return (field->flags & PROTOBUF_C_FIELD_FLAG_PACKED) != 0
                   ? take_packed(arena, field, tag, in, message)
                   : take_repeated(arena, field, tag, in, message);
    }
    return field->label == PROTOBUF_C_LABEL_NONE &&
           take_one(arena, field, (unsigned)(tag & 7), in, message + field->offset);
}

static ProtobufCMessage *decode(struct nl_arena *arena, const ProtobufCMessageDescriptor *type,
                                struct input in) {
    ProtobufCMessage *message = nl_arena_alloc(arena, type->sizeof_message);
    unsigned i = 0;
    if (message == NULL) {
        return NULL;
    }
    type->message_init(message);
    while (in.at < in.end) {
        uint64_t tag;
        if (!take_varint(&in, &tag)) {
            return NULL;
        }
        // Descriptors are sorted by number, and none is used twice.
        while (i < type->n_fields && type->fields[i].id < tag >> 3) {
            i++;
        }
        if (i == type->n_fields || type->fields[i].id != tag >> 3 ||
            !take_field(arena, &type->fields[i], tag, &in, (uint8_t *)message)) {
            return NULL;
        }
        i++;
    }
    return message;
}

ProtobufCMessage *nl_canonical_decode(struct nl_arena *arena,
                                      const ProtobufCMessageDescriptor *type, const uint8_t *data,
                                      size_t len, size_t memory_max) {
    nl_arena_reset(arena);
    arena->left = memory_max;
    return decode(arena, type, (struct input){data, data + len});
}
