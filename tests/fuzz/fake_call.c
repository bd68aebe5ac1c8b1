#include "tests/fuzz/fake_call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"

void fuzz_require(bool condition, const char *text) {
    if (!condition) {
        fprintf(stderr, "not so: %s\n", text);
        abort();
    }
}

void fake_call_check(const struct nl_rpc_call *call) {
    fuzz_require(call->replies + call->ends == 1, "a call is answered once");
    fuzz_require(call->refs == 0, "a call that was answered is let go");
}

// What is sent must be a message that anybody can read.
static void check_message(const ProtobufCMessage *message) {
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *data = malloc(len > 0 ? len : 1);
    ProtobufCMessage *again = NULL;
    fuzz_require(data != NULL && protobuf_c_message_pack(message, data) == len, "it packs");
    fuzz_require(nl_rpc_unpack(message->descriptor, data, len, 64 << 20, &again) == 0,
                 "it unpacks");
    nl_rpc_message_free(again);
    free(data);
}

void nl_rpc_call_ref(struct nl_rpc_call *call) {
    call->refs++;
}

void nl_rpc_call_unref(struct nl_rpc_call *call) {
    fuzz_require(call->refs > 0, "a reference is given back once");
    call->refs--;
}

void nl_rpc_call_reply(struct nl_rpc_call *call, const ProtobufCMessage *message) {
    check_message(message);
    call->replies++;
}

int nl_rpc_call_send(struct nl_rpc_call *call, const ProtobufCMessage *message) {
    check_message(message);
    call->messages++;
    return 0;
}

void nl_rpc_call_finish(struct nl_rpc_call *call, enum nl_rpc_code code, const char *message) {
    fuzz_require(message == NULL || nl_text_utf8_ok(message, strlen(message)),
                 "the status is UTF-8");
    fuzz_require(code != NL_RPC_INTERNAL, "no input is an internal error");
    call->code = code;
    call->ends++;
}

void nl_rpc_call_cancel(struct nl_rpc_call *call) {
    call->cancelled = true;
}

void nl_rpc_call_set_handler(struct nl_rpc_call *call, const struct nl_rpc_handler *handler,
                             void *user) {
    call->handler = handler;
    call->user = user;
}

const char *nl_rpc_call_metadata(const struct nl_rpc_call *call, const char *key) {
    for (size_t i = 0; i < 4 && call->keys[i] != NULL; i++) {
        if (strcmp(call->keys[i], key) == 0) {
            return call->values[i];
        }
    }
    return NULL;
}

const char *nl_rpc_call_peer(const struct nl_rpc_call *call) {
    return call->peer;
}

const char *nl_rpc_call_method(const struct nl_rpc_call *call) {
    (void)call;
    return "/nodelink.v1.Fuzz/Call";
}

uint64_t nl_rpc_call_time_left_ms(const struct nl_rpc_call *call) {
    return call->time_left_ms;
}

bool nl_rpc_call_is_closed(const struct nl_rpc_call *call) {
    return call->cancelled;
}

void *nl_rpc_call_user(const struct nl_rpc_call *call) {
    return call->user;
}

size_t nl_rpc_call_queued_bytes(const struct nl_rpc_call *call) {
    (void)call;
    return 0;
}

void nl_rpc_call_pause(struct nl_rpc_call *call) {
    (void)call;
}

void nl_rpc_call_resume(struct nl_rpc_call *call) {
    (void)call;
}
