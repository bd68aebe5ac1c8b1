// The link's side of the supervisor: where its socket is, how messages are framed, how to
// start it. Plain functions without threads or gRPC: usable before anything is initialised.
//
// A link does: nl_supervisor_spawn (a supervisor that already runs is left alone), connect to
// nl_sup_socket_path with retries until the new process listens, send SupAttach, then read
// SupAttached and one SupTask per known task, then changes as they happen.
#ifndef NODELINK_AGENT_SUPERVISOR_CLIENT_H
#define NODELINK_AGENT_SUPERVISOR_CLIENT_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/buf.h"

// Payload limit of a frame, both ways: a SupRun carries argv and environment of one task.
#define NL_SUP_FRAME_BYTES_MAX (1024u * 1024u)
#define NL_SUP_FRAME_HEADER 4u
#define NL_SUP_PROTOCOL_VERSION 1u

// STATE_DIR/supervisor.sock; owned, NULL: no memory. A socket's path has at most 107 bytes:
// NL_ETOOBIG from nl_sup_socket_path_check says so before a confusing bind error does.
char *nl_sup_socket_path(const char *state_dir);
int nl_sup_socket_path_check(const char *state_dir);

// Appends header and packed message. NL_ENOMEM, NL_ETOOBIG (message over the frame limit, or
// the buffer over its own limit); on failure the buffer is unchanged.
int nl_sup_frame_encode(struct nl_buf *out, const ProtobufCMessage *message);
// Looks at the front of received bytes. NL_OK: *ret_payload (borrowed from `data`) holds one
// message of *ret_len bytes, the frame takes *ret_used bytes. NL_EAGAIN: more bytes needed.
// NL_ETOOBIG: the length is over the limit, the connection is beyond repair.
int nl_sup_frame_decode(const void *data, size_t len, const uint8_t **ret_payload, size_t *ret_len,
                        size_t *ret_used);

// Convenience over the two: owned messages, free with *__free_unpacked(m, NULL). NL_EAGAIN,
// NL_ETOOBIG, NL_EINVAL (no such message: drop the connection).
int nl_sup_decode_from(const void *data, size_t len, Nodelink__V1__FromSupervisor **ret,
                       size_t *ret_used);
int nl_sup_decode_to(const void *data, size_t len, Nodelink__V1__ToSupervisor **ret,
                     size_t *ret_used);

// Starts `self_exe args...` detached: double fork, new session, every descriptor closed but
// stdin (/dev/null) and stdout/stderr, which both become log_file (appended; NULL: this
// process's stderr). `args` ends with NULL and begins with argv[0]. Returns when the exec
// happened: NL_OK, or the reason it did not. Whether the new process found another one
// holding the state directory is its own business (it exits with 3). Call it only while
// this process has no other threads; *ret_pid (may be NULL) is not a child of the caller.
int nl_supervisor_spawn(const char *self_exe, char *const args[], const char *log_file,
                        pid_t *ret_pid);

// Pid of the supervisor that holds the state directory, 0: none. NL_EIO etc.
int nl_supervisor_running(const char *state_dir, pid_t *ret_pid);

#endif
