// The journal: what the supervisor must remember over its own death. Append-only, one file;
// README.md has the format. Decoding is pure (sup_journal_scan); the rest is the file.
// Single-threaded.
#ifndef NODELINK_AGENT_SUPERVISOR_JOURNAL_H
#define NODELINK_AGENT_SUPERVISOR_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/supervisor/core.h"

#define SUP_JOURNAL_VERSION 1u
#define SUP_JOURNAL_BYTES_MAX (256u << 20)

enum sup_record_type {
    SUP_REC_INTENT = 1,  // durable before the fork
    SUP_REC_STARTED = 2,
    SUP_REC_RESULT = 3,  // durable before it is reported
    SUP_REC_FORGOTTEN = 4,
    SUP_REC_SPENT = 5,    // its spool is gone
    SUP_REC_DROPPED = 6,  // durable before the spool's oldest bytes are freed
};

// `id` and the rest are valid during the call only.
struct sup_record {
    enum sup_record_type type;
    char id[SUP_ID_LEN_MAX + 1];
    uint32_t attempt;
    uint64_t epoch, timeout_ms, grace_ms;  // intent
    uint8_t digest[NL_SHA256_LEN];         // intent
    int32_t pid;                           // started
    uint64_t pid_start, started_wall_ms;   // started
    uint8_t boot[16];                      // started: the kernel's boot id
    struct sup_result result;              // result
    uint64_t base[2];                      // dropped
};

enum sup_journal_verdict {
    SUP_JOURNAL_WHOLE,
    SUP_JOURNAL_TORN,     // an append was cut short by a crash: what is before it counts
    SUP_JOURNAL_CORRUPT,  // bytes that were durable are not what was written
    SUP_JOURNAL_VERSION_UNKNOWN,
    SUP_JOURNAL_REJECTED,  // `take` said no
};

struct sup_journal_scan {
    enum sup_journal_verdict verdict;
    uint64_t good;    // length of the valid part
    uint64_t nonce;   // of the file
    const char *why;  // static text, NULL when whole
};

// Non-zero from `take` stops the scan: the record contradicts what came before.
typedef int (*sup_journal_take)(void *user, const struct sup_record *record);

// Decodes a journal's bytes. Never reads beyond them, whatever they are.
void sup_journal_scan(const uint8_t *data, size_t len, sup_journal_take take, void *user,
                      struct sup_journal_scan *ret);

struct sup_journal;

// Opens or makes DIR/journal, replays it, cuts a torn tail. On NL_ECORRUPT and NL_EVERSION the
// file is untouched and `why` names file, offset and reason.
int sup_journal_open(const char *dir, sup_journal_take take, void *user, char why[512],
                     struct sup_journal **ret);
void sup_journal_close(struct sup_journal *j);  // also NULL
// In the file, not durable yet. NL_EFULL, NL_EIO: the file is as before.
int sup_journal_append(struct sup_journal *j, const struct sup_record *record);
// Makes all appended records durable. After a failure nothing is certain any more: appends
// fail until sup_journal_rewrite succeeded (an fsync that failed once may lie the next time).
int sup_journal_sync(struct sup_journal *j);
bool sup_journal_broken(const struct sup_journal *j);
bool sup_journal_dirty(const struct sup_journal *j);  // appended and not synced
uint64_t sup_journal_size(const struct sup_journal *j);
// Writes a new file with what `emit` appends to it and puts it in the old one's place, durably.
// On failure the old one stays.
int sup_journal_rewrite(struct sup_journal *j, int (*emit)(void *user, struct sup_journal *fresh),
                        void *user);

#endif
