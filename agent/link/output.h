// Reads spool files for the core's output machine. Loop thread only.
//
// The reads are blocking preads of at most 64 KiB from files that were written moments ago, so
// from the page cache; a pump reads at most 1 MiB before the loop gets its turn.
#ifndef NODELINK_AGENT_LINK_OUTPUT_H
#define NODELINK_AGENT_LINK_OUTPUT_H

#include <stdbool.h>

#include "agent/link/core.h"

// Reads exactly output->len bytes into data (NL_LINK_CHUNK_BYTES_MAX). NL_EGAP: the file is not
// there or ends before; NL_EIO and others.
int nl_link_output_read(const char *state_dir, const struct nl_link_output *output, uint8_t *data);

#endif
