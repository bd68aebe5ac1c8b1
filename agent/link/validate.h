// Is a task request one that can be run? Pure.
#ifndef NODELINK_AGENT_LINK_VALIDATE_H
#define NODELINK_AGENT_LINK_VALIDATE_H

#include <nodelink/v1/task.pb-c.h>

// NULL: fine. Otherwise what is wrong, for a person; static text.
const char *nl_link_validate_shell(const Nodelink__V1__ShellExecute *shell,
                                   const Nodelink__V1__ShellOptions *options);

#endif
