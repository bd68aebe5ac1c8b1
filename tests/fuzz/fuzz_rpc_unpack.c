// What a peer may send us, for each message type: it is refused, or it unpacks to a message that
// packs, and unpacks to the same bytes again.

#include <nodelink/v1/command.pb-c.h>
#include <nodelink/v1/control.pb-c.h>
#include <nodelink/v1/peer.pb-c.h>
#include <nodelink/v1/task.pb-c.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/rpc/rpc.h"

#define CAP (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
    &nodelink__v1__task_request__descriptor,        &nodelink__v1__task_response__descriptor,
    &nodelink__v1__submit_task_request__descriptor, &nodelink__v1__list_tasks_request__descriptor,
    &nodelink__v1__list_tasks_reply__descriptor,    &nodelink__v1__get_status_reply__descriptor,
    &nodelink__v1__watch_task_event__descriptor,    &nodelink__v1__peer_request__descriptor,
    &nodelink__v1__peer_reply__descriptor,          &nodelink__v1__command__descriptor,
};

static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static uint8_t *pack(const ProtobufCMessage *message, size_t *ret_len) {
    *ret_len = protobuf_c_message_get_packed_size(message);
    uint8_t *out = malloc(*ret_len > 0 ? *ret_len : 1);
    require(out != NULL && protobuf_c_message_pack(message, out) == *ret_len);
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof types[0])];
    ProtobufCMessage *first;
    int rc = nl_rpc_unpack(type, data + 1, size - 1, CAP, &first);
    if (rc != NL_OK) {
        require(rc == NL_EINVAL || rc == NL_ETOOBIG || rc == NL_ENOMEM);
        return 0;
    }
    size_t len, again_len;
    uint8_t *bytes = pack(first, &len);
    ProtobufCMessage *second;
    require(nl_rpc_unpack(type, bytes, len, 64 * CAP, &second) == NL_OK);
    uint8_t *again = pack(second, &again_len);
    require(len == again_len && memcmp(bytes, again, len) == 0);
    free(bytes);
    free(again);
    nl_rpc_message_free(first);
    nl_rpc_message_free(second);
    return 0;
}
