// What the agent's link is sent: any frames from a server and from its supervisor, in any order,
// between lost calls, lost sockets and time. The core takes each step, and asks for nothing that
// can't be sent.
//
// Input: steps; a byte for the kind, then for frames a length (u16) and the bytes.

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/text.h"
#include "common/rpc/rpc.h"
#include "tests/unit/link/fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fixture f;

static void from_server(const uint8_t *data, size_t len) {
    ProtobufCMessage *frame = NULL;
    if (nl_rpc_unpack(&nodelink__v1__task_request__descriptor, data, len, 1 << 20, &frame) ==
        NL_OK) {
        struct nl_link_event event = {.type = NL_LINK_CALL_MESSAGE,
                                      .call = f.call,
                                      .request = (const Nodelink__V1__TaskRequest *)(void *)frame};
        fx_step(&f, &event);
        nl_rpc_message_free(frame);
    }
}

static void from_supervisor(const uint8_t *data, size_t len) {
    ProtobufCMessage *frame = NULL;
    if (nl_rpc_unpack(&nodelink__v1__from_supervisor__descriptor, data, len, 1 << 20, &frame) ==
        NL_OK) {
        struct nl_link_event event = {
            .type = NL_LINK_SUP_MESSAGE,
            .from_sup = (const Nodelink__V1__FromSupervisor *)(void *)frame};
        fx_step(&f, &event);
        nl_rpc_message_free(frame);
    }
}

static void take_output(void) {
    struct nl_link_output output;
    for (int n = 0; n < 8 && nl_link_core_output_next(f.core, &output); n++) {
        fx_output_sent(&f);
    }
}

static size_t step(const uint8_t *data, size_t size) {
    switch (data[0] % 8) {
        case 0:
            fx_advance(&f, data[0] * 20u);
            return 1;
        case 1:
            fx_closed(&f, f.call, data[0] % 17, "lost");
            return 1;
        case 2:
            fx_sup_down(&f);
            fx_attach(&f, 0);
            return 1;
        case 3:
            fx_headers(&f, f.call, data[0] < 128);
            return 1;
        case 4:
            take_output();
            return 1;
        default:
            break;
    }
    size_t len = size >= 3 ? (size_t)data[1] | (size_t)data[2] << 8 : 0;
    if (size < 3 || len > size - 3) {
        return size;
    }
    if (data[0] % 8 == 5) {
        from_supervisor(data + 3, len);
    } else {
        from_server(data + 3, len);
    }
    return 3 + len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fx_init(&f, "a:1 b:1");
    f.quiet = true;
    fx_up(&f, 3);
    f.quiet = true;
    for (size_t at = 0, n = 0; at < size && n < 100; n++) {
        at += step(data + at, size - at);
    }
    fx_close(&f);
    return 0;
}
