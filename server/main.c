// nodelinkd: configuration, log and loop, then rpc, cluster and services, until a signal.
#include "server/program.h"

int main(int argc, char **argv) {
    struct nl_program p = {.argc = argc, .argv = argv};
    int exit_code = NL_EXIT_OK;
    if (nl_program_answer(&p, &exit_code)) {
        return exit_code;
    }
    exit_code = nl_program_configure(&p);
    if (exit_code == NL_EXIT_OK) {
        exit_code = nl_program_prepare(&p);
    }
    if (exit_code == NL_EXIT_OK) {
        exit_code = nl_program_open(&p);
    }
    if (exit_code == NL_EXIT_OK) {
        nl_program_run(&p);  // drains and closes on TERM or INT
    }
    nl_program_close(&p);
    return exit_code;
}
