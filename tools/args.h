// Command line arguments of one subcommand, from a table that also prints its help.
//
// Flags may stand anywhere before `--`, as `--name value`, `--name=value`, `-n value`; a BOOL
// takes no value. Everything after `--` is the command to run and is never looked at.
#ifndef NODELINK_TOOLS_ARGS_H
#define NODELINK_TOOLS_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum nl_arg_type {
    NL_ARG_BOOL,      // bool
    NL_ARG_STRING,    // const char *, borrowed from argv; NULL when not given
    NL_ARG_LIST,      // struct nl_arg_list; each occurrence adds one
    NL_ARG_U64,       // uint64_t
    NL_ARG_DURATION,  // uint64_t in ms
    NL_ARG_SECONDS,   // uint64_t in ms; a bare number is seconds
};

struct nl_arg_list {
    const char **items;  // the array is owned, the strings are argv's
    size_t count;
};

struct nl_arg {
    const char *name;  // without the dashes; NULL ends a table
    char short_name;   // 0: none
    enum nl_arg_type type;
    size_t offset;         // of the field in the options struct
    const char *value;     // what --help calls the value; "table|json": only these are accepted
    const char *fallback;  // text form of the default; NULL: zero
    const char *help;
};

// What is not a flag.
struct nl_operands {
    char **items;    // owned array of argv's strings
    size_t count;    // before `--`
    char **command;  // argv's tail after `--`, NULL-terminated; NULL: there was no `--`
    size_t n_command;
};

// A table and the (zeroed) struct that it fills.
struct nl_arg_set {
    const struct nl_arg *args;
    void *options;
};

// Sets the defaults of a set.
int nl_args_init(const struct nl_arg_set *set);
// Parses argv into the first set that knows the flag. `sets` ends with args NULL.
// NL_EINVAL: error says what is wrong and names the nearest flag. NL_ENOMEM. `ret` is to be
// closed in every case.
int nl_args_parse(const struct nl_arg_set *sets, int argc, char **argv, struct nl_operands *ret,
                  char *error, size_t error_size);
// Parses flags up to the first operand, whose index is *ret_index (argc: none). For what stands
// before the subcommand.
int nl_args_parse_leading(const struct nl_arg_set *sets, int argc, char **argv, int *ret_index,
                          char *error, size_t error_size);
void nl_args_close(const struct nl_arg_set *set);
void nl_operands_close(struct nl_operands *operands);
// Leaves out flags that `hidden` (NULL: none) has, too: those win.
void nl_args_print_help(FILE *out, const struct nl_arg *args, const struct nl_arg *hidden);

// The candidate that a person who typed `word` most likely meant; NULL if none is near.
// `names` ends with NULL.
const char *nl_args_nearest(const char *word, const char *const *names);

#endif
