// The journal's decoder. Once on the bytes as they are, and once on a journal whose checksums
// are right and whose records the input chooses, so that the fuzzer gets behind them. What a
// scan calls good scans whole, to the same records.

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/supervisor/journal_format.h"
#include "common/base/err.h"
#include "common/base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NONCE = 7, JOURNAL_BYTES = 16384 };

static int count(void *user, const struct sup_record *r) {
    assert(nl_text_id_ok(r->id));
    *(size_t *)user += 1;
    return NL_OK;
}

static void scan(const uint8_t *data, size_t len) {
    struct sup_journal_scan first, again;
    size_t records = 0, records_again = 0;
    sup_journal_scan(data, len, count, &records, &first);
    assert(first.good <= len);
    assert(first.verdict != SUP_JOURNAL_WHOLE || first.good == len);
    if (first.good == 0) {
        return;
    }
    sup_journal_scan(data, (size_t)first.good, count, &records_again, &again);
    assert(again.verdict == SUP_JOURNAL_WHOLE);
    assert(records_again == records);
}

// Input: for each record its type, the length of its payload, the payload.
static size_t build(uint8_t *out, const uint8_t *data, size_t size) {
    size_t len = SUP_JOURNAL_HEADER;
    sup_journal_encode_header(NONCE, out);
    while (size >= 2) {
        size_t body = data[1] < size - 2 ? data[1] : size - 2;
        if (len + SUP_RECORD_HEADER + body > JOURNAL_BYTES) {
            break;
        }
        memcpy(out + len + SUP_RECORD_HEADER, data + 2, body);
        sup_journal_seal(out + len, body, data[0], NONCE, len);
        len += SUP_RECORD_HEADER + body;
        data += 2 + body;
        size -= 2 + body;
    }
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *built = malloc(JOURNAL_BYTES);
    scan(data, size);
    if (built != NULL) {
        size_t len = build(built, data, size);
        // Of exactly this size, so that a sanitizer sees a read beyond its end.
        uint8_t *exact = realloc(built, len);
        scan(exact, len);
        free(exact);
    }
    return 0;
}
