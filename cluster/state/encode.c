// Packs a record as protobuf-c does, but from its end to its beginning: the length of an inner
// message is known when it is needed, where packing forward goes over each message twice. What the
// records don't use (see decode.c) and what doesn't fit is left to protobuf-c.

#include "cluster/state/internal.h"

enum wire { WIRE_VARINT = 0, WIRE_BYTES = 2 };

// What is written so far begins at `at`.
struct output {
    uint8_t *begin, *at;
};

static bool put_varint(struct output *out, uint64_t value) {
    size_t n = 1;
    for (uint64_t rest = value >> 7; rest != 0; rest >>= 7) {
        n++;
    }
    if ((size_t)(out->at - out->begin) < n) {
        return false;
    }
    out->at -= n;
    for (size_t i = 0; i < n; i++) {
        out->at[i] = (uint8_t)(value | (i + 1 < n ? 0x80 : 0));
        value >>= 7;
    }
    return true;
}

static bool put_tag(struct output *out, const ProtobufCFieldDescriptor *field, enum wire wire) {
    return put_varint(out, (uint64_t)field->id << 3 | wire);
}

static bool put_slice(struct output *out, const ProtobufCFieldDescriptor *field, const void *data,
                      size_t len) {
    if ((size_t)(out->at - out->begin) < len) {
        return false;
    }
    out->at -= len;
    if (len > 0) {
        memcpy(out->at, data, len);
    }
    return put_varint(out, len) && put_tag(out, field, WIRE_BYTES);
}

static bool encode(struct output *out, const ProtobufCMessage *message);

static bool put_message(struct output *out, const ProtobufCFieldDescriptor *field,
                        const ProtobufCMessage *message) {
    const uint8_t *end = out->at;
    return encode(out, message) && put_varint(out, (uint64_t)(end - out->at)) &&
           put_tag(out, field, WIRE_BYTES);
}

// A number as it is written; false: of another type, or one that is written otherwise.
static bool number_of(ProtobufCType type, const void *member, uint64_t *ret) {
    switch (type) {
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_INT64:
            *ret = *(const uint64_t *)member;
            return true;
        case PROTOBUF_C_TYPE_UINT32:
            *ret = *(const uint32_t *)member;
            return true;
        case PROTOBUF_C_TYPE_INT32:
            *ret = (uint64_t) * (const int32_t *)member;  // negative ones are widened
            return true;
        case PROTOBUF_C_TYPE_ENUM:
            *ret = (uint64_t) * (const int32_t *)member;
            return *(const int32_t *)member >= 0;
        case PROTOBUF_C_TYPE_BOOL:
            *ret = *(const protobuf_c_boolean *)member != 0;
            return true;
        default:
            return false;
    }
}

// always: an empty or missing text is written too.
static bool put_value(struct output *out, const ProtobufCFieldDescriptor *field, const void *member,
                      bool always) {
    uint64_t number;
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(char *const *)member;
        size_t len = text == NULL ? 0 : strlen(text);
        return (len == 0 && !always) || put_slice(out, field, text, len);
    }
    if (field->type == PROTOBUF_C_TYPE_BYTES) {
        const ProtobufCBinaryData *bytes = member;
        return (bytes->len == 0 && !always) || put_slice(out, field, bytes->data, bytes->len);
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        const ProtobufCMessage *message = *(ProtobufCMessage *const *)member;
        return message == NULL ? !always : put_message(out, field, message);
    }
    return number_of(field->type, member, &number) &&
           (number == 0 || (put_varint(out, number) && put_tag(out, field, WIRE_VARINT)));
}

static bool put_packed(struct output *out, const ProtobufCFieldDescriptor *field,
                       const int32_t *values, size_t n) {
    const uint8_t *end = out->at;
    uint64_t number;
    for (size_t i = n; i > 0; i--) {
        if (!number_of(field->type, &values[i - 1], &number) || !put_varint(out, number)) {
            return false;
        }
    }
    return n == 0 ||
           (put_varint(out, (uint64_t)(end - out->at)) && put_tag(out, field, WIRE_BYTES));
}

static bool put_repeated(struct output *out, const ProtobufCFieldDescriptor *field,
                         const uint8_t *message) {
    size_t n = *(const size_t *)(const void *)(message + field->quantifier_offset);
    const uint8_t *values = *(uint8_t *const *)(const void *)(message + field->offset);
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_PACKED) != 0) {
        return field->type == PROTOBUF_C_TYPE_ENUM &&
               put_packed(out, field, (const int32_t *)(const void *)values, n);
    }
    bool of_bytes = field->type == PROTOBUF_C_TYPE_BYTES;
    size_t size = of_bytes ? sizeof(ProtobufCBinaryData) : sizeof(void *);
    bool known =
        of_bytes || field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE;
    for (size_t i = n; known && i > 0; i--) {
        known = put_value(out, field, values + (i - 1) * size, true);
    }
    return known;
}

static bool encode(struct output *out, const ProtobufCMessage *message) {
    const ProtobufCMessageDescriptor *type = message->descriptor;
    const uint8_t *members = (const uint8_t *)message;
    bool ok = message->n_unknown_fields == 0;
    for (unsigned i = type->n_fields; ok && i > 0; i--) {
        const ProtobufCFieldDescriptor *field = &type->fields[i - 1];
        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
            ok = false;
        } else if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            ok = put_repeated(out, field, members);
        } else {
            ok = field->label == PROTOBUF_C_LABEL_NONE &&
                 put_value(out, field, members + field->offset, false);
        }
    }
    return ok;
}

bool nl_canonical_encode(const ProtobufCMessage *message, uint8_t *buffer, size_t size,
                         uint8_t **ret) {
    struct output out = {.begin = buffer, .at = buffer + size};
    if (!encode(&out, message)) {
        return false;
    }
    *ret = out.at;
    return true;
}
