// Checks on text from outside, and small string helpers.
#ifndef NODELINK_COMMON_BASE_TEXT_H
#define NODELINK_COMMON_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

// Well-formed UTF-8 (RFC 3629), no NUL.
bool nl_text_utf8_ok(const char *s, size_t len);
// Identifier of an agent, task, node or cluster: 1..128 of [A-Za-z0-9._:-], not beginning with
// '-' or '.'.
bool nl_text_id_ok(const char *s);
// POSIX shell quoting of one word ('it'\''s'); owned, NULL: no memory. For display and for
// agents that know only a command string.
char *nl_text_shell_quote(const char *word);
// argv joined as a shell would need it; owned.
char *nl_text_shell_join(char *const *argv, size_t n);
// "1.5s", "3m12s", "2h05m": for people. out holds 32.
void nl_text_duration(char out[32], unsigned long long ms);

#endif
