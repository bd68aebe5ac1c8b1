#include "agent/supervisor/journal_format.h"

#include <nodelink/v1/task.pb-c.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "agent/supervisor/convert.h"
#include "common/base/err.h"
#include "common/base/text.h"

static const uint8_t magic[8] = {'N', 'L', 'S', 'U', 'P', 'J', '\r', '\n'};

enum { SECTOR = 512, PAYLOAD_MAX = 64 * 1024 };

static void put_u32(uint8_t *at, uint32_t v) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(v >> (8 * i));
    }
}

static void put_u64(uint8_t *at, uint64_t v) {
    put_u32(at, (uint32_t)v);
    put_u32(at + 4, (uint32_t)(v >> 32));
}

static uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t get_u64(const uint8_t *at) {
    return (uint64_t)get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

// ---- encoding --------------------------------------------------------------

void sup_journal_encode_header(uint64_t nonce, uint8_t out[SUP_JOURNAL_HEADER]) {
    memset(out, 0, SUP_JOURNAL_HEADER);
    memcpy(out, magic, sizeof magic);
    put_u32(out + 8, SUP_JOURNAL_VERSION);
    put_u64(out + 16, nonce);
    put_u64(out + 24, XXH64(out, 24, 0));
}

static int append_u32(struct nl_buf *out, uint32_t v) {
    uint8_t bytes[4];
    put_u32(bytes, v);
    return nl_buf_append(out, bytes, sizeof bytes);
}

static int append_u64(struct nl_buf *out, uint64_t v) {
    uint8_t bytes[8];
    put_u64(bytes, v);
    return nl_buf_append(out, bytes, sizeof bytes);
}

static int append_all_u64(struct nl_buf *out, const uint64_t *v, size_t n) {
    int rv = NL_OK;
    for (size_t i = 0; i < n && rv == NL_OK; i++) {
        rv = append_u64(out, v[i]);
    }
    return rv;
}

static int append_result(struct nl_buf *out, const struct sup_result *r) {
    struct sup_result_message m;
    sup_result_to_message(r, &m);
    size_t len = nodelink__v1__task_result__get_packed_size(&m.message);
    int rv = nl_buf_reserve(out, len);
    if (rv == NL_OK) {
        out->len += nodelink__v1__task_result__pack(&m.message, out->data + out->len);
    }
    return rv;
}

static int append_body(struct nl_buf *out, const struct sup_record *r) {
    int rv;
    switch (r->type) {
        case SUP_REC_INTENT:
            rv = append_all_u64(out, (uint64_t[]){r->epoch, r->timeout_ms, r->grace_ms}, 3);
            return rv == NL_OK ? nl_buf_append(out, r->digest, sizeof r->digest) : rv;
        case SUP_REC_STARTED:
            rv = append_all_u64(
                out, (uint64_t[]){(uint64_t)r->pid, r->pid_start, r->started_wall_ms}, 3);
            return rv == NL_OK ? nl_buf_append(out, r->boot, sizeof r->boot) : rv;
        case SUP_REC_RESULT:
            return append_result(out, &r->result);
        case SUP_REC_DROPPED:
            return append_all_u64(out, r->base, 2);
        case SUP_REC_FORGOTTEN:
        case SUP_REC_SPENT:
            return NL_OK;
    }
    return NL_EINVAL;
}

static int append_payload(struct nl_buf *out, const struct sup_record *r) {
    uint8_t id_len = (uint8_t)strlen(r->id);
    int rv = nl_buf_append(out, &id_len, 1);
    if (rv == NL_OK) {
        rv = nl_buf_append(out, r->id, id_len);
    }
    if (rv == NL_OK) {
        rv = append_u32(out, r->attempt);
    }
    return rv == NL_OK ? append_body(out, r) : rv;
}

void sup_journal_seal(uint8_t *record, size_t len, uint32_t type, uint64_t nonce,
                      uint64_t durable) {
    put_u32(record, (uint32_t)len);
    put_u32(record + 4, type);
    put_u64(record + 8, durable);
    put_u64(record + 16, XXH64(record + SUP_RECORD_HEADER, len, nonce));
    put_u64(record + 24, XXH64(record, 24, nonce));
}

int sup_journal_encode(struct nl_buf *out, const struct sup_record *r, uint64_t nonce,
                       uint64_t durable) {
    uint8_t head[SUP_RECORD_HEADER] = {0};
    size_t start = out->len;
    int rv = nl_buf_append(out, head, sizeof head);
    if (rv == NL_OK) {
        rv = append_payload(out, r);
    }
    if (rv != NL_OK) {
        out->len = start;
        return rv;
    }
    size_t len = out->len - start - sizeof head;
    sup_journal_seal(out->data + start, len, (uint32_t)r->type, nonce, durable);
    return NL_OK;
}

// ---- decoding --------------------------------------------------------------

struct reader {
    const uint8_t *at;
    size_t left;
    bool bad;
};

static const uint8_t *take_bytes(struct reader *r, size_t n) {
    if (r->bad || r->left < n) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    r->at += n;
    r->left -= n;
    return at;
}

static uint64_t take_u64(struct reader *r) {
    const uint8_t *at = take_bytes(r, 8);
    return at != NULL ? get_u64(at) : 0;
}

static void take_copy(struct reader *r, void *out, size_t n) {
    const uint8_t *at = take_bytes(r, n);
    if (at != NULL) {
        memcpy(out, at, n);
    }
}

static void decode_result(struct reader *r, struct sup_result *out) {
    Nodelink__V1__TaskResult *m = nodelink__v1__task_result__unpack(NULL, r->left, r->at);
    if (m == NULL || sup_result_from_message(m, out) != NL_OK) {
        r->bad = true;
    }
    if (m != NULL) {
        nodelink__v1__task_result__free_unpacked(m, NULL);
    }
    r->left = 0;
}

static void decode_key(struct reader *r, struct sup_record *out) {
    const uint8_t *id_len = take_bytes(r, 1);
    if (id_len == NULL || *id_len > SUP_ID_LEN_MAX) {
        r->bad = true;
        return;
    }
    take_copy(r, out->id, *id_len);
    const uint8_t *attempt = take_bytes(r, 4);
    out->attempt = attempt != NULL ? get_u32(attempt) : 0;
    if (strlen(out->id) != *id_len || !nl_text_id_ok(out->id)) {
        r->bad = true;
    }
}

static int decode_record(uint32_t type, const uint8_t *payload, size_t len,
                         struct sup_record *out) {
    struct reader r = {.at = payload, .left = len};
    memset(out, 0, sizeof *out);
    out->type = (enum sup_record_type)type;
    decode_key(&r, out);
    switch (r.bad ? 0 : type) {
        case SUP_REC_INTENT:
            out->epoch = take_u64(&r);
            out->timeout_ms = take_u64(&r);
            out->grace_ms = take_u64(&r);
            take_copy(&r, out->digest, sizeof out->digest);
            break;
        case SUP_REC_STARTED:
            out->pid = (int32_t)take_u64(&r);
            out->pid_start = take_u64(&r);
            out->started_wall_ms = take_u64(&r);
            take_copy(&r, out->boot, sizeof out->boot);
            break;
        case SUP_REC_RESULT:
            decode_result(&r, &out->result);
            break;
        case SUP_REC_DROPPED:
            out->base[0] = take_u64(&r);
            out->base[1] = take_u64(&r);
            break;
        case SUP_REC_FORGOTTEN:
        case SUP_REC_SPENT:
            break;
        default:
            return NL_EINVAL;
    }
    return r.bad || r.left != 0 ? NL_EINVAL : NL_OK;
}

static bool head_ok(const uint8_t *head, uint64_t nonce) {
    return get_u64(head + 24) == XXH64(head, 24, nonce) && get_u32(head) <= PAYLOAD_MAX;
}

// Whether [from, to) has a whole disk sector (or what the range has of it) of zeros: what a
// power loss leaves of an append whose length was recorded before its data.
static bool has_zero_sector(const uint8_t *data, size_t len, size_t from, size_t to) {
    for (size_t at = from; at < to;) {
        size_t end = (at / SECTOR + 1) * SECTOR;
        end = end > len ? len : end;
        size_t i = at;
        while (i < end && data[i] == 0) {
            i++;
        }
        if (i == end) {
            return true;
        }
        at = end;
    }
    return false;
}

// Whether any record after `from` was written when the bytes at `from` were already durable.
static bool durable_since(const uint8_t *data, size_t len, size_t from, uint64_t nonce) {
    for (size_t at = from + 1; at + SUP_RECORD_HEADER <= len; at++) {
        if (head_ok(data + at, nonce) && get_u64(data + at + 8) > from) {
            return true;
        }
    }
    return false;
}

static void bad_record(const uint8_t *data, size_t len, size_t at, size_t end, bool is_short,
                       struct sup_journal_scan *ret) {
    end = end > len ? len : end;
    bool torn = is_short || has_zero_sector(data, len, at, end);
    bool durable = durable_since(data, len, at, ret->nonce);
    ret->verdict = torn && !durable ? SUP_JOURNAL_TORN : SUP_JOURNAL_CORRUPT;
    ret->why = durable ? "a durable record is damaged" : "a record's checksum is wrong";
    if (ret->verdict == SUP_JOURNAL_TORN) {
        ret->why = "the last append was cut short";
    }
}

static bool scan_header(const uint8_t *data, size_t len, struct sup_journal_scan *ret) {
    ret->good = 0;
    ret->verdict = SUP_JOURNAL_CORRUPT;
    // The header is written whole, with fsync and rename: no crash leaves a part of it.
    if (len < SUP_JOURNAL_HEADER || memcmp(data, magic, sizeof magic) != 0) {
        ret->why = "this is not a journal";
        return false;
    }
    if (get_u64(data + 24) != XXH64(data, 24, 0)) {
        ret->why = "the header's checksum is wrong";
        return false;
    }
    if (get_u32(data + 8) != SUP_JOURNAL_VERSION) {
        ret->verdict = SUP_JOURNAL_VERSION_UNKNOWN;
        ret->why = "it was written by another version";
        return false;
    }
    ret->nonce = get_u64(data + 16);
    ret->good = SUP_JOURNAL_HEADER;
    return true;
}

void sup_journal_scan(const uint8_t *data, size_t len, sup_journal_take take, void *user,
                      struct sup_journal_scan *ret) {
    memset(ret, 0, sizeof *ret);
    if (!scan_header(data, len, ret)) {
        return;
    }
    ret->verdict = SUP_JOURNAL_WHOLE;
    while (ret->good < len) {
        size_t at = ret->good, left = len - at;
        if (left < SUP_RECORD_HEADER || !head_ok(data + at, ret->nonce)) {
            bad_record(data, len, at, at + SUP_RECORD_HEADER, left < SUP_RECORD_HEADER, ret);
            return;
        }
        const uint8_t *head = data + at, *payload = head + SUP_RECORD_HEADER;
        size_t body = get_u32(head), total = SUP_RECORD_HEADER + body;
        if (left < total || XXH64(payload, body, ret->nonce) != get_u64(head + 16)) {
            bad_record(data, len, at, at + total, left < total, ret);
            return;
        }
        struct sup_record record;
        if (decode_record(get_u32(head + 4), payload, body, &record) != NL_OK) {
            ret->verdict = SUP_JOURNAL_CORRUPT;
            ret->why = "a record's content is malformed";
            return;
        }
        if (take != NULL && take(user, &record) != NL_OK) {
            ret->verdict = SUP_JOURNAL_REJECTED;
            ret->why = "a record contradicts the ones before it";
            return;
        }
        ret->good += total;
    }
}
