// Channel arguments, and the reasons for their values.

#include <assert.h>

#include "common/rpc/internal.h"

// A dead peer is noticed within 13 s, also while no call is open.
#define KEEPALIVE_MS 10000
#define KEEPALIVE_TIMEOUT_MS 3000
// Clients ping every 10 s; gRPC's default minimum (5 min) would cut them off for it.
#define PING_INTERVAL_MIN_MS 5000
// A connection that says nothing holds a descriptor for so long.
#define HANDSHAKE_TIMEOUT_MS 10000
#define METADATA_BYTES_MAX (16 * 1024)
// What one stream may have in flight towards us beyond the posted RECV.
#define LOOKAHEAD_BYTES (256 * 1024)
// gRPC's default of 16 KiB cuts a chunk of output into 16 frames, each with its own reads.
#define FRAME_BYTES_MAX (256 * 1024)

static void add_int(struct nl_rpc_args *args, const char *key, int value) {
    assert(args->count < NL_RPC_ARGS_MAX);
    grpc_arg *arg = &args->list[args->count++];
    *arg = (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key};
    arg->value.integer = value;
}

static void add_string(struct nl_rpc_args *args, const char *key, const char *value) {
    assert(args->count < NL_RPC_ARGS_MAX);
    grpc_arg *arg = &args->list[args->count++];
    *arg = (grpc_arg){.type = GRPC_ARG_STRING, .key = (char *)(uintptr_t)key};
    arg->value.string = (char *)(uintptr_t)value;
}

static int as_int(uint32_t value) {
    return value > INT32_MAX ? INT32_MAX : (int)value;
}

static void add_common(struct nl_rpc_args *args, const struct nl_rpc_limits *limits) {
    add_int(args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, as_int(limits->message_bytes_max));
    add_int(args, GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, as_int(limits->message_bytes_max));
    add_int(args, GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES_MAX);
    add_int(args, GRPC_ARG_KEEPALIVE_TIME_MS, KEEPALIVE_MS);
    add_int(args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, KEEPALIVE_TIMEOUT_MS);
    add_int(args, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    // With the default of 2 a stopped peer goes unnoticed: the third ping waits for data.
    add_int(args, GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    // The probe grows a stream's window to megabytes that nobody asked for.
    add_int(args, GRPC_ARG_HTTP2_BDP_PROBE, 0);
    add_int(args, GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, LOOKAHEAD_BYTES);
    add_int(args, GRPC_ARG_HTTP2_MAX_FRAME_SIZE, FRAME_BYTES_MAX);
}

void nl_rpc_args_server(struct nl_rpc_args *args, const struct nl_rpc_server_options *options,
                        const struct nl_rpc_limits *limits) {
    args->count = 0;
    add_common(args, limits);
    add_int(args, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, PING_INTERVAL_MIN_MS);
    uint32_t streams = options->streams_per_connection_max;
    add_int(args, GRPC_ARG_MAX_CONCURRENT_STREAMS, streams > 0 ? as_int(streams) : 512);
    add_int(args, GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS);
    // Otherwise two servers share one port and nobody is told.
    add_int(args, GRPC_ARG_ALLOW_REUSEPORT, 0);
}

void nl_rpc_args_channel(struct nl_rpc_args *args, const struct nl_rpc_channel_options *options,
                         const struct nl_rpc_limits *limits) {
    args->count = 0;
    add_common(args, limits);
    add_int(args, GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // A retry below us would make "may have happened" out of "did not happen" (P13), and it
    // buffers what was sent.
    add_int(args, GRPC_ARG_ENABLE_RETRIES, 0);
    // The addresses are those of our own nodes and agents; a proxy in the environment is not
    // meant for them. And no TXT look-ups for service configs.
    add_int(args, GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    add_int(args, GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
    uint32_t backoff = options->connect_backoff_ms_max;
    if (backoff > 0) {
        uint32_t initial = backoff < 1000 ? backoff : 1000;
        add_int(args, GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, as_int(initial));
        add_int(args, GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, as_int(initial));
        add_int(args, GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, as_int(backoff));
    }
    if (options->tls != NULL && options->tls->server_name != NULL) {
        add_string(args, GRPC_SSL_TARGET_NAME_OVERRIDE_ARG, options->tls->server_name);
    }
}

grpc_channel_args nl_rpc_args_core(struct nl_rpc_args *args) {
    return (grpc_channel_args){.num_args = args->count, .args = args->list};
}

void nl_rpc_limits_default(struct nl_rpc_limits *limits) {
    if (limits->message_bytes_max == 0) {
        limits->message_bytes_max = 4u << 20;
    }
    if (limits->unpacked_bytes_max == 0) {
        limits->unpacked_bytes_max = 32u << 20;
    }
    if (limits->recv_queue_max == 0) {
        limits->recv_queue_max = 64;
    }
    if (limits->send_queue_bytes_max == 0) {
        limits->send_queue_bytes_max = 1u << 20;
    }
}
