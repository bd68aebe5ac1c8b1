// Shared by the files of this folder only.
//
// Two kinds of thread meet here: the loop thread, which runs the application, and the
// pollers, which run completions of gRPC operations. A field says which may touch it:
//   [const]  written before the object is shared, then read by anybody
//   [lock]   any thread, under the object's mutex
//   [loop]   the loop thread only
//   [poll]   the completion of the one operation that it belongs to
#ifndef NODELINK_COMMON_RPC_INTERNAL_H
#define NODELINK_COMMON_RPC_INTERNAL_H

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/base/err.h"
#include "common/rpc/accept_guard.h"
#include "common/rpc/rpc.h"

#define NL_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

// ThreadSanitizer does not see into gRPC, so it has to be told that what was written before an
// operation was started is there when it completes.
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define NL_RPC_HAND_OUT(op) __tsan_release(op)
#define NL_RPC_HAND_BACK(op) __tsan_acquire(op)
#else
#define NL_RPC_HAND_OUT(op) ((void)(op))
#define NL_RPC_HAND_BACK(op) ((void)(op))
#endif

// ---- process: rpc.c --------------------------------------------------------

// What a gRPC tag points to. Embedded in the object that the operation belongs to, which
// lives at least until `done` was called. `done` runs on a poller.
struct nl_rpc_op {
    void (*done)(struct nl_rpc_op *op, bool ok);
};

// Hand-over to the loop thread. Embedded; posted again while scheduled, it is run once.
struct nl_rpc_node {
    struct nl_rpc_node *next;               // [lock] of nl_rpc
    void (*run)(struct nl_rpc_node *node);  // [const]
    atomic_bool scheduled;
};

#define NL_RPC_POLLERS_MAX 8

struct nl_rpc {
    grpc_completion_queue *queue;  // [const]
    unsigned poller_count;         // [const]
    struct nl_rpc_poller {
        struct nl_rpc *rpc;  // [const]
        pthread_t thread;    // [loop]
        struct nl_rpc_node exited;
    } pollers[NL_RPC_POLLERS_MAX];

    pthread_mutex_t mutex;
    struct nl_rpc_node *head;   // [lock]
    struct nl_rpc_node **tail;  // [lock]
    uv_async_t async;           // uv_async_send by anybody, the rest by the loop

    uv_loop_t *loop;           // [const]
    size_t objects;            // [loop] servers, channels and calls that are not gone
    unsigned pollers_exited;   // [loop]
    bool closing;              // [loop]
    bool queue_shut;           // [loop]
    void (*done)(void *user);  // [loop]
    void *user;                // [loop]
};

// Any thread. False: it was scheduled already.
bool nl_rpc_post(struct nl_rpc *rpc, struct nl_rpc_node *node);
// Loop. Balanced; when the last object is gone a close that waits goes on.
void nl_rpc_object_born(struct nl_rpc *rpc);
void nl_rpc_object_gone(struct nl_rpc *rpc);
// Starts a batch that can only fail through a bug here, and asserts that it did not.
void nl_rpc_start_batch(grpc_call *core, const grpc_op *ops, size_t count, struct nl_rpc_op *op);

// ---- limits ----------------------------------------------------------------

struct nl_rpc_limits {
    uint32_t message_bytes_max;
    uint32_t unpacked_bytes_max;
    uint32_t recv_queue_max;
    uint32_t send_queue_bytes_max;
};
void nl_rpc_limits_default(struct nl_rpc_limits *limits);  // fills in what is 0

// ---- channel arguments: args.c ---------------------------------------------

#define NL_RPC_ARGS_MAX 24
struct nl_rpc_args {
    grpc_arg list[NL_RPC_ARGS_MAX];
    size_t count;
};
void nl_rpc_args_server(struct nl_rpc_args *args, const struct nl_rpc_server_options *options,
                        const struct nl_rpc_limits *limits);
// The strings of options must outlive the use of args.
void nl_rpc_args_channel(struct nl_rpc_args *args, const struct nl_rpc_channel_options *options,
                         const struct nl_rpc_limits *limits);
grpc_channel_args nl_rpc_args_core(struct nl_rpc_args *args);

// ---- metadata: metadata.c --------------------------------------------------

// Owned and NUL-terminated; a NUL inside ends it for its readers. NULL: no memory.
char *nl_rpc_text(const void *data, size_t len);
char *nl_rpc_slice_text(grpc_slice slice);

// Received metadata: NUL-terminated copies in one allocation; free() it.
struct nl_rpc_headers {
    size_t count;
    struct nl_rpc_metadata list[];
};
struct nl_rpc_headers *nl_rpc_headers_copy(const grpc_metadata_array *array);  // NULL: no memory
const char *nl_rpc_headers_get(const struct nl_rpc_headers *headers, const char *key);

// Metadata to send: owns its slices. NL_EINVAL: a key or value that gRPC would refuse.
struct nl_rpc_outgoing {
    size_t count;
    grpc_metadata *list;
};
int nl_rpc_outgoing_init(struct nl_rpc_outgoing *out, const struct nl_rpc_metadata *metadata);
void nl_rpc_outgoing_close(struct nl_rpc_outgoing *out);  // also of a zeroed one

// ---- calls: call.c ---------------------------------------------------------

struct nl_rpc_recv {
    struct nl_rpc_recv *next;
    ProtobufCMessage *message;
    size_t bytes;  // memory that the message takes
};

struct nl_rpc_send {
    struct nl_rpc_send *next;
    grpc_byte_buffer *buffer;
    size_t bytes;
};

enum nl_rpc_event {
    NL_RPC_EV_HEADERS = 1,
    NL_RPC_EV_HALF_CLOSE = 2,
    NL_RPC_EV_WRITABLE = 4,
    NL_RPC_EV_NEW = 8,  // server: a call whose method wants to know before any message
};

// A call's life on the loop:
//
//   NEW --(server: authorized and handed to its method; client: at once)--> OPEN
//   NEW, OPEN --(terminal operation done, no operation in flight, inbox delivered)--> CLOSED
//
// Invariant: `core` is alive exactly until CLOSED; operations exist only before it. So after
// on_closed no poller touches the call, and a server may be destroyed once all its calls are
// closed, no matter who still holds references.
enum nl_rpc_call_state { NL_RPC_CALL_NEW, NL_RPC_CALL_OPEN, NL_RPC_CALL_CLOSED };

struct nl_rpc_route;

struct nl_rpc_call {
    struct nl_rpc *rpc;                           // [const]
    bool is_client;                               // [const]
    struct nl_rpc_server *server;                 // [const] server side; used until CLOSED
    const struct nl_rpc_route *route;             // [const] server side; NULL: no such method
    const ProtobufCMessageDescriptor *recv_type;  // [const]
    const ProtobufCMessageDescriptor *send_type;  // [const]
    struct nl_rpc_limits limits;                  // [const]
    gpr_timespec deadline;                        // [const] monotonic
    char *path;                                   // [const] owned
    grpc_call *core;                              // [const] until CLOSED, see above
    atomic_uint refs;
    struct nl_rpc_node node;

    pthread_mutex_t mutex;
    unsigned ops;     // [lock] operations in flight; each holds a reference
    unsigned events;  // [lock] enum nl_rpc_event, for the loop
    bool terminal;    // [lock] RECV_STATUS or RECV_CLOSE is done
    // receiving
    struct nl_rpc_recv *recv_head, **recv_tail;  // [lock] unpacked, for the loop
    size_t recv_count, recv_bytes;  // [lock] unpacked and not yet taken by the application
    size_t recv_window;             // [lock] RECV is posted only while recv_count is below
    bool recv_inflight;             // [lock]
    bool recv_done;                 // [lock] nothing more will be received
    // sending
    struct nl_rpc_send *send_head, **send_tail;  // [lock] first one may be in flight
    size_t send_bytes;                           // [lock] of the queue
    bool send_inflight;                          // [lock] one batch of send operations at a time
    bool send_message_inflight;  // [lock] the batch in flight has the queue's first message
    bool send_closed;            // [lock] no more sends: ended, half-closed or failed
    bool send_full;              // [lock] NL_EFULL was returned: on_writable is owed
    bool headers_wanted;         // [lock] send the initial metadata even without a message
    bool headers_sent;           // [lock]
    bool end_wanted;             // [lock] status (server) or half-close (client) after the queue
    bool end_sent;               // [lock]
    struct nl_rpc_outgoing outgoing;  // [lock] until headers_sent
    enum nl_rpc_code code;            // [lock] server: to send; client: received
    char *message;                    // [lock] owned; NULL: ""
    uint32_t initial_flags;           // [const] of the initial metadata

    // operations
    struct nl_rpc_op op_send, op_recv, op_headers, op_terminal;
    grpc_byte_buffer *recv_buffer;      // [poll] recv
    grpc_metadata_array recv_headers;   // [poll] headers; client
    grpc_metadata_array recv_trailers;  // [poll] terminal; client
    grpc_status_code recv_code;         // [poll] terminal; client
    grpc_slice recv_details;            // [poll] terminal; client
    int recv_cancelled;                 // [poll] terminal; server

    struct nl_rpc_headers *headers_in;  // [lock] client: the server's initial metadata, new
    struct nl_rpc_headers *headers;     // [loop] received metadata
    // for the loop
    enum nl_rpc_call_state state;             // [loop]
    struct nl_rpc_handler handler;            // [loop]
    void *user;                               // [loop]
    struct nl_rpc_recv *inbox, **inbox_tail;  // [loop] taken from the queue, not yet delivered
    bool paused;                              // [loop]
    bool discard;                             // [loop] ended here: nobody wants what still comes
    bool half_close_due;                      // [loop]
    bool request_seen;                        // [loop] a unary method has got its request
    char *peer, *peer_name;                   // [loop] owned, made when asked for
    bool peer_name_known;                     // [loop]
    struct nl_rpc_channel *channel;           // [loop] client: NULL when it was freed
    struct nl_rpc_call *channel_next, **channel_link;  // [loop]
    nl_rpc_unary_cb unary_done;                        // [loop]
    void *unary_user;                                  // [loop]
    ProtobufCMessage *unary_reply;                     // [poll] terminal, then [loop]
    grpc_byte_buffer *unary_request;                   // [const], then [poll] terminal
};

// One reference, dropped after on_closed. NULL: no memory.
struct nl_rpc_call *nl_rpc_call_new(struct nl_rpc *rpc, bool is_client,
                                    const struct nl_rpc_limits *limits);
void nl_rpc_call_post(struct nl_rpc_call *call);  // any thread
// Any thread; the mutex is held at entry and released. Ends an operation: drops its count and
// its reference, and wakes the loop if there is news for it.
void nl_rpc_call_op_end_unlock(struct nl_rpc_call *call);
// The mutex is held. Counts the operation and takes its reference.
void nl_rpc_call_op_begin(struct nl_rpc_call *call);
// Poller; the mutex is held at entry and released. What the end of the terminal operation means
// on both sides.
void nl_rpc_call_terminal_unlock(struct nl_rpc_call *call);
// Any thread; without the mutex. Ends a server's call with a status, if it isn't ended yet.
void nl_rpc_call_end(struct nl_rpc_call *call, enum nl_rpc_code code, const char *message,
                     bool drop_queue);
// Loop. Everything that waits for the loop.
void nl_rpc_call_run(struct nl_rpc_node *node);
void nl_rpc_message_queue_free(struct nl_rpc_recv *list);

// ---- a call's two directions: recv.c, send.c -------------------------------

// The mutex is held. If RECV is to be posted: marks it, begins its operation, returns true, and
// the caller calls nl_rpc_recv_start after unlocking.
bool nl_rpc_recv_arm(struct nl_rpc_call *call);
void nl_rpc_recv_start(struct nl_rpc_call *call);
void nl_rpc_recv_done(struct nl_rpc_op *op, bool ok);
// Unpacks a gRPC buffer: NL_EINVAL, NL_ETOOBIG, NL_ENOMEM. Takes the buffer.
int nl_rpc_recv_decode(const struct nl_rpc_call *call, grpc_byte_buffer *buffer,
                       struct nl_rpc_recv **ret);

// The mutex is held at entry and released: posts the next batch of sends if there is one and none
// is in flight.
void nl_rpc_send_pump_unlock(struct nl_rpc_call *call);
void nl_rpc_send_done(struct nl_rpc_op *op, bool ok);
// The mutex is held. Frees what is queued and not in flight.
void nl_rpc_send_drop(struct nl_rpc_call *call);
// Loop, without the mutex. Packs and queues without starting to send; errors as nl_rpc_call_send.
int nl_rpc_send_queue(struct nl_rpc_call *call, const ProtobufCMessage *message);
grpc_byte_buffer *nl_rpc_pack(const ProtobufCMessage *message, size_t size);

// unpack.c: as nl_rpc_unpack; *ret_bytes is the memory used.
int nl_rpc_unpack_sized(const ProtobufCMessageDescriptor *descriptor, const uint8_t *data,
                        size_t len, size_t unpacked_bytes_max, ProtobufCMessage **ret,
                        size_t *ret_bytes);

// ---- server: server.c, route.c, accept.c -----------------------------------

struct nl_rpc_route {
    char *path;  // "/package.Service/Method"; owned
    const struct nl_rpc_service *service;
    const struct nl_rpc_method *method;
    const ProtobufCMethodDescriptor *descriptor;
};

struct nl_rpc_routes {
    struct nl_rpc_route *list;  // sorted by path; owned
    size_t count;
};
// Adds the methods of services (ended by descriptor NULL). NL_ENOMEM; NL_EINVAL with a sentence.
int nl_rpc_routes_add(struct nl_rpc_routes *routes, const struct nl_rpc_service *services,
                      char *error_text, size_t error_size);
void nl_rpc_routes_sort(struct nl_rpc_routes *routes);
const struct nl_rpc_route *nl_rpc_routes_find(const struct nl_rpc_routes *routes, const char *path);
void nl_rpc_routes_close(struct nl_rpc_routes *routes);

// How many calls gRPC can hand over at once; above this it queues them.
#define NL_RPC_SLOTS 128

// A call as gRPC hands it over.
struct nl_rpc_arrival {
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array headers;
};

// One posted request for a call.
struct nl_rpc_slot {
    struct nl_rpc_op op;
    struct nl_rpc_server *server;   // [const]
    struct nl_rpc_arrival arrival;  // [poll]
};

struct nl_rpc_health;

struct nl_rpc_server {
    struct nl_rpc *rpc;                     // [const]
    grpc_server *core;                      // [const]
    struct nl_rpc_limits limits;            // [const]
    struct nl_rpc_routes routes;            // [const]
    const struct nl_rpc_service *services;  // [const]
    struct nl_rpc_service builtin[3];       // [const] health, reflection
    struct nl_rpc_tls_files *tls;           // [const] NULL: plain
    struct nl_rpc_health *health;           // [loop]
    uint16_t port;                          // [const]
    atomic_ullong calls_started, calls_open, bad_messages;
    struct nl_rpc_slot slots[NL_RPC_SLOTS];
    struct nl_rpc_op op_shutdown;
    // Completions that will still touch the server: one per slot, one for the shutdown. Who
    // brings it to 0 posts the node, and touches the server no more.
    atomic_uint pending;
    struct nl_rpc_node node;
    struct nl_accept_guard *guard;  // [loop]
    uv_timer_t timer;               // [loop] grace
    bool stopping;                  // [loop]
    bool core_done;                 // [loop] pending is 0
    bool destroyed;                 // [loop]
    void (*done)(void *user);       // [loop]
    void *user;                     // [loop]
};

// Poller: turns a gRPC call into ours. Takes what arrived.
void nl_rpc_accept(struct nl_rpc_server *server, struct nl_rpc_arrival *arrival);
// Loop: authorizes a new call and hands it to its method; if it has `ended` already, nobody
// hears of it.
void nl_rpc_accept_on_loop(struct nl_rpc_call *call, bool ended);
// Loop: the first message of a unary or server-streaming call. Takes message.
void nl_rpc_accept_request(struct nl_rpc_call *call, ProtobufCMessage *message);
// Loop: a call of the server was closed; the server may be waiting for it.
void nl_rpc_server_call_gone(struct nl_rpc_server *server);

// ---- client: client.c ------------------------------------------------------

void nl_rpc_channel_call_gone(struct nl_rpc_call *call);  // loop

// ---- credentials: credentials.c --------------------------------------------

// TLS files and what was last read from them.
struct nl_rpc_tls_files;
// Reads and checks the files. NL_EIO: can't be read; NL_EINVAL: not PEM, or key and certificate
// don't belong together; with a sentence.
int nl_rpc_tls_open(const struct nl_rpc_tls *tls, bool is_server, struct nl_rpc_tls_files **ret,
                    char *error_text, size_t error_size);
void nl_rpc_tls_close(struct nl_rpc_tls_files *files);
// `files` must outlive them.
grpc_server_credentials *nl_rpc_tls_server(struct nl_rpc_tls_files *files);
grpc_channel_credentials *nl_rpc_tls_channel(struct nl_rpc_tls_files *files);
// Reads the files again if they changed; true if there is something new.
bool nl_rpc_tls_reload(struct nl_rpc_tls_files *files);

// ---- builtin services: health.c, reflection.c ------------------------------

struct nl_rpc_health *nl_rpc_health_new(const struct nl_rpc_service *services);  // NULL: no memory
void nl_rpc_health_stop(struct nl_rpc_health *health);                           // ends the watches
void nl_rpc_health_free(struct nl_rpc_health *health);
void nl_rpc_health_set(struct nl_rpc_health *health, const char *service, bool serving);
struct nl_rpc_service nl_rpc_health_service(struct nl_rpc_health *health);
struct nl_rpc_service nl_rpc_reflection_service(struct nl_rpc_server *server);

#endif
