// Reading a task's output, wherever its agent's stream is: at this node (a subscription at the
// agent, or what a stock agent pushed), or at another one (PeerService.ReadOutput).
//
// Loop thread. Credit: a reader delivers at most NL_OUTPUT_WINDOW bytes that its consumer has not
// given back with nl_output_credit. No callback comes from inside nl_output_open; a reader may be
// closed inside its own callbacks.
#ifndef NODELINK_SERVER_OUTPUT_H
#define NODELINK_SERVER_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/server.h"

enum { NL_OUTPUT_WINDOW = 1024 * 1024, NL_OUTPUT_CHUNK_MAX = 256 * 1024 };
enum nl_stream { NL_STDOUT, NL_STDERR };

enum nl_output_why {
    NL_OUTPUT_COMPLETE,  // the task has ended and every byte up to `total` was delivered
    NL_OUTPUT_GONE,      // nobody has (more of) it
    NL_OUTPUT_GAP,       // bytes before `base` are gone; open again from there
    NL_OUTPUT_BROKEN,    // the way there broke; open again where it stopped
};

struct nl_output_end {
    enum nl_output_why why;
    uint64_t total[2], base[2];  // by enum nl_stream; where known
    const char *message;         // never NULL; valid during the callback
};

struct nl_output_request {
    const char *task_id;
    uint32_t attempt;
    uint64_t offset[2];
};

struct nl_output_events {
    // Bytes that begin at `offset` of the stream; borrowed.
    void (*on_data)(void *user, enum nl_stream stream, uint64_t offset, const uint8_t *data,
                    size_t len);
    // The last callback; the reader is gone after it.
    void (*on_end)(void *user, const struct nl_output_end *end);
};

// Common head of the kinds of readers.
struct nl_output_reader {
    void (*credit)(struct nl_output_reader *reader, size_t bytes);
    void (*close)(struct nl_output_reader *reader);  // frees
    const struct nl_output_events *events;
    void *user;
    struct nl_outputs *outputs;
    bool delivering, closed;  // inside a callback; to be freed after it
};

struct nl_outputs *nl_outputs_new(struct nl_server *server);  // NULL: no memory
void nl_outputs_free(struct nl_outputs *outputs);             // no readers; NULL is allowed

// local_only: never asks another node. NL_ENOTFOUND: no such task; NL_EAGAIN: its agent is not
// connected, or its stream is elsewhere; NL_EGAP: nobody has the output; NL_EFULL: too many
// readers.
int nl_output_open(struct nl_outputs *outputs, const struct nl_output_request *request,
                   bool local_only, const struct nl_output_events *events, void *user,
                   struct nl_output_reader **ret);
void nl_output_credit(struct nl_output_reader *reader, size_t bytes);
// No callback comes after it. NULL is allowed.
void nl_output_close(struct nl_output_reader *reader);

// The output that stock agents push (stock.h).
struct nl_stock *nl_outputs_stock(struct nl_outputs *outputs);

// ---- for the kinds of readers ----
// Both return false if the consumer closed the reader meanwhile: then it is gone.
bool nl_output_deliver(struct nl_output_reader *reader, enum nl_stream stream, uint64_t offset,
                       const uint8_t *data, size_t len);
// Tells the consumer and frees the reader.
void nl_output_finish(struct nl_output_reader *reader, const struct nl_output_end *end);
// A kind's reader that is being freed gives its place back.
void nl_output_released(struct nl_output_reader *reader);

#endif
