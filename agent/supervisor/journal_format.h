// Bytes of the journal. Pure. Private to journal.c, the tests and the fuzz target; decoding is
// declared in journal.h.
#ifndef NODELINK_AGENT_SUPERVISOR_JOURNAL_FORMAT_H
#define NODELINK_AGENT_SUPERVISOR_JOURNAL_FORMAT_H

#include "agent/supervisor/journal.h"
#include "common/base/buf.h"

#define SUP_JOURNAL_HEADER 32u
#define SUP_RECORD_HEADER 32u

void sup_journal_encode_header(uint64_t nonce, uint8_t out[SUP_JOURNAL_HEADER]);
// Writes the header of a record whose payload of `len` bytes stands behind it.
void sup_journal_seal(uint8_t *record, size_t len, uint32_t type, uint64_t nonce, uint64_t durable);
// Appends one record. `durable`: length of the file that is known to be on disk. NL_ENOMEM,
// NL_ETOOBIG; then `out` is as before.
int sup_journal_encode(struct nl_buf *out, const struct sup_record *record, uint64_t nonce,
                       uint64_t durable);

#endif
