// Failpoints: named places where a test makes this process die, stall or fail. Compiled
// in only with NL_FAILPOINTS (debug and sanitizer presets); in release they are nothing.
// NODELINK_FAILPOINTS="journal.before_intent=kill,send.after=stall:500,append=error"
// kill: SIGKILL to itself; stall:MS; error: NL_FAILPOINT returns true; an action may carry a
// probability in percent (kill%10) or a hit count (kill@3: at the third hit).
//
// While the process runs, with NODELINK_FAILPOINT_DIR=DIR: a file DIR/NAME that holds an action
// arms that point once, in whichever process comes there first. That one renames it to
// DIR/NAME.PID, by which a test sees it. The action `stop` is for these only: the thread stays
// where it is until that file is removed, so that a test may kill another process meanwhile, or
// this one.
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
