// gRPC core wrapped once. Nothing above this folder includes grpc/*.
//
// Threads: poller threads own the gRPC operations of a call; every function and every
// callback of this header runs on the loop thread, unless it says otherwise. Per call
// there is one hand-off node: a burst of messages wakes the loop once.
//
// Memory: messages are protobuf-c messages. A received message belongs to the handler
// that gets it: it frees it with nl_rpc_message_free. A sent message is packed at once,
// the caller keeps it.
//
// Back-pressure: receiving stops (HTTP/2 flow control) when a call's receive queue is
// full; sending is refused with NL_EFULL when its send queue is full, and on_writable
// tells when there is room again.
#ifndef NODELINK_COMMON_RPC_RPC_H
#define NODELINK_COMMON_RPC_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct nl_rpc;          // gRPC in this process: completion queue, pollers, hand-over to one loop
struct nl_rpc_server;   // one listening server
struct nl_rpc_channel;  // a client's connection (or the will to have one) to one address
struct nl_rpc_call;     // one call, server or client side

// The numbers are gRPC's (google.rpc.Code).
enum nl_rpc_code {
    NL_RPC_OK = 0,
    NL_RPC_CANCELLED = 1,
    NL_RPC_UNKNOWN = 2,
    NL_RPC_INVALID_ARGUMENT = 3,
    NL_RPC_DEADLINE_EXCEEDED = 4,
    NL_RPC_NOT_FOUND = 5,
    NL_RPC_ALREADY_EXISTS = 6,
    NL_RPC_PERMISSION_DENIED = 7,
    NL_RPC_RESOURCE_EXHAUSTED = 8,
    NL_RPC_FAILED_PRECONDITION = 9,
    NL_RPC_ABORTED = 10,
    NL_RPC_OUT_OF_RANGE = 11,
    NL_RPC_UNIMPLEMENTED = 12,
    NL_RPC_INTERNAL = 13,
    NL_RPC_UNAVAILABLE = 14,
    NL_RPC_DATA_LOSS = 15,
    NL_RPC_UNAUTHENTICATED = 16,
};
const char *nl_rpc_code_name(enum nl_rpc_code code);

struct nl_rpc_status {
    enum nl_rpc_code code;
    const char *message;  // never NULL; valid during the callback
};

struct nl_rpc_metadata {
    const char *key;  // lower case
    const char *value;
};

// ---- process ---------------------------------------------------------------

// NL_ENOMEM, NL_EIO. `loop` must outlive it.
int nl_rpc_new(uv_loop_t *loop, struct nl_rpc **ret);
// The same with more than one poller thread, at most 8. One is enough on a small machine; each
// unpacks messages, so many cores may want more.
int nl_rpc_new_with_pollers(uv_loop_t *loop, unsigned pollers, struct nl_rpc **ret);
// Servers must be stopped or stopping, channels freed. Waits for their last calls, shuts the queue
// down, joins the pollers, closes the async handle, then calls `done` and frees.
void nl_rpc_close(struct nl_rpc *rpc, void (*done)(void *user), void *user);

// ---- TLS -------------------------------------------------------------------

// Files are read again at each handshake when they changed: rotation needs no restart.
struct nl_rpc_tls {
    const char *ca_file;  // to verify the peer; on a server: set means clients must have a cert
    const char *cert_file;
    const char *key_file;
    const char *server_name;  // client: name to verify instead of the target's; or NULL
};

// ---- server ----------------------------------------------------------------

enum nl_rpc_kind { NL_RPC_UNARY, NL_RPC_CLIENT_STREAM, NL_RPC_SERVER_STREAM, NL_RPC_BIDI };

// Callbacks of one call. All optional but on_closed for calls that are kept.
struct nl_rpc_handler {
    // Client: the server's initial metadata is here.
    void (*on_headers)(struct nl_rpc_call *call, void *user);
    // Takes the message. A message that can't be decoded never gets here: the server ends
    // the call with INVALID_ARGUMENT (RESOURCE_EXHAUSTED over a limit), the client cancels it.
    void (*on_message)(struct nl_rpc_call *call, void *user, ProtobufCMessage *message);
    // Server: the client will send no more.
    void (*on_half_close)(struct nl_rpc_call *call, void *user);
    // After NL_EFULL: the send queue is under half of its limit.
    void (*on_writable)(struct nl_rpc_call *call, void *user);
    // Exactly once, the last callback. Server: how the call ended as far as known (CANCELLED if
    // the client or its connection went away). Client: the status.
    void (*on_closed)(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status);
};

struct nl_rpc_method {
    const char *name;  // as in the descriptor
    enum nl_rpc_kind kind;
    // UNARY, SERVER_STREAM: called with the request (taken by the callee). The callee answers
    // during the call or later; to answer later it takes a reference with nl_rpc_call_ref.
    void (*request)(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
    // CLIENT_STREAM, BIDI: called when the call arrives, before any message; sets a handler
    // with nl_rpc_call_set_handler or ends the call with nl_rpc_call_finish.
    void (*stream)(struct nl_rpc_call *call, void *user);
};

struct nl_rpc_service {
    const ProtobufCServiceDescriptor *descriptor;
    const struct nl_rpc_method *methods;  // ended by name NULL; a method not listed: UNIMPLEMENTED
    void *user;
    // Called for each call before anything else; false: the hook has ended the call with
    // nl_rpc_call_finish. NULL: no check.
    bool (*authorize)(struct nl_rpc_call *call, void *user);
};

struct nl_rpc_server_options {
    const char *address;                  // "host:port"; port 0: any
    const struct nl_rpc_tls *tls;         // NULL: plain
    uint32_t message_bytes_max;           // 0: 4 MiB
    uint32_t unpacked_bytes_max;          // memory one message may unpack to; 0: 32 MiB
    uint32_t streams_per_connection_max;  // 0: 512
    uint32_t connections_max;       // beyond it connections are accepted and closed; 0: no limit
    uint32_t recv_queue_max;        // messages per call; 0: 64
    uint32_t send_queue_bytes_max;  // per call; 0: 1 MiB
};

// Health (Check, Watch) and reflection are always served. `services` (ended by descriptor
// NULL) must outlive the server. error_text gets a sentence on failure (port in use:
// NL_EBUSY; bad address: NL_EINVAL; TLS files: NL_EIO/NL_EINVAL).
int nl_rpc_server_new(struct nl_rpc *rpc, const struct nl_rpc_server_options *options,
                      const struct nl_rpc_service *services, struct nl_rpc_server **ret,
                      char *error_text, size_t error_size);
uint16_t nl_rpc_server_port(const struct nl_rpc_server *server);
// service "" is the server as a whole.
void nl_rpc_server_set_health(struct nl_rpc_server *server, const char *service, bool serving);
// Stops accepting (GOAWAY), lets calls end for up to grace_ms, cancels the rest, then frees
// the server and calls done.
void nl_rpc_server_stop(struct nl_rpc_server *server, uint32_t grace_ms, void (*done)(void *user),
                        void *user);

struct nl_rpc_server_stats {
    uint64_t connections_refused;  // by the accept guard (no descriptors, or over the cap)
    uint64_t calls_started;
    uint64_t calls_open;
    uint64_t bad_messages;
};
void nl_rpc_server_stats(const struct nl_rpc_server *server, struct nl_rpc_server_stats *ret);

// ---- client ----------------------------------------------------------------

struct nl_rpc_channel_options {
    const struct nl_rpc_tls *tls;     // NULL: plain
    uint32_t message_bytes_max;       // 0: 4 MiB
    uint32_t unpacked_bytes_max;      // 0: 32 MiB
    uint32_t recv_queue_max;          // 0: 64
    uint32_t send_queue_bytes_max;    // 0: 1 MiB
    uint32_t connect_backoff_ms_max;  // gRPC's own reconnect backoff cap; 0: gRPC's default
};
// Never fails on an unreachable address (calls do). `target`: "host:port". Its own connection,
// shared with no other channel.
int nl_rpc_channel_new(struct nl_rpc *rpc, const char *target,
                       const struct nl_rpc_channel_options *options, struct nl_rpc_channel **ret);
// Open calls are cancelled; their on_closed still comes.
void nl_rpc_channel_free(struct nl_rpc_channel *channel);
// Tries to connect at once instead of waiting out gRPC's backoff.
void nl_rpc_channel_reset_backoff(struct nl_rpc_channel *channel);
// Is the transport up (TCP, TLS, HTTP/2)? A server that has nothing to say on a stream may send
// no headers for hours; this tells it from one that is not there.
bool nl_rpc_channel_is_connected(const struct nl_rpc_channel *channel);

struct nl_rpc_call_options {
    const struct nl_rpc_metadata *metadata;  // ended by key NULL; or NULL
    uint64_t timeout_ms;                     // 0: no deadline
    bool wait_for_ready;
};

// Starts a call. on_closed comes in every case once NL_OK was returned.
int nl_rpc_call_start(struct nl_rpc_channel *channel, const ProtobufCServiceDescriptor *service,
                      const char *method, const struct nl_rpc_call_options *options,
                      const struct nl_rpc_handler *handler, void *user, struct nl_rpc_call **ret);
void nl_rpc_call_half_close(struct nl_rpc_call *call);  // after what is queued

// One request, one reply. `done` gets the reply (taken; NULL unless status is OK), exactly once.
// ret_call may be NULL; otherwise it is valid until done and may be cancelled.
typedef void (*nl_rpc_unary_cb)(void *user, const struct nl_rpc_status *status,
                                ProtobufCMessage *reply);
int nl_rpc_unary(struct nl_rpc_channel *channel, const ProtobufCServiceDescriptor *service,
                 const char *method, const struct nl_rpc_call_options *options,
                 const ProtobufCMessage *request, nl_rpc_unary_cb done, void *user,
                 struct nl_rpc_call **ret_call);

// ---- both ------------------------------------------------------------------

void nl_rpc_call_set_handler(struct nl_rpc_call *call, const struct nl_rpc_handler *handler,
                             void *user);
// A reference keeps the pointer valid after on_closed; calls on a closed call do nothing.
void nl_rpc_call_ref(struct nl_rpc_call *call);
void nl_rpc_call_unref(struct nl_rpc_call *call);

// NL_OK; NL_EFULL: queue full, nothing queued; NL_ETOOBIG: over the limit; NL_ECLOSED.
int nl_rpc_call_send(struct nl_rpc_call *call, const ProtobufCMessage *message);
size_t nl_rpc_call_queued_bytes(const struct nl_rpc_call *call);
// Server: initial metadata, at most once and before the first send; else it goes by itself.
int nl_rpc_call_send_headers(struct nl_rpc_call *call, const struct nl_rpc_metadata *metadata);
// Server: ends the call after what is queued was sent.
void nl_rpc_call_finish(struct nl_rpc_call *call, enum nl_rpc_code code, const char *message);
// Server: sends message, then finishes with OK.
void nl_rpc_call_reply(struct nl_rpc_call *call, const ProtobufCMessage *message);
void nl_rpc_call_cancel(struct nl_rpc_call *call);
// Stops and restarts on_message and on_half_close (flow control reaches the peer). A call that
// ends badly while it is paused is closed at once, what it had received is dropped.
void nl_rpc_call_pause(struct nl_rpc_call *call);
void nl_rpc_call_resume(struct nl_rpc_call *call);

// First value of a metadata key: on a server the client's, on a client the server's initial
// metadata. NULL if absent. Valid while the call is.
const char *nl_rpc_call_metadata(const struct nl_rpc_call *call, const char *key);
const char *nl_rpc_call_peer(const struct nl_rpc_call *call);  // address, for logs
// Common name of the peer's verified certificate; NULL without mutual TLS.
const char *nl_rpc_call_peer_name(const struct nl_rpc_call *call);
const char *nl_rpc_call_method(const struct nl_rpc_call *call);  // "/package.Service/Method"
// Time left until the client's deadline in ms; UINT64_MAX: none.
uint64_t nl_rpc_call_time_left_ms(const struct nl_rpc_call *call);
bool nl_rpc_call_is_closed(const struct nl_rpc_call *call);
void *nl_rpc_call_user(const struct nl_rpc_call *call);

void nl_rpc_message_free(ProtobufCMessage *message);  // NULL is allowed

// Unpacks with a memory cap and validates: enums known in proto2 sense are not enforced (proto3),
// but strings must be UTF-8 without NUL. NL_EINVAL, NL_ETOOBIG (over the cap), NL_ENOMEM. Usable
// without a running nl_rpc and on any thread: the fuzz targets call it.
int nl_rpc_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data, size_t len,
                  size_t unpacked_bytes_max, ProtobufCMessage **ret);

#endif
