// Frames between link and supervisor: any bytes are a message, need more bytes, or are refused;
// both directions. A decoded message is encoded again to the same meaning.

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "agent/supervisor/client.h"
#include "common/base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const ProtobufCMessage *message) {
    struct nl_buf out;
    nl_buf_init(&out, 0);
    int rv = nl_sup_frame_encode(&out, message);
    // Encoding may be longer than what was decoded (non-minimal input is normalised), so only
    // the size can stand in the way.
    assert(rv == NL_OK || rv == NL_ETOOBIG);
    if (rv == NL_OK) {
        const uint8_t *payload = NULL;
        size_t len = 0, used = 0;
        assert(nl_sup_frame_decode(out.data, out.len, &payload, &len, &used) == NL_OK);
        assert(used == out.len && len + NL_SUP_FRAME_HEADER == used);
    }
    nl_buf_close(&out);
}

static void decode_all_to(const uint8_t *data, size_t size) {
    for (size_t at = 0;;) {
        Nodelink__V1__ToSupervisor *m = NULL;
        size_t used = 0;
        if (nl_sup_decode_to(data + at, size - at, &m, &used) != NL_OK) {
            return;
        }
        assert(used >= NL_SUP_FRAME_HEADER && used <= size - at);
        round_trip(&m->base);
        nodelink__v1__to_supervisor__free_unpacked(m, NULL);
        at += used;
    }
}

static void decode_all_from(const uint8_t *data, size_t size) {
    for (size_t at = 0;;) {
        Nodelink__V1__FromSupervisor *m = NULL;
        size_t used = 0;
        if (nl_sup_decode_from(data + at, size - at, &m, &used) != NL_OK) {
            return;
        }
        assert(used >= NL_SUP_FRAME_HEADER && used <= size - at);
        round_trip(&m->base);
        nodelink__v1__from_supervisor__free_unpacked(m, NULL);
        at += used;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    decode_all_to(data, size);
    decode_all_from(data, size);
    return 0;
}
