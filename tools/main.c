#include "tools/cli.h"

int main(int argc, char **argv) {
    return nl_cli_main(argc, argv);
}
