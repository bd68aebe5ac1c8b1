// nodelinkd, the process: what main.c lists, step by step.
#ifndef NODELINK_SERVER_PROGRAM_H
#define NODELINK_SERVER_PROGRAM_H

#include "server/dev.h"
#include "server/server.h"

enum {
    NL_EXIT_OK = 0,
    NL_EXIT_FAILURE = 1,    // port in use, foreign or corrupt directory
    NL_EXIT_USAGE = 2,      // command line or configuration
    NL_EXIT_FAIL_STOP = 3,  // the disk can't be trusted
};

struct nl_program {
    int argc;
    char **argv;
    const char *file;  // of the configuration, or NULL
    struct nl_settings settings;
    char *secret;  // owned; cleared before it is freed
    struct nl_dev dev;
    uv_loop_t loop;
    uv_signal_t terminate, interrupt, hangup;
    struct nl_server *server;
    bool stopping;
};

// --help, --version, validate: does it and returns true with the exit code.
bool nl_program_answer(struct nl_program *p, int *ret_exit);
// Each returns an exit code; NL_EXIT_OK goes on.
int nl_program_configure(struct nl_program *p);
int nl_program_prepare(struct nl_program *p);  // log, limits, pid file, loop, signals
int nl_program_open(struct nl_program *p);     // rpc, cluster, services
void nl_program_run(struct nl_program *p);     // until everything is closed
void nl_program_close(struct nl_program *p);

#endif
