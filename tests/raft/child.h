// Scenarios in a process of their own: one that ends in an assertion or a wild pointer is a result.
#ifndef NODELINK_TESTS_RAFT_CHILD_H
#define NODELINK_TESTS_RAFT_CHILD_H

#include <stdbool.h>

// In a scenario: ends its process unless the condition holds.
#define REQUIRE(condition) child_require((condition), #condition, __FILE__, __LINE__)
void child_require(bool holds, const char *condition, const char *file, int line);

// A step towards the spot, not the finding: a scenario that fails here did not get there, and is
// a failure with and without the defects.
#define REACH(condition) child_reach((condition), #condition, __FILE__, __LINE__)
void child_reach(bool holds, const char *condition, const char *file, int line);

// cmocka assertion: the scenario ends well, or, in a build against the unpatched library, it
// reaches the spot and does not end well.
void child_check(void (*scenario)(void));

#endif
