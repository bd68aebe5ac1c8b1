#include "common/base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/text.h"

enum { MODULES_MAX = 64, MODULE_NAME_MAX = 32, LINE_MAX_LEN = 8192, VALUE_LEN_MAX = 2048 };

// A slot's name is written before `count` is raised and never changes: readers need no
// lock. `level` LEVEL_INHERIT: the default level counts.
enum { LEVEL_INHERIT = -1 };
struct module_level {
    char name[MODULE_NAME_MAX];
    atomic_int level;
};

static struct {
    atomic_int level;
    atomic_int format;
    atomic_size_t count;
    struct module_level modules[MODULES_MAX];
    pthread_mutex_t change;  // among callers of nl_log_set_levels
    char program[64];
} state = {.level = NL_LOG_INFO, .change = PTHREAD_MUTEX_INITIALIZER};

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

void nl_log_init(enum nl_log_level level, enum nl_log_format format, const char *program) {
    atomic_store(&state.level, (int)level);
    atomic_store(&state.format, (int)format);
    snprintf(state.program, sizeof state.program, "%s", program != NULL ? program : "");
}

static int parse_level(const char *text, size_t len) {
    for (int i = NL_LOG_DEBUG; i <= NL_LOG_OFF; i++) {
        if (strlen(level_names[i]) == len && memcmp(level_names[i], text, len) == 0) {
            return i;
        }
    }
    return NL_EINVAL;
}

static struct module_level *find_module(const char *name, size_t len) {
    size_t count = atomic_load_explicit(&state.count, memory_order_acquire);
    for (size_t i = 0; i < count; i++) {
        struct module_level *m = &state.modules[i];
        if (strlen(m->name) == len && memcmp(m->name, name, len) == 0) {
            return m;
        }
    }
    return NULL;
}

static int set_module(const char *name, size_t len, int level) {
    struct module_level *m = find_module(name, len);
    if (m == NULL) {
        size_t count = atomic_load(&state.count);
        if (count == MODULES_MAX) {
            return NL_EFULL;
        }
        m = &state.modules[count];
        memcpy(m->name, name, len);
        m->name[len] = '\0';
        atomic_store(&m->level, level);
        atomic_store_explicit(&state.count, count + 1, memory_order_release);
        return NL_OK;
    }
    atomic_store(&m->level, level);
    return NL_OK;
}

// One element of the list: "level" or "module=level". With `apply` false only checks.
static int take_element(const char *at, size_t len, bool apply) {
    const char *equals = memchr(at, '=', len);
    size_t name_len = equals == NULL ? 0 : (size_t)(equals - at);
    const char *text = equals == NULL ? at : equals + 1;
    int level = parse_level(text, len - (size_t)(text - at));
    if (level < 0 || (equals != NULL && (name_len == 0 || name_len >= MODULE_NAME_MAX))) {
        return NL_EINVAL;
    }
    if (!apply) {
        return NL_OK;
    }
    if (equals == NULL) {
        atomic_store(&state.level, level);
        return NL_OK;
    }
    return set_module(at, name_len, level);
}

static int walk_levels(const char *spec, bool apply) {
    for (const char *at = spec;;) {
        size_t len = strcspn(at, ",");
        int rv = take_element(at, len, apply);
        if (rv != NL_OK) {
            return rv;
        }
        if (at[len] == '\0') {
            return NL_OK;
        }
        at += len + 1;
    }
}

int nl_log_set_levels(const char *spec) {
    if (spec == NULL || walk_levels(spec, false) != NL_OK) {
        return NL_EINVAL;
    }
    pthread_mutex_lock(&state.change);
    size_t count = atomic_load(&state.count);
    for (size_t i = 0; i < count; i++) {
        atomic_store(&state.modules[i].level, LEVEL_INHERIT);
    }
    int rv = walk_levels(spec, true);
    pthread_mutex_unlock(&state.change);
    return rv;
}

bool nl_log_enabled(enum nl_log_level level, const char *module) {
    int limit = LEVEL_INHERIT;
    struct module_level *m = module != NULL ? find_module(module, strlen(module)) : NULL;
    if (m != NULL) {
        limit = atomic_load_explicit(&m->level, memory_order_relaxed);
    }
    if (limit == LEVEL_INHERIT) {
        limit = atomic_load_explicit(&state.level, memory_order_relaxed);
    }
    return (int)level >= limit && level != NL_LOG_OFF;
}

// The line under construction. Each field is added whole or not at all.
struct line {
    char text[LINE_MAX_LEN];
    size_t len;
    bool overflow;
};

// Room that stays for the end of the line and the note of truncation.
enum { LINE_TAIL = 32 };

static void put(struct line *l, const char *s, size_t len) {
    if (l->len + len > sizeof l->text - LINE_TAIL) {
        l->overflow = true;
        return;
    }
    memcpy(l->text + l->len, s, len);
    l->len += len;
}

static void put_str(struct line *l, const char *s) {
    put(l, s, strlen(s));
}

// Escapes as JSON does; bytes that are no UTF-8 become U+FFFD, so that a line is always
// valid JSON and never carries a terminal's control sequences.
static void put_escaped(struct line *l, const char *s) {
    size_t len = strnlen(s, VALUE_LEN_MAX + 1);
    bool cut = len > VALUE_LEN_MAX;
    size_t end = cut ? VALUE_LEN_MAX : len;
    for (size_t i = 0; i < end;) {
        unsigned char c = (unsigned char)s[i];
        size_t n = 1;
        if (c == '"' || c == '\\') {
            char pair[2] = {'\\', (char)c};
            put(l, pair, sizeof pair);
        } else if (c < 0x20 || c == 0x7F) {
            char code[8];
            snprintf(code, sizeof code, "\\u%04x", c);
            put(l, code, 6);
        } else if (c < 0x80) {
            put(l, s + i, 1);
        } else {
            n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
            bool ok = i + n <= end && nl_text_utf8_ok(s + i, n);
            n = ok ? n : 1;
            put(l, ok ? s + i : "\xEF\xBF\xBD", ok ? n : 3);
        }
        i += n;
    }
    if (cut) {
        put_str(l, "...");
    }
}

static bool needs_quotes(const char *s) {
    if (s[0] == '\0') {
        return true;
    }
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= 0x7F) {
            return true;
        }
    }
    return false;
}

static void put_field(struct line *l, bool json, const char *key, const char *value) {
    size_t before = l->len;
    if (l->overflow) {
        return;
    }
    if (json) {
        put_str(l, ",\"");
        put_escaped(l, key);
        put_str(l, "\":\"");
        put_escaped(l, value);
        put_str(l, "\"");
    } else {
        bool quotes = needs_quotes(value);
        put_str(l, " ");
        put_escaped(l, key);
        put_str(l, quotes ? "=\"" : "=");
        put_escaped(l, value);
        put_str(l, quotes ? "\"" : "");
    }
    if (l->overflow) {
        l->len = before;
    }
}

static void put_time(struct line *l) {
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    char text[64];
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03ldZ", ts.tv_nsec / 1000000);
    put_str(l, text);
}

static void put_head(struct line *l, bool json, enum nl_log_level level, const char *module,
                     const char *event) {
    if (json) {
        put_str(l, "{\"time\":\"");
        put_time(l);
        put_str(l, "\"");
        put_field(l, json, "level", level_names[level]);
        put_field(l, json, "program", state.program);
        put_field(l, json, "module", module);
        put_field(l, json, "event", event);
        return;
    }
    char level_text[8];
    snprintf(level_text, sizeof level_text, " %-5s ", level_names[level]);
    put_time(l);
    put_str(l, level_text);
    if (state.program[0] != '\0') {
        put_escaped(l, state.program);
        put_str(l, " ");
    }
    put_escaped(l, module);
    put_str(l, ": ");
    put_escaped(l, event);
}

static void put_end(struct line *l, bool json) {
    const char *note = json ? ",\"truncated\":\"true\"" : " truncated=true";
    const char *end = json ? "}\n" : "\n";
    char *at = l->text + l->len;
    int n = snprintf(at, sizeof l->text - l->len, "%s%s", l->overflow ? note : "", end);
    l->len += (size_t)n;
}

static void write_line(const char *text, size_t len) {
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return;  // nobody to tell
        }
        text += n;
        len -= (size_t)n;
    }
}

void nl_log(enum nl_log_level level, const char *module, const char *event, ...) {
    if (!nl_log_enabled(level, module)) {
        return;
    }
    int kept_errno = errno;
    bool json = atomic_load_explicit(&state.format, memory_order_relaxed) == NL_LOG_JSON;
    struct line line;
    line.len = 0;
    line.overflow = false;
    put_head(&line, json, level, module != NULL ? module : "", event);
    va_list args;
    va_start(args, event);
    for (const char *key = va_arg(args, const char *); key != NULL;) {
        const char *value = va_arg(args, const char *);
        put_field(&line, json, key, value != NULL ? value : "(null)");
        // A NULL value can't be told from the end of the list: stop there.
        key = value != NULL ? va_arg(args, const char *) : NULL;
    }
    va_end(args);
    put_end(&line, json);
    write_line(line.text, line.len);
    errno = kept_errno;
}

struct nl_log_num nl_log_u64(uint64_t v) {
    struct nl_log_num n;
    snprintf(n.s, sizeof n.s, "%" PRIu64, v);
    return n;
}

struct nl_log_num nl_log_i64(int64_t v) {
    struct nl_log_num n;
    snprintf(n.s, sizeof n.s, "%" PRId64, v);
    return n;
}

bool nl_log_allow(struct nl_log_limit *limit, uint64_t now_ms, uint32_t burst, uint32_t period_ms,
                  uint32_t *ret_suppressed) {
    if (limit->window_start_ms == 0 || now_ms - limit->window_start_ms >= period_ms) {
        limit->window_start_ms = now_ms > 0 ? now_ms : 1;
        limit->in_window = 0;
    }
    if (limit->in_window >= burst) {
        limit->suppressed += 1;
        return false;
    }
    limit->in_window += 1;
    *ret_suppressed = limit->suppressed;
    limit->suppressed = 0;
    return true;
}
