#include "tools/format.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/base/text.h"

enum { CELL_MAX = 1024 };

void nl_table_init(struct nl_table *table, const char *const *titles) {
    *table = (struct nl_table){.titles = titles};
    while (titles[table->n_columns] != NULL && table->n_columns < NL_TABLE_COLUMNS_MAX) {
        table->n_columns++;
    }
}

// Copies with control characters spelled out.
static char *visible(const char *text) {
    char *copy = malloc(strlen(text) * 4 + 1);
    char *to = copy;
    for (; copy != NULL && *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c >= 0x20 && c != 0x7f) {
            *to++ = *text;
        } else if (c == '\n' || c == '\t') {
            *to++ = '\\';
            *to++ = c == '\n' ? 'n' : 't';
        } else {
            to += snprintf(to, 5, "\\x%02x", c);
        }
    }
    if (copy != NULL) {
        *to = '\0';
    }
    return copy;
}

void nl_table_add(struct nl_table *table, const char *fmt, ...) {
    char text[CELL_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    char **cells = realloc(table->cells, (table->n_cells + 1) * sizeof *cells);
    if (cells == NULL) {
        table->failed = true;
        return;
    }
    table->cells = cells;
    cells[table->n_cells] = visible(*text != '\0' ? text : "-");
    if (cells[table->n_cells] == NULL) {
        table->failed = true;
        return;
    }
    table->n_cells++;
}

// Columns on a terminal: UTF-8 continuation bytes take none.
static size_t width(const char *text) {
    size_t n = 0;
    for (; *text != '\0'; text++) {
        n += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return n;
}

static void print_row(FILE *out, const char *const *cells, const size_t *widths, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool last = i + 1 == n;
        size_t pad = last ? 0 : widths[i] - width(cells[i]) + 2;
        fprintf(out, "%s%*s", cells[i], (int)pad, "");
    }
    fputc('\n', out);
}

void nl_table_print(const struct nl_table *table, FILE *out) {
    size_t widths[NL_TABLE_COLUMNS_MAX];
    for (size_t i = 0; i < table->n_columns; i++) {
        widths[i] = width(table->titles[i]);
    }
    for (size_t i = 0; i < table->n_cells; i++) {
        size_t w = width(table->cells[i]);
        size_t *column = &widths[i % table->n_columns];
        *column = w > *column ? w : *column;
    }
    print_row(out, table->titles, widths, table->n_columns);
    for (size_t i = 0; i + table->n_columns <= table->n_cells; i += table->n_columns) {
        print_row(out, (const char *const *)table->cells + i, widths, table->n_columns);
    }
    if (table->failed) {
        fputs("(rows are missing: out of memory)\n", out);
    }
}

void nl_table_close(struct nl_table *table) {
    for (size_t i = 0; i < table->n_cells; i++) {
        free(table->cells[i]);
    }
    free(table->cells);
    *table = (struct nl_table){0};
}

const char *nl_format_age(char out[32], uint64_t ms) {
    if (ms == UINT64_MAX) {
        snprintf(out, 32, "-");
    } else {
        nl_text_duration(out, ms);
    }
    return out;
}

const char *nl_format_us(char out[32], uint64_t us) {
    if (us == 0) {
        snprintf(out, 32, "-");
    } else if (us < 1000) {
        snprintf(out, 32, "%" PRIu64 "us", us);
    } else if (us < 1000000) {
        snprintf(out, 32, "%" PRIu64 ".%" PRIu64 "ms", us / 1000, us % 1000 / 100);
    } else {
        snprintf(out, 32, "%" PRIu64 ".%" PRIu64 "s", us / 1000000, us % 1000000 / 100000);
    }
    return out;
}

const char *nl_format_size(char out[32], uint64_t bytes) {
    static const char *const UNITS[] = {"", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    uint64_t tenths = bytes;
    if (bytes < 1024) {
        snprintf(out, 32, "%" PRIu64, bytes);
        return out;
    }
    for (; bytes >= 1024; bytes /= 1024) {
        tenths = bytes % 1024 * 10 / 1024;
        unit++;
    }
    snprintf(out, 32, "%" PRIu64 ".%" PRIu64 "%s", bytes, tenths, UNITS[unit]);
    return out;
}

const char *nl_format_time(char out[32], uint64_t wall_ms) {
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm tm;
    if (wall_ms == 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0) {
        snprintf(out, 32, "-");
    }
    return out;
}

// ---- states ----------------------------------------------------------------

static const char *const TASK_STATES[] = {
    [NODELINK__V1__TASK_STATE__TASK_STATE_UNSPECIFIED] = "unspecified",
    [NODELINK__V1__TASK_STATE__TASK_PENDING] = "pending",
    [NODELINK__V1__TASK_STATE__TASK_DISPATCHED] = "dispatched",
    [NODELINK__V1__TASK_STATE__TASK_RUNNING] = "running",
    [NODELINK__V1__TASK_STATE__TASK_UNKNOWN] = "unknown",
    [NODELINK__V1__TASK_STATE__TASK_COMPLETED] = "completed",
    [NODELINK__V1__TASK_STATE__TASK_FAILED] = "failed",
    [NODELINK__V1__TASK_STATE__TASK_TIMED_OUT] = "timed_out",
    [NODELINK__V1__TASK_STATE__TASK_CANCELLED] = "cancelled",
};
enum { N_TASK_STATES = sizeof TASK_STATES / sizeof TASK_STATES[0] };

static const char *const CONNECTIONS[] = {
    [NODELINK__V1__AGENT_CONNECTION__AGENT_CONNECTION_UNSPECIFIED] = "unspecified",
    [NODELINK__V1__AGENT_CONNECTION__AGENT_NEVER_CONNECTED] = "never_connected",
    [NODELINK__V1__AGENT_CONNECTION__AGENT_CONNECTED] = "connected",
    [NODELINK__V1__AGENT_CONNECTION__AGENT_DISCONNECTED] = "disconnected",
    [NODELINK__V1__AGENT_CONNECTION__AGENT_UNREACHABLE] = "unreachable",
    [NODELINK__V1__AGENT_CONNECTION__AGENT_LOST] = "lost",
};

const char *nl_format_task_state(Nodelink__V1__TaskState state) {
    return (unsigned)state < N_TASK_STATES ? TASK_STATES[state] : TASK_STATES[0];
}

Nodelink__V1__TaskState nl_parse_task_state(const char *name) {
    for (int i = 1; i < N_TASK_STATES; i++) {
        if (strcasecmp(TASK_STATES[i], name) == 0) {
            return (Nodelink__V1__TaskState)i;
        }
    }
    return NODELINK__V1__TASK_STATE__TASK_STATE_UNSPECIFIED;
}

const char *nl_format_connection(Nodelink__V1__AgentConnection connection) {
    size_t n = sizeof CONNECTIONS / sizeof CONNECTIONS[0];
    return (unsigned)connection < n ? CONNECTIONS[connection] : CONNECTIONS[0];
}

bool nl_task_is_terminal(Nodelink__V1__TaskState state) {
    return state >= NODELINK__V1__TASK_STATE__TASK_COMPLETED &&
           state <= NODELINK__V1__TASK_STATE__TASK_CANCELLED;
}
