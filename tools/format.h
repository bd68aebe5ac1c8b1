// How values look for people: tables, sizes, ages, states.
#ifndef NODELINK_TOOLS_FORMAT_H
#define NODELINK_TOOLS_FORMAT_H

#include <nodelink/v1/control.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { NL_TABLE_COLUMNS_MAX = 16 };

// Columns as wide as their widest cell, two blanks between.
struct nl_table {
    const char *const *titles;  // ended by NULL; borrowed
    size_t n_columns;
    char **cells;  // owned copies, row after row
    size_t n_cells;
    bool failed;  // out of memory: rows are missing, and printing says so
};
void nl_table_init(struct nl_table *table, const char *const *titles);
// The next cell of the current row; control characters become visible ("\n", "\x1b"): a table
// must not be able to drive a terminal.
void nl_table_add(struct nl_table *table, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void nl_table_print(const struct nl_table *table, FILE *out);
void nl_table_close(struct nl_table *table);

// "42ms", "3m12s"; with UINT64_MAX "-". out holds 32.
const char *nl_format_age(char out[32], uint64_t ms);
// Microseconds: "850us", "1.8ms", "2.4s"; 0: "-".
const char *nl_format_us(char out[32], uint64_t us);
// "17", "1.5KiB", "3.2GiB".
const char *nl_format_size(char out[32], uint64_t bytes);
// "2026-11-23T12:04:31Z" of a wall clock stamp; 0: "-".
const char *nl_format_time(char out[32], uint64_t wall_ms);

// Lower case, as all interfaces write them: "pending" ... "timed_out"; "unspecified" if not known.
const char *nl_format_task_state(Nodelink__V1__TaskState state);
// UNSPECIFIED: no such name.
Nodelink__V1__TaskState nl_parse_task_state(const char *name);
const char *nl_format_connection(Nodelink__V1__AgentConnection connection);
bool nl_task_is_terminal(Nodelink__V1__TaskState state);

#endif
