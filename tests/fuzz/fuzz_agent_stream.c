// What an agent may send: any frames in any order, between commits and losses of what the core
// proposes. The core must keep its invariants (the rig asserts them) and end in the end.
#include <string.h>

#include "common/base/err.h"
#include "common/rpc/rpc.h"
#include "tests/unit/server/session_rig.h"

static struct rig rig;

// One byte says what happens next; a frame is its length in two bytes and its encoding.
static size_t step(const uint8_t *data, size_t len) {
    switch (data[0] % 8) {
        case 0:
            rig_commit(&rig);
            return 1;
        case 1:
            rig_lose(&rig, NL_EUNKNOWN);
            return 1;
        case 2:
            rig_wait(&rig, data[0]);
            return 1;
        case 3:
            rig_kind(&rig, NL_SESSION_EV_WRITABLE);
            rig.sends_before_full = data[0] / 8;
            return 1;
        default:
            break;
    }
    size_t frame_len = len >= 3 ? (size_t)data[1] | (size_t)data[2] << 8 : 0;
    if (len < 3 || frame_len > len - 3) {
        return len;
    }
    ProtobufCMessage *frame = NULL;
    if (nl_rpc_unpack(&nodelink__v1__task_response__descriptor, data + 3, frame_len, 1 << 20,
                      &frame) == NL_OK) {
        rig_frame(&rig, (Nodelink__V1__TaskResponse *)(void *)frame);
        nl_rpc_message_free(frame);
    }
    return 3 + frame_len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
    if (len == 0) {
        return 0;
    }
    rig_open(&rig, (data[0] & 1) != 0);
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    if ((data[0] & 2) != 0 && (data[0] & 1) != 0) {
        rig_hello(&rig, 2, "t0", "t9");
    }
    rig_commit(&rig);
    if (nl_session_core_state(rig.core) == NL_SESSION_ACTIVE) {
        rig_submit(&rig, "t1");
        rig_submit(&rig, "t2");
        rig_submit(&rig, "t3");
    }
    for (size_t at = 1, steps = 0; at < len && steps < 200; steps++) {
        rig.text[0] = '\0';
        if (rig.n_pending > RIG_PENDING_MAX / 2) {
            rig_commit(&rig);
        }
        at += step(data + at, len - at);
    }
    rig.text[0] = '\0';
    rig_kind(&rig, NL_SESSION_EV_GONE);
    rig_lose(&rig, NL_ECANCELED);
    rig_wait(&rig, 60000);
    rig_lose(&rig, NL_ECANCELED);
    rig_wait(&rig, 60000);
    assert_true(nl_session_core_finished(rig.core));
    rig_close(&rig);
    return 0;
}
