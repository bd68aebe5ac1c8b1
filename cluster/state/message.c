// What the state machine needs of protobuf-c: decoding under a memory cap, deep copies in one
// block, checks and digests of messages.

#include "cluster/state/internal.h"
#include "common/base/crypto.h"
#include "common/base/text.h"

// ---- decoding ----

struct budget {
    size_t left;
    bool no_memory;  // malloc failed, rather than the budget
};

static void *budget_alloc(void *data, size_t size) {
    struct budget *budget = data;
    if (size > budget->left) {
        return NULL;
    }
    // What is freed in between isn't given back: the sum of requests is the same everywhere.
    budget->left -= size;
    void *block = malloc(size > 0 ? size : 1);
    budget->no_memory = budget->no_memory || block == NULL;
    return block;
}

static void budget_free(void *data, void *block) {
    (void)data;
    free(block);
}

ProtobufCMessage *nl_message_decode(const ProtobufCMessageDescriptor *type, const uint8_t *data,
                                    size_t len, size_t memory_max, int *ret_err) {
    struct budget budget = {.left = memory_max};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, len, data);
    if (message == NULL) {
        *ret_err = budget.no_memory ? NL_ENOMEM : NL_ECORRUPT;
    }
    return message;
}

void nl_message_free(ProtobufCMessage *message) {
    struct budget budget = {0};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    if (message != NULL) {
        protobuf_c_message_free_unpacked(message, &allocator);
    }
}

// ---- decoding many, one after the other ----

// A block that did not fit.
struct nl_arena_extra {
    struct nl_arena_extra *next;
    max_align_t data[];
};

void *nl_arena_alloc(struct nl_arena *arena, size_t size) {
    if (size > arena->left) {
        return NULL;
    }
    arena->left -= size;
    size_t at = (arena->used + 15) / 16 * 16;
    if (at <= sizeof arena->block && size <= sizeof arena->block - at) {
        arena->used = at + size;
        return arena->block + at;
    }
    struct nl_arena_extra *extra = malloc(sizeof *extra + size);
    if (extra == NULL) {
        arena->no_memory = true;
        return NULL;
    }
    extra->next = arena->extra;
    arena->extra = extra;
    return extra->data;
}

static void *arena_alloc(void *arena, size_t size) {
    return nl_arena_alloc(arena, size);
}

static void arena_free(void *data, void *block) {
    (void)data;
    (void)block;
}

void nl_arena_reset(struct nl_arena *arena) {
    while (arena->extra != NULL) {
        struct nl_arena_extra *extra = arena->extra;
        arena->extra = extra->next;
        free(extra);
    }
    arena->used = 0;
    arena->no_memory = false;
}

ProtobufCMessage *nl_arena_decode(struct nl_arena *arena, const ProtobufCMessageDescriptor *type,
                                  const uint8_t *data, size_t len, size_t memory_max,
                                  int *ret_err) {
    ProtobufCAllocator allocator = {arena_alloc, arena_free, arena};
    nl_arena_reset(arena);
    arena->left = memory_max;
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, len, data);
    if (message == NULL) {
        *ret_err = arena->no_memory ? NL_ENOMEM : NL_ECORRUPT;
    }
    return message;
}

// ---- compact copies ----

// Takes pieces from one block; without a block it only adds up their sizes.
struct bump {
    uint8_t *block;
    size_t used;
};

static void *bump_copy(struct bump *bump, const void *from, size_t size, size_t align) {
    bump->used = (bump->used + align - 1) / align * align;
    size_t at = bump->used;
    bump->used += size;
    if (bump->block == NULL) {
        return NULL;
    }
    if (size > 0) {
        memcpy(bump->block + at, from, size);
    }
    return bump->block + at;
}

static void *copy_message(struct bump *bump, const ProtobufCMessage *message);

// One string, blob or message at `from`; the copy's pointer goes to `to` (NULL while counting).
static void copy_value(struct bump *bump, ProtobufCType type, const void *from, void *to) {
    if (type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(char *const *)from;
        // The empty default is a static string that protobuf-c knows by its address.
        if (text == NULL || text == protobuf_c_empty_string) {
            return;
        }
        char *copy = bump_copy(bump, text, strlen(text) + 1, 1);
        if (to != NULL) {
            *(char **)to = copy;
        }
    } else if (type == PROTOBUF_C_TYPE_BYTES) {
        const ProtobufCBinaryData *data = from;
        uint8_t *copy = bump_copy(bump, data->data, data->len, 1);
        if (to != NULL && data->data != NULL) {
            ((ProtobufCBinaryData *)to)->data = copy;
        }
    } else if (type == PROTOBUF_C_TYPE_MESSAGE) {
        const ProtobufCMessage *inner = *(ProtobufCMessage *const *)from;
        if (inner == NULL) {
            return;
        }
        ProtobufCMessage *copy = copy_message(bump, inner);
        if (to != NULL) {
            *(ProtobufCMessage **)to = copy;
        }
    }
}

static size_t value_size(ProtobufCType type) {
    switch (type) {
        case PROTOBUF_C_TYPE_STRING:
        case PROTOBUF_C_TYPE_MESSAGE:
            return sizeof(void *);
        case PROTOBUF_C_TYPE_BYTES:
            return sizeof(ProtobufCBinaryData);
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_SFIXED64:
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_FIXED64:
        case PROTOBUF_C_TYPE_DOUBLE:
            return 8;
        default:
            return 4;
    }
}

static void copy_repeated(struct bump *bump, const ProtobufCFieldDescriptor *field,
                          const uint8_t *message, uint8_t *copy) {
    size_t n = *(const size_t *)(const void *)(message + field->quantifier_offset);
    const uint8_t *from = *(uint8_t *const *)(const void *)(message + field->offset);
    size_t size = value_size(field->type);
    if (n == 0) {
        return;
    }
    uint8_t *to = bump_copy(bump, from, n * size, 8);
    for (size_t i = 0; i < n; i++) {
        copy_value(bump, field->type, from + i * size, to == NULL ? NULL : to + i * size);
    }
    if (copy != NULL) {
        *(uint8_t **)(void *)(copy + field->offset) = to;
    }
}

// Fields of a later version: kept, so that the encoding stays what the client asked for.
static void copy_unknown(struct bump *bump, const ProtobufCMessage *message,
                         ProtobufCMessage *copy) {
    size_t n = message->n_unknown_fields;
    if (n == 0) {
        return;
    }
    ProtobufCMessageUnknownField *to = bump_copy(bump, message->unknown_fields, n * sizeof *to, 8);
    for (size_t i = 0; i < n; i++) {
        const ProtobufCMessageUnknownField *from = &message->unknown_fields[i];
        uint8_t *data = bump_copy(bump, from->data, from->len, 1);
        if (to != NULL) {
            to[i].data = data;
        }
    }
    if (copy != NULL) {
        copy->unknown_fields = to;
    }
}

// For messages without oneofs (TaskSpec, TaskResult and what they hold).
static void *copy_message(struct bump *bump, const ProtobufCMessage *message) {
    const ProtobufCMessageDescriptor *type = message->descriptor;
    const uint8_t *from = (const uint8_t *)message;
    uint8_t *copy = bump_copy(bump, message, type->sizeof_message, 8);
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        assert((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0);
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            copy_repeated(bump, field, from, copy);
        } else {
            copy_value(bump, field->type, from + field->offset,
                       copy == NULL ? NULL : copy + field->offset);
        }
    }
    copy_unknown(bump, message, (ProtobufCMessage *)(void *)copy);
    return copy;
}

void *nl_message_compact(const ProtobufCMessage *message) {
    struct bump bump = {0};
    copy_message(&bump, message);
    bump.block = malloc(bump.used);
    if (bump.block == NULL) {
        return NULL;
    }
    bump.used = 0;
    return copy_message(&bump, message);
}

static Nodelink__V1__Label **copy_labels(struct bump *bump, Nodelink__V1__Label *const *labels,
                                         size_t n) {
    Nodelink__V1__Label **copy = bump_copy(bump, labels, n * sizeof *copy, 8);
    for (size_t i = 0; i < n; i++) {
        Nodelink__V1__Label *label = copy_message(bump, &labels[i]->base);
        if (copy != NULL) {
            copy[i] = label;
        }
    }
    return copy;
}

int nl_labels_compact(Nodelink__V1__Label *const *labels, size_t n, Nodelink__V1__Label ***ret) {
    if (n == 0) {
        *ret = NULL;
        return NL_OK;
    }
    struct bump bump = {0};
    copy_labels(&bump, labels, n);
    bump.block = malloc(bump.used);
    if (bump.block == NULL) {
        return NL_ENOMEM;
    }
    bump.used = 0;
    *ret = copy_labels(&bump, labels, n);
    return NL_OK;
}

// ---- checks and digests ----

static bool value_utf8_ok(ProtobufCType type, const uint8_t *at) {
    if (type == PROTOBUF_C_TYPE_STRING) {
        const char *text = *(char *const *)(const void *)at;
        return text == NULL || nl_text_utf8_ok(text, strlen(text));
    }
    if (type == PROTOBUF_C_TYPE_MESSAGE) {
        const ProtobufCMessage *inner = *(ProtobufCMessage *const *)(const void *)at;
        return inner == NULL || nl_message_utf8_ok(inner);
    }
    return true;
}

static bool field_utf8_ok(const ProtobufCFieldDescriptor *field, const uint8_t *message) {
    if (field->type != PROTOBUF_C_TYPE_STRING && field->type != PROTOBUF_C_TYPE_MESSAGE) {
        return true;
    }
    const uint8_t *at = message + field->offset;
    const void *quantifier = message + field->quantifier_offset;
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        return *(const uint32_t *)quantifier != field->id || value_utf8_ok(field->type, at);
    }
    if (field->label != PROTOBUF_C_LABEL_REPEATED) {
        return value_utf8_ok(field->type, at);
    }
    size_t n = *(const size_t *)quantifier;
    const uint8_t *values = *(uint8_t *const *)(const void *)at;
    for (size_t i = 0; i < n; i++) {
        if (!value_utf8_ok(field->type, values + i * sizeof(void *))) {
            return false;
        }
    }
    return true;
}

bool nl_message_utf8_ok(const ProtobufCMessage *message) {
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned i = 0; i < type->n_fields; i++) {
        if (!field_utf8_ok(&type->fields[i], (const uint8_t *)message)) {
            return false;
        }
    }
    return true;
}

int nl_message_same(const ProtobufCMessage *a, const ProtobufCMessage *b) {
    size_t size = protobuf_c_message_get_packed_size(a);
    if (size != protobuf_c_message_get_packed_size(b)) {
        return 0;
    }
    uint8_t *both = malloc(2 * size + 1);
    if (both == NULL) {
        return NL_ENOMEM;
    }
    protobuf_c_message_pack(a, both);
    protobuf_c_message_pack(b, both + size);
    int same = memcmp(both, both + size, size) == 0;
    free(both);
    return same;
}

int nl_message_sha256(const ProtobufCMessage *message, uint8_t out[32]) {
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(size + 1);
    if (packed == NULL) {
        return NL_ENOMEM;
    }
    protobuf_c_message_pack(message, packed);
    nl_sha256_of(packed, size, out);
    free(packed);
    return NL_OK;
}
