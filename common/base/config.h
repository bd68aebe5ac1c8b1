// Settings from a file, the environment and flags: flags beat the environment beats
// the file beats the default. One table describes a program's settings; parsing, --help,
// validation and error texts come from it.
//
// File: `key = value` lines, `#` comments (at the line's start or after a blank), UTF-8, keys
// once each (lists: values separated by commas). Errors name file, line and key. A list flag
// given more than once adds up; an empty environment variable counts as not set. The flag
// --config is accepted and skipped when the table does not have it (nl_config_file_arg).
#ifndef NODELINK_COMMON_BASE_CONFIG_H
#define NODELINK_COMMON_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum nl_config_type {
    NL_CONFIG_STRING,    // char *, owned, NULL when unset
    NL_CONFIG_LIST,      // struct nl_config_list
    NL_CONFIG_BOOL,      // bool; flag alone means true; true/false/yes/no/1/0
    NL_CONFIG_U64,       // uint64_t with min/max
    NL_CONFIG_DURATION,  // uint64_t in ms: "250ms", "10s", "5m", "2h", "1d"; "0"
    NL_CONFIG_SIZE,      // uint64_t in bytes: "64KiB", "1MiB", "2GiB", plain bytes
};

struct nl_config_list {
    char **items;  // owned
    size_t count;
};

struct nl_config_key {
    const char *key;  // "grpc-address": flag --grpc-address, file grpc-address
    enum nl_config_type type;
    size_t offset;         // of the field in the settings struct
    const char *fallback;  // text form of the default, NULL: unset
    const char *env;       // environment name, NULL: none
    const char *help;      // one line
    uint64_t min, max;     // for numbers; max 0: none
    char short_flag;       // 0: none
    bool file_only;        // not a flag (secrets never in argv: give a file)
};

struct nl_config_error {
    char text[512];  // "FILE:LINE: KEY: what is wrong; what to do"
};

// Sets defaults, then the file (NULL: none), then the environment, then argv flags
// (`--key value`, `--key=value`, `-k value`). Stops at the first non-flag or after `--`:
// *ret_argi is its index. `target` is a zeroed struct that `keys` (ended by key NULL)
// describe; after a failure it still has to be closed. NL_EINVAL with error set.
int nl_config_load(const struct nl_config_key *keys, void *target, const char *file, int argc,
                   char **argv, int *ret_argi, struct nl_config_error *error);
// The value of --config in argv, or the environment's, or NULL. Borrowed.
const char *nl_config_file_arg(int argc, char **argv, const char *env);
void nl_config_close(const struct nl_config_key *keys, void *target);
void nl_config_print_help(const struct nl_config_key *keys);

// The parsers alone, for other callers. NL_EINVAL on bad text.
int nl_parse_u64(const char *text, uint64_t *ret);
int nl_parse_duration_ms(const char *text, uint64_t *ret_ms);
int nl_parse_size(const char *text, uint64_t *ret_bytes);
// "host:port" or "[v6]:port"; out parameters are owned copies.
int nl_parse_address(const char *text, char **ret_host, uint16_t *ret_port);

#endif
