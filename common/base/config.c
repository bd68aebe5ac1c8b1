#include "common/base/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/text.h"

enum { FILE_LEN_MAX = 1024 * 1024 };

// One run of nl_config_load.
struct loader {
    const struct nl_config_key *keys;
    char *target;
    struct nl_config_error *error;
    bool *seen;  // per key: given by the source being read
};

__attribute__((format(printf, 3, 4))) static int fail(struct loader *l, const char *where,
                                                      const char *fmt, ...) {
    size_t size = sizeof l->error->text;
    int n = snprintf(l->error->text, size, "%s: ", where);
    va_list args;
    va_start(args, fmt);
    if (n > 0 && (size_t)n < size) {
        vsnprintf(l->error->text + n, size - (size_t)n, fmt, args);
    }
    va_end(args);
    return NL_EINVAL;
}

// ---- values ----------------------------------------------------------------

int nl_parse_u64(const char *text, uint64_t *ret) {
    uint64_t v = 0;
    if (text[0] == '\0') {
        return NL_EINVAL;
    }
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') {
            return NL_EINVAL;
        }
        uint64_t digit = (uint64_t)(*text - '0');
        if (v > (UINT64_MAX - digit) / 10) {
            return NL_EINVAL;
        }
        v = v * 10 + digit;
    }
    *ret = v;
    return NL_OK;
}

struct unit {
    const char *name;
    uint64_t factor;
};

// Digits followed by the name of a unit.
static int parse_with_unit(const char *text, const struct unit *units, uint64_t *ret) {
    char digits[24];
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n >= sizeof digits) {
        return NL_EINVAL;
    }
    memcpy(digits, text, n);
    digits[n] = '\0';
    uint64_t v = 0;
    if (nl_parse_u64(digits, &v) != NL_OK) {
        return NL_EINVAL;
    }
    for (; units->name != NULL; units++) {
        if (strcmp(units->name, text + n) == 0) {
            if (v > UINT64_MAX / units->factor) {
                return NL_EINVAL;
            }
            *ret = v * units->factor;
            return NL_OK;
        }
    }
    return NL_EINVAL;
}

int nl_parse_duration_ms(const char *text, uint64_t *ret_ms) {
    static const struct unit units[] = {{"ms", 1},      {"s", 1000},     {"m", 60000},
                                        {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
    if (strcmp(text, "0") == 0) {
        *ret_ms = 0;
        return NL_OK;
    }
    return parse_with_unit(text, units, ret_ms);
}

int nl_parse_size(const char *text, uint64_t *ret_bytes) {
    static const struct unit units[] = {{"", 1},
                                        {"B", 1},
                                        {"KiB", 1ull << 10},
                                        {"MiB", 1ull << 20},
                                        {"GiB", 1ull << 30},
                                        {"TiB", 1ull << 40},
                                        {NULL, 0}};
    return parse_with_unit(text, units, ret_bytes);
}

static bool host_char_ok(char c, bool v6) {
    return isalnum((unsigned char)c) || strchr(v6 ? ":.%-_" : ".-_", c) != NULL;
}

int nl_parse_address(const char *text, char **ret_host, uint16_t *ret_port) {
    bool v6 = text[0] == '[';
    const char *host = v6 ? text + 1 : text;
    const char *end = strchr(host, v6 ? ']' : ':');
    if (end == NULL || end == host) {
        return NL_EINVAL;
    }
    for (const char *p = host; p < end; p++) {
        if (!host_char_ok(*p, v6)) {
            return NL_EINVAL;
        }
    }
    const char *colon = v6 ? end + 1 : end;
    uint64_t port = 0;
    if (*colon != ':' || nl_parse_u64(colon + 1, &port) != NL_OK || port > UINT16_MAX) {
        return NL_EINVAL;
    }
    char *copy = strndup(host, (size_t)(end - host));
    if (copy == NULL) {
        return NL_ENOMEM;
    }
    *ret_host = copy;
    *ret_port = (uint16_t)port;
    return NL_OK;
}

static int parse_bool(const char *text, bool *ret) {
    static const char *const yes[] = {"true", "yes", "1"};
    static const char *const no[] = {"false", "no", "0"};
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *ret = strcmp(text, yes[i]) == 0;
            return NL_OK;
        }
    }
    return NL_EINVAL;
}

static void list_close(struct nl_config_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i]);
    }
    free(list->items);
    *list = (struct nl_config_list){0};
}

// Element without the blanks around it; owned.
static char *trimmed(const char *at, size_t len) {
    while (len > 0 && isblank((unsigned char)*at)) {
        at++;
        len--;
    }
    while (len > 0 && isblank((unsigned char)at[len - 1])) {
        len--;
    }
    return strndup(at, len);
}

static int list_add(struct nl_config_list *list, char *take_item) {
    char **items = NULL;
    if (take_item != NULL) {
        items = realloc(list->items, (list->count + 1) * sizeof *items);
    }
    if (items == NULL) {
        free(take_item);
        return NL_ENOMEM;
    }
    list->items = items;
    list->items[list->count++] = take_item;
    return NL_OK;
}

// An empty text is the empty list; an empty element between commas is an error.
static int list_append(struct nl_config_list *list, const char *text) {
    if (text[strspn(text, " \t")] == '\0') {
        return NL_OK;
    }
    for (const char *at = text;;) {
        size_t len = strcspn(at, ",");
        char *item = trimmed(at, len);
        if (item != NULL && item[0] == '\0') {
            free(item);
            return NL_EINVAL;
        }
        int rv = list_add(list, item);
        if (rv != NL_OK || at[len] == '\0') {
            return rv;
        }
        at += len + 1;
    }
}

static const char *expected(enum nl_config_type type) {
    switch (type) {
        case NL_CONFIG_BOOL:
            return "true or false";
        case NL_CONFIG_U64:
            return "a whole number";
        case NL_CONFIG_DURATION:
            return "a duration such as 250ms, 10s, 5m, 2h, 1d";
        case NL_CONFIG_SIZE:
            return "a size such as 4096, 64KiB, 1MiB, 2GiB";
        case NL_CONFIG_LIST:
            return "a list separated by commas, without empty elements";
        case NL_CONFIG_STRING:
            return "text";
    }
    return "text";
}

static int set_number(struct loader *l, const struct nl_config_key *key, const char *where,
                      const char *text) {
    uint64_t v = 0;
    int rv = key->type == NL_CONFIG_U64        ? nl_parse_u64(text, &v)
             : key->type == NL_CONFIG_DURATION ? nl_parse_duration_ms(text, &v)
                                               : nl_parse_size(text, &v);
    if (rv != NL_OK) {
        return fail(l, where, "%s: '%s' is not %s", key->key, text, expected(key->type));
    }
    const char *unit = key->type == NL_CONFIG_DURATION ? "ms"
                       : key->type == NL_CONFIG_SIZE   ? " bytes"
                                                       : "";
    if (v < key->min) {
        return fail(l, where, "%s: '%s' is too small; give at least %" PRIu64 "%s", key->key, text,
                    key->min, unit);
    }
    if (key->max != 0 && v > key->max) {
        return fail(l, where, "%s: '%s' is too large; give at most %" PRIu64 "%s", key->key, text,
                    key->max, unit);
    }
    *(uint64_t *)(void *)(l->target + key->offset) = v;
    return NL_OK;
}

static int set_string(struct loader *l, const struct nl_config_key *key, const char *where,
                      const char *text) {
    char **field = (char **)(void *)(l->target + key->offset);
    char *copy = strdup(text);
    if (copy == NULL) {
        return fail(l, where, "%s: out of memory", key->key);
    }
    free(*field);
    *field = copy;
    return NL_OK;
}

// A list given twice by one source (flags) grows; a later source replaces it.
static int set_list(struct loader *l, const struct nl_config_key *key, const char *where,
                    const char *text, bool grow) {
    struct nl_config_list *list = (struct nl_config_list *)(void *)(l->target + key->offset);
    if (!grow) {
        list_close(list);
    }
    int rv = list_append(list, text);
    if (rv == NL_ENOMEM) {
        return fail(l, where, "%s: out of memory", key->key);
    }
    return rv == NL_OK ? rv
                       : fail(l, where, "%s: '%s' is not %s", key->key, text, expected(key->type));
}

static int set_value(struct loader *l, const struct nl_config_key *key, const char *where,
                     const char *text) {
    bool again = l->seen[key - l->keys];
    l->seen[key - l->keys] = true;
    if (!nl_text_utf8_ok(text, strlen(text))) {
        return fail(l, where, "%s: the value is not UTF-8", key->key);
    }
    switch (key->type) {
        case NL_CONFIG_STRING:
            return set_string(l, key, where, text);
        case NL_CONFIG_LIST:
            return set_list(l, key, where, text, again);
        case NL_CONFIG_BOOL:
            if (parse_bool(text, (bool *)(void *)(l->target + key->offset)) != NL_OK) {
                return fail(l, where, "%s: '%s' is not %s", key->key, text, expected(key->type));
            }
            return NL_OK;
        case NL_CONFIG_U64:
        case NL_CONFIG_DURATION:
        case NL_CONFIG_SIZE:
            return set_number(l, key, where, text);
    }
    return fail(l, where, "%s: this setting has an unknown type", key->key);
}

static const struct nl_config_key *find_key(const struct nl_config_key *keys, const char *name,
                                            size_t len) {
    for (; keys->key != NULL; keys++) {
        if (strlen(keys->key) == len && memcmp(keys->key, name, len) == 0) {
            return keys;
        }
    }
    return NULL;
}

static size_t count_keys(const struct nl_config_key *keys) {
    size_t n = 0;
    while (keys[n].key != NULL) {
        n++;
    }
    return n;
}

// ---- sources ---------------------------------------------------------------

static int load_defaults(struct loader *l) {
    for (const struct nl_config_key *key = l->keys; key->key != NULL; key++) {
        if (key->fallback != NULL) {
            int rv = set_value(l, key, "default", key->fallback);
            if (rv != NL_OK) {
                return rv;
            }
        }
    }
    return NL_OK;
}

// Cuts the comment and the blanks around; a '#' inside a word is no comment.
static char *strip(char *line) {
    for (char *p = line; *p != '\0'; p++) {
        if (*p == '#' && (p == line || isblank((unsigned char)p[-1]))) {
            *p = '\0';
            break;
        }
    }
    line += strspn(line, " \t");
    size_t len = strlen(line);
    while (len > 0 && isspace((unsigned char)line[len - 1])) {
        line[--len] = '\0';
    }
    return line;
}

static int load_line(struct loader *l, const char *where, char *line) {
    line = strip(line);
    if (line[0] == '\0') {
        return NL_OK;
    }
    char *equals = strchr(line, '=');
    if (equals == NULL || equals == line) {
        return fail(l, where, "'%s' is not of the form key = value", line);
    }
    size_t name_len = (size_t)(equals - line);
    while (name_len > 0 && isblank((unsigned char)line[name_len - 1])) {
        name_len--;
    }
    const struct nl_config_key *key = find_key(l->keys, line, name_len);
    if (key == NULL) {
        return fail(l, where, "%.*s: no such setting; see --help", (int)name_len, line);
    }
    if (l->seen[key - l->keys]) {
        return fail(l, where, "%s: given twice; remove one", key->key);
    }
    return set_value(l, key, where, equals + 1 + strspn(equals + 1, " \t"));
}

static int load_file(struct loader *l, const char *path) {
    char *text = NULL;
    size_t len = 0;
    int rv = nl_fs_read(path, FILE_LEN_MAX, &text, &len);
    if (rv != NL_OK) {
        return fail(l, path, "can't read the file: %s", nl_strerror(rv));
    }
    if (!nl_text_utf8_ok(text, len)) {
        free(text);
        return fail(l, path, "the file is not UTF-8 text");
    }
    char *rest = text;
    unsigned number = 0;
    for (char *line = strsep(&rest, "\n"); rv == NL_OK && line != NULL;
         line = strsep(&rest, "\n")) {
        char where[300];
        snprintf(where, sizeof where, "%.280s:%u", path, ++number);
        rv = load_line(l, where, line);
    }
    free(text);
    return rv;
}

static int load_environment(struct loader *l) {
    for (const struct nl_config_key *key = l->keys; key->key != NULL; key++) {
        const char *text = key->env != NULL ? getenv(key->env) : NULL;
        if (text != NULL && text[0] != '\0') {
            int rv = set_value(l, key, key->env, text);
            if (rv != NL_OK) {
                return rv;
            }
        }
    }
    return NL_OK;
}

static const struct nl_config_key *find_short(const struct nl_config_key *keys, char flag) {
    for (; keys->key != NULL; keys++) {
        if (keys->short_flag != '\0' && keys->short_flag == flag) {
            return keys;
        }
    }
    return NULL;
}

// --config names the file and was read by nl_config_file_arg: skipped here unless the
// table has a key of that name.
static bool is_config_flag(const char *name, size_t len) {
    return len == 6 && memcmp(name, "config", 6) == 0;
}

// One flag at argv[i]. *ret_used: how many arguments it took.
static int load_flag(struct loader *l, int i, int argc, char **argv, int *ret_used) {
    const char *arg = argv[i];
    bool is_long = arg[1] == '-';
    const char *name = is_long ? arg + 2 : arg + 1;
    const char *equals = is_long ? strchr(name, '=') : NULL;
    size_t len = equals != NULL ? (size_t)(equals - name) : strlen(name);
    const struct nl_config_key *key = NULL;
    if (is_long) {
        key = find_key(l->keys, name, len);
    } else if (len == 1) {
        key = find_short(l->keys, name[0]);
    }
    bool skip = key == NULL && is_long && is_config_flag(name, len);
    if (key == NULL && !skip) {
        return fail(l, arg, "no such flag; see --help");
    }
    if (key != NULL && key->file_only) {
        return fail(l, arg, "this setting can be given only in the file or the environment");
    }
    const char *value = equals != NULL ? equals + 1 : NULL;
    *ret_used = 1;
    if (value == NULL && key != NULL && key->type == NL_CONFIG_BOOL) {
        value = "true";
    }
    if (value == NULL) {
        if (i + 1 >= argc) {
            return fail(l, arg, "a value is missing after the flag");
        }
        value = argv[i + 1];
        *ret_used = 2;
    }
    return skip ? NL_OK : set_value(l, key, "command line", value);
}

static int load_flags(struct loader *l, int argc, char **argv, int *ret_argi) {
    int i = 1;
    while (i < argc && argv[i][0] == '-' && argv[i][1] != '\0') {
        if (strcmp(argv[i], "--") == 0) {
            i++;
            break;
        }
        int used = 0;
        int rv = load_flag(l, i, argc, argv, &used);
        if (rv != NL_OK) {
            return rv;
        }
        i += used;
    }
    if (ret_argi != NULL) {
        *ret_argi = i;
    }
    return NL_OK;
}

int nl_config_load(const struct nl_config_key *keys, void *target, const char *file, int argc,
                   char **argv, int *ret_argi, struct nl_config_error *error) {
    size_t count = count_keys(keys);
    struct loader l = {.keys = keys, .target = target, .error = error};
    error->text[0] = '\0';
    l.seen = calloc(count + 1, sizeof *l.seen);
    if (l.seen == NULL) {
        return fail(&l, "settings", "out of memory");
    }
    int rv = load_defaults(&l);
    memset(l.seen, 0, count * sizeof *l.seen);
    if (rv == NL_OK && file != NULL) {
        rv = load_file(&l, file);
    }
    memset(l.seen, 0, count * sizeof *l.seen);
    if (rv == NL_OK) {
        rv = load_environment(&l);
    }
    memset(l.seen, 0, count * sizeof *l.seen);
    if (rv == NL_OK) {
        rv = load_flags(&l, argc, argv, ret_argi);
    }
    free(l.seen);
    return rv;
}

const char *nl_config_file_arg(int argc, char **argv, const char *env) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--config") == 0 && i + 1 < argc) {
            return argv[i + 1];
        }
        if (strncmp(argv[i], "--config=", 9) == 0) {
            return argv[i] + 9;
        }
    }
    const char *text = env != NULL ? getenv(env) : NULL;
    return text != NULL && text[0] != '\0' ? text : NULL;
}

void nl_config_close(const struct nl_config_key *keys, void *target) {
    for (; keys->key != NULL; keys++) {
        char *field = (char *)target + keys->offset;
        if (keys->type == NL_CONFIG_STRING) {
            free(*(char **)(void *)field);
            *(char **)(void *)field = NULL;
        } else if (keys->type == NL_CONFIG_LIST) {
            list_close((struct nl_config_list *)(void *)field);
        }
    }
}

void nl_config_print_help(const struct nl_config_key *keys) {
    static const char *const values[] = {
        [NL_CONFIG_STRING] = " TEXT", [NL_CONFIG_LIST] = " A,B,...",  [NL_CONFIG_BOOL] = "",
        [NL_CONFIG_U64] = " N",       [NL_CONFIG_DURATION] = " TIME", [NL_CONFIG_SIZE] = " SIZE"};
    for (; keys->key != NULL; keys++) {
        char name[80], short_name[8] = "    ";
        if (keys->short_flag != '\0') {
            snprintf(short_name, sizeof short_name, "-%c, ", keys->short_flag);
        }
        snprintf(name, sizeof name, "%s%s%s", keys->file_only ? "" : "--", keys->key,
                 values[keys->type]);
        printf("  %s%-34s %s", short_name, name, keys->help != NULL ? keys->help : "");
        if (keys->fallback != NULL && keys->fallback[0] != '\0') {
            printf(" [%s]", keys->fallback);
        }
        if (keys->env != NULL) {
            printf(" (%s)", keys->env);
        }
        printf("%s\n", keys->file_only ? " (file only)" : "");
    }
}
