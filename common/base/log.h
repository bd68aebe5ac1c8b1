// Structured log to stderr: one line per event, as text or JSON. Only programs'
// own layers log above debug; libraries return errors. Thread-safe: a line is one
// write(2). Never pass a secret.
//
//   nl_log(NL_LOG_INFO, "session", "agent connected", "agent", id, "epoch",
//          nl_log_u64(epoch).s, NULL);
//
// Keys and values are alternating C strings, ended by NULL.
#ifndef NODELINK_COMMON_BASE_LOG_H
#define NODELINK_COMMON_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum nl_log_level { NL_LOG_DEBUG, NL_LOG_INFO, NL_LOG_WARN, NL_LOG_ERROR, NL_LOG_OFF };
enum nl_log_format { NL_LOG_TEXT, NL_LOG_JSON };

// Call before other threads start; later calls are allowed (levels are atomic).
void nl_log_init(enum nl_log_level level, enum nl_log_format format, const char *program);
// "info", or per module "info,session=debug,raft=warn". NL_EINVAL names nothing, changes nothing.
int nl_log_set_levels(const char *spec);
bool nl_log_enabled(enum nl_log_level level, const char *module);
void nl_log(enum nl_log_level level, const char *module, const char *event, ...)
    __attribute__((sentinel));

// Number as text for the call above; lives until the end of the full expression.
struct nl_log_num {
    char s[24];
};
struct nl_log_num nl_log_u64(uint64_t v);
struct nl_log_num nl_log_i64(int64_t v);

// At most `burst` lines per `period_ms` per site: returns whether to log now, and in
// *ret_suppressed how many were held back since the last one. State is the caller's.
struct nl_log_limit {
    uint64_t window_start_ms;
    uint32_t in_window;
    uint32_t suppressed;
};
bool nl_log_allow(struct nl_log_limit *limit, uint64_t now_ms, uint32_t burst, uint32_t period_ms,
                  uint32_t *ret_suppressed);

#endif
