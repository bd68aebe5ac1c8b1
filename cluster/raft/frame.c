#include "cluster/raft/frame.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

static void put_u16(uint8_t *at, uint16_t v) {
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void put_u32(uint8_t *at, uint32_t v) {
    put_u16(at, (uint16_t)v);
    put_u16(at + 2, (uint16_t)(v >> 16));
}

static uint16_t get_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | (at[1] << 8));
}

static uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)get_u16(at) | ((uint32_t)get_u16(at + 2) << 16);
}

static size_t padded(size_t len) {
    return (len + 7) & ~(size_t)7;
}

void nl_frame_init(struct nl_frame *frame) {
    memset(frame, 0, sizeof *frame);
}

void nl_frame_close(struct nl_frame *frame) {
    free(frame->data);
    nl_frame_init(frame);
}

static int reserve(struct nl_frame *frame, size_t need) {
    if (need <= frame->cap) {
        return NL_OK;
    }
    size_t cap = frame->cap > 0 ? frame->cap : 512;
    while (cap < need) {
        cap *= 2;
    }
    uint8_t *data = realloc(frame->data, cap);
    if (data == NULL) {
        return NL_ENOMEM;
    }
    frame->data = data;
    frame->cap = cap;
    return NL_OK;
}

int nl_frame_add(struct nl_frame *frame, const void *command, size_t len) {
    size_t at = frame->count == 0 ? NL_FRAME_HEADER_LEN : frame->len;
    if (len == 0) {
        return NL_EINVAL;
    }
    if (frame->count == NL_FRAME_COMMANDS_MAX || len > NL_FRAME_BYTES_MAX ||
        at + 4 + len > NL_FRAME_BYTES_MAX) {
        return NL_ETOOBIG;
    }
    int rv = reserve(frame, padded(at + 4 + len));
    if (rv != NL_OK) {
        return rv;
    }
    put_u32(frame->data + at, (uint32_t)len);
    memcpy(frame->data + at + 4, command, len);
    frame->len = at + 4 + len;
    frame->count++;
    return NL_OK;
}

int nl_frame_finish(struct nl_frame *frame, uint8_t **ret, size_t *ret_len) {
    assert(frame->count > 0);
    size_t total = padded(frame->len);
    // nl_frame_add reserved the padding, so nothing can fail from here on.
    put_u32(frame->data, (uint32_t)(frame->len - NL_FRAME_HEADER_LEN));
    put_u16(frame->data + 4, NL_FRAME_VERSION);
    put_u16(frame->data + 6, (uint16_t)frame->count);
    memset(frame->data + frame->len, 0, total - frame->len);
    *ret = frame->data;
    *ret_len = total;
    nl_frame_init(frame);
    return NL_OK;
}

static bool is_zero(const uint8_t *from, const uint8_t *end) {
    while (from < end) {
        if (*from++ != 0) {
            return false;
        }
    }
    return true;
}

int nl_frame_open(struct nl_frame_reader *ret, const void *data, size_t len) {
    const uint8_t *begin = data;
    if (len < NL_FRAME_HEADER_LEN || len % 8 != 0 || len > padded(NL_FRAME_BYTES_MAX)) {
        return NL_ECORRUPT;
    }
    uint16_t version = get_u16(begin + 4);
    uint32_t count = get_u16(begin + 6);
    size_t payload = get_u32(begin);
    if (version != NL_FRAME_VERSION) {
        return version > NL_FRAME_VERSION ? NL_EVERSION : NL_ECORRUPT;
    }
    if (count == 0 || payload > len || padded(NL_FRAME_HEADER_LEN + payload) != len) {
        return NL_ECORRUPT;
    }
    const uint8_t *at = begin + NL_FRAME_HEADER_LEN;
    const uint8_t *end = at + payload;
    for (uint32_t i = 0; i < count; i++) {
        if (end - at < 4) {
            return NL_ECORRUPT;
        }
        size_t command_len = get_u32(at);
        if (command_len == 0 || command_len > (size_t)(end - at) - 4) {
            return NL_ECORRUPT;
        }
        at += 4 + command_len;
    }
    if (at != end || !is_zero(end, begin + len)) {
        return NL_ECORRUPT;
    }
    ret->at = begin + NL_FRAME_HEADER_LEN;
    ret->left = count;
    return NL_OK;
}

bool nl_frame_next(struct nl_frame_reader *reader, const uint8_t **ret, size_t *ret_len) {
    if (reader->left == 0) {
        return false;
    }
    size_t len = get_u32(reader->at);
    *ret = reader->at + 4;
    *ret_len = len;
    reader->at += 4 + len;
    reader->left--;
    return true;
}
