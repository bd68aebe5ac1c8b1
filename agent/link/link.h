// The link process: composes the core with its drivers on one loop.
#ifndef NODELINK_AGENT_LINK_LINK_H
#define NODELINK_AGENT_LINK_LINK_H

#include "agent/link/settings.h"

#define NODELINK_AGENT_VERSION "0.1.0"

// Runs until SIGTERM, SIGINT (the tasks go on) or SIGQUIT (they are killed first). Takes
// `settings` over (closes them). argc and argv: to read the settings again on SIGHUP. Returns
// the exit status; has logged why if it is not 0. The caller has one thread.
int nl_link_run(struct nl_link_settings *settings, int argc, char **argv);

// argv of the supervisor that these settings want; owned, ended with NULL, free with
// nl_link_supervisor_args_free. NULL: no memory.
char **nl_link_supervisor_args(const struct nl_link_settings *settings, const char *self_exe,
                               const char *state_dir);
void nl_link_supervisor_args_free(char **args);

#endif
