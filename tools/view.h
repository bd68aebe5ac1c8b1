// Tasks and agents as JSON (docs/cli.md has the fields; scripts rely on them) and for people.
#ifndef NODELINK_TOOLS_VIEW_H
#define NODELINK_TOOLS_VIEW_H

#include <jansson.h>
#include <nodelink/v1/control.pb-c.h>
#include <stdbool.h>
#include <stdio.h>

#include "tools/format.h"

// Owned by the caller. `header` may be NULL: index and node are then null.
json_t *nl_json_task(const Nodelink__V1__Task *task, const Nodelink__V1__ReplyHeader *header);
json_t *nl_json_agent(const Nodelink__V1__Agent *agent);
// Bytes of a command's output: "NAME" as text if they are UTF-8, else "NAME_base64".
void nl_json_set_bytes(json_t *object, const char *name, const void *data, size_t len);

extern const char *const NL_TASK_TITLES[];
void nl_task_row(struct nl_table *table, const Nodelink__V1__Task *task);
void nl_task_print(FILE *out, const Nodelink__V1__Task *task);
extern const char *const NL_AGENT_TITLES[];
void nl_agent_row(struct nl_table *table, const Nodelink__V1__Agent *agent);
void nl_agent_print(FILE *out, const Nodelink__V1__Agent *agent);

// "key=value" into a Label that points into *storage (owned by the caller). NL_EINVAL; NL_ENOMEM.
int nl_parse_label(const char *text, Nodelink__V1__Label *label, char **storage);
struct nl_labels {
    Nodelink__V1__Label *labels;
    Nodelink__V1__Label **pointers;  // as protobuf-c wants them
    char **storage;
    size_t count;
};
// On failure *bad is the text that is not KEY=VALUE (NL_EINVAL). To be closed in every case.
int nl_labels_parse(const char *const *texts, size_t n, struct nl_labels *ret, const char **bad);
void nl_labels_close(struct nl_labels *labels);

#endif
