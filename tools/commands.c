// The table of subcommands. A new one is one file, one line in commands.h, one here.
#include "tools/commands.h"

const struct nl_command *const NL_COMMANDS[] = {
    &NL_CMD_RUN,
    &NL_CMD_TASK_LIST,
    &NL_CMD_TASK_SHOW,
    &NL_CMD_TASK_LOGS,
    &NL_CMD_TASK_CANCEL,
    &NL_CMD_AGENT_LIST,
    &NL_CMD_AGENT_SHOW,
    &NL_CMD_AGENT_TOKEN_CREATE,
    &NL_CMD_AGENT_TOKEN_REVOKE,
    &NL_CMD_STATUS,
    &NL_CMD_CLUSTER_VERIFY,
    &NL_CMD_BENCH_SUBMIT,
    &NL_CMD_BENCH_TASK,
    &NL_CMD_BENCH_WATCH,
    &NL_CMD_BENCH_AGENTS,
    &NL_CMD_LOCAL_UP,
    &NL_CMD_LOCAL_DOWN,
    &NL_CMD_LOCAL_STATUS,
    &NL_CMD_LOCAL_KILL,
    &NL_CMD_LOCAL_PAUSE,
    &NL_CMD_LOCAL_RESUME,
    &NL_CMD_LOCAL_START,
    NULL,
};
