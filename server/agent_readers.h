// Readers of task output at an agent that speaks the extensions: subscriptions on its stream.
//
// Loop thread. Embedded in a session.
#ifndef NODELINK_SERVER_AGENT_READERS_H
#define NODELINK_SERVER_AGENT_READERS_H

#include <nodelink/v1/task.pb-c.h>

#include "server/output.h"

struct nl_session;
struct nl_agent_reader;

struct nl_agent_readers {
    struct nl_session *session;
    struct nl_agent_reader *table;  // by subscription
    struct nl_agent_reader *due;    // those with something to send
    uint64_t last_sub;
};

void nl_agent_readers_init(struct nl_agent_readers *readers, struct nl_session *session);
// The stream is over: every reader ends with NL_OUTPUT_BROKEN.
void nl_agent_readers_break(struct nl_agent_readers *readers);
// A chunk or an OutputEnd; frames of subscriptions that were closed are dropped.
void nl_agent_readers_frame(struct nl_agent_readers *readers,
                            const Nodelink__V1__TaskResponse *frame);
// Sends what is due; called when the send queue has room again.
void nl_agent_readers_flush(struct nl_agent_readers *readers);
// See nl_output_open.
int nl_agent_readers_open(struct nl_agent_readers *readers, const struct nl_output_request *request,
                          struct nl_output_reader **ret);

#endif
