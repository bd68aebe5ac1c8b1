// Failpoints: named places where a test makes this process die, stall or fail. Compiled
// in only with NL_FAILPOINTS (debug and sanitizer presets); in release they are nothing.
// NODELINK_FAILPOINTS="journal.before_intent=kill,send.after=stall:500,append=error"
// kill: SIGKILL to itself; stall:MS; error: NL_FAILPOINT returns true; an action may carry a
// probability in percent (kill%10) or a hit count (kill@3: at the third hit).
#ifndef NODELINK_COMMON_BASE_FAILPOINT_H
#define NODELINK_COMMON_BASE_FAILPOINT_H

#include <stdbool.h>

#ifdef NL_FAILPOINTS
bool nl_failpoint_hit(const char *name);
// Replaces what the environment said (tests). NL_EINVAL: malformed, nothing changed.
int nl_failpoint_set(const char *spec);
#define NL_FAILPOINT(name) nl_failpoint_hit(name)
#else
#define NL_FAILPOINT(name) (false)
#endif

#endif
