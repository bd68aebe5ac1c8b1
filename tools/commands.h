// Every subcommand; each is defined in a file of its own.
#ifndef NODELINK_TOOLS_COMMANDS_H
#define NODELINK_TOOLS_COMMANDS_H

#include "tools/cli.h"

extern const struct nl_command NL_CMD_RUN;                 // run.c
extern const struct nl_command NL_CMD_TASK_LIST;           // task_list.c
extern const struct nl_command NL_CMD_TASK_SHOW;           // task_show.c
extern const struct nl_command NL_CMD_TASK_LOGS;           // task_logs.c
extern const struct nl_command NL_CMD_TASK_CANCEL;         // task_cancel.c
extern const struct nl_command NL_CMD_AGENT_LIST;          // agent_list.c
extern const struct nl_command NL_CMD_AGENT_SHOW;          // agent_show.c
extern const struct nl_command NL_CMD_AGENT_TOKEN_CREATE;  // agent_token.c
extern const struct nl_command NL_CMD_AGENT_TOKEN_REVOKE;
extern const struct nl_command NL_CMD_STATUS;          // status.c
extern const struct nl_command NL_CMD_CLUSTER_VERIFY;  // verify.c
extern const struct nl_command NL_CMD_BENCH_SUBMIT;    // bench/submit.c
extern const struct nl_command NL_CMD_BENCH_TASK;      // bench/task.c
extern const struct nl_command NL_CMD_BENCH_WATCH;     // bench/watch.c
extern const struct nl_command NL_CMD_BENCH_AGENTS;    // bench/agents.c
extern const struct nl_command NL_CMD_LOCAL_UP;        // local/up.c
extern const struct nl_command NL_CMD_LOCAL_DOWN;      // local/down.c
extern const struct nl_command NL_CMD_LOCAL_STATUS;    // local/status.c
extern const struct nl_command NL_CMD_LOCAL_KILL;      // local/signal.c
extern const struct nl_command NL_CMD_LOCAL_PAUSE;
extern const struct nl_command NL_CMD_LOCAL_RESUME;
extern const struct nl_command NL_CMD_LOCAL_START;  // local/start.c

#endif
