#include "tools/args.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/config.h"
#include "common/base/err.h"

enum { NAMES_MAX = 128, WORD_MAX = 64, HELP_COLUMN = 30 };

static void *field(const struct nl_arg_set *set, const struct nl_arg *arg) {
    return (char *)set->options + arg->offset;
}

static int list_add(struct nl_arg_list *list, const char *value) {
    const char **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (items == NULL) {
        return NL_ENOMEM;
    }
    items[list->count++] = value;
    list->items = items;
    return NL_OK;
}

// "a|b|c" lists the only values; anything else is just a name for --help.
static bool is_choice(const struct nl_arg *arg, const char *value) {
    if (arg->value == NULL || strchr(arg->value, '|') == NULL) {
        return true;
    }
    size_t len = strlen(value);
    for (const char *at = arg->value; at != NULL; at = strchr(at, '|')) {
        at += *at == '|';
        if (len > 0 && strncmp(at, value, len) == 0 && (at[len] == '|' || at[len] == '\0')) {
            return true;
        }
    }
    return false;
}

static int parse_seconds(const char *value, uint64_t *ret_ms) {
    uint64_t seconds = 0;
    if (nl_parse_u64(value, &seconds) != NL_OK) {
        return nl_parse_duration_ms(value, ret_ms);
    }
    if (seconds > UINT64_MAX / 1000) {
        return NL_EINVAL;
    }
    *ret_ms = seconds * 1000;
    return NL_OK;
}

static int set_value(const struct nl_arg_set *set, const struct nl_arg *arg, const char *value) {
    void *to = field(set, arg);
    switch (arg->type) {
        case NL_ARG_BOOL:
            *(bool *)to = true;
            return NL_OK;
        case NL_ARG_STRING:
            if (!is_choice(arg, value)) {
                return NL_EINVAL;
            }
            *(const char **)to = value;
            return NL_OK;
        case NL_ARG_LIST:
            return list_add(to, value);
        case NL_ARG_U64:
            return nl_parse_u64(value, to);
        case NL_ARG_DURATION:
            return nl_parse_duration_ms(value, to);
        case NL_ARG_SECONDS:
            return parse_seconds(value, to);
    }
    return NL_EINVAL;
}

int nl_args_init(const struct nl_arg_set *set) {
    for (const struct nl_arg *arg = set->args; arg->name != NULL; arg++) {
        if (arg->fallback != NULL) {
            int rc = set_value(set, arg, arg->fallback);
            if (rc != NL_OK) {
                return rc;
            }
        }
    }
    return NL_OK;
}

void nl_args_close(const struct nl_arg_set *set) {
    for (const struct nl_arg *arg = set->args; arg->name != NULL; arg++) {
        if (arg->type == NL_ARG_LIST) {
            struct nl_arg_list *list = field(set, arg);
            free(list->items);
            *list = (struct nl_arg_list){0};
        }
    }
}

void nl_operands_close(struct nl_operands *operands) {
    free(operands->items);
    *operands = (struct nl_operands){0};
}

static size_t min3(size_t a, size_t b, size_t c) {
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

// Levenshtein; words are short, one row is enough.
static size_t distance(const char *a, const char *b) {
    size_t row[WORD_MAX + 1];
    size_t n = strnlen(b, WORD_MAX);
    for (size_t j = 0; j <= n; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= strnlen(a, WORD_MAX); i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = min3(row[j] + 1, row[j - 1] + 1, change);
        }
    }
    return row[n];
}

const char *nl_args_nearest(const char *word, const char *const *names) {
    const char *best = NULL;
    size_t best_distance = (strlen(word) + 1) / 2 + 1;  // beyond that it is a guess, not help
    for (; *names != NULL; names++) {
        size_t d = distance(word, *names);
        bool beginning = strlen(word) >= 2 && strncmp(word, *names, strlen(word)) == 0;
        if (beginning) {
            d = 1;
        }
        if (d < best_distance) {
            best = *names;
            best_distance = d;
        }
    }
    return best;
}

static void unknown_flag(const struct nl_arg_set *sets, const char *name, size_t len, char *error,
                         size_t error_size) {
    const char *names[NAMES_MAX + 1] = {"help"};
    size_t n = 1;
    for (; sets->args != NULL; sets++) {
        for (const struct nl_arg *arg = sets->args; arg->name != NULL && n < NAMES_MAX; arg++) {
            names[n++] = arg->name;
        }
    }
    char word[WORD_MAX];
    snprintf(word, sizeof word, "%.*s", (int)(len < sizeof word ? len : sizeof word - 1), name);
    const char *nearest = nl_args_nearest(word, names);
    if (nearest != NULL) {
        snprintf(error, error_size, "unknown flag --%s; did you mean --%s?", word, nearest);
    } else {
        snprintf(error, error_size, "unknown flag --%s", word);
    }
}

static bool matches(const struct nl_arg *arg, const char *name, size_t len, bool is_short) {
    if (is_short) {
        return len == 1 && arg->short_name != '\0' && arg->short_name == *name;
    }
    return strlen(arg->name) == len && strncmp(arg->name, name, len) == 0;
}

static const struct nl_arg *find(const struct nl_arg_set **sets, const char *name, size_t len,
                                 bool is_short) {
    for (; (*sets)->args != NULL; (*sets)++) {
        for (const struct nl_arg *arg = (*sets)->args; arg->name != NULL; arg++) {
            if (matches(arg, name, len, is_short)) {
                return arg;
            }
        }
    }
    return NULL;
}

static int bad_value(const struct nl_arg *arg, const char *value, char *error, size_t size) {
    static const char *const WANTED[] = {
        [NL_ARG_STRING] = "one of these: ",
        [NL_ARG_U64] = "a number",
        [NL_ARG_DURATION] = "a duration like 250ms, 10s, 5m or 2h",
        [NL_ARG_SECONDS] = "seconds, or a duration like 250ms, 10s, 5m",
    };
    const char *choices = arg->type == NL_ARG_STRING ? arg->value : "";
    snprintf(error, size, "--%s '%s': it has to be %s%s", arg->name, value, WANTED[arg->type],
             choices);
    return NL_EINVAL;
}

// Takes the flag at argv[*at] and its value; *at is left at the last one used.
static int parse_flag(const struct nl_arg_set *sets, int argc, char **argv, int *at, char *error,
                      size_t size) {
    const char *text = argv[*at];
    bool is_short = text[1] != '-';
    const char *name = text + (is_short ? 1 : 2);
    const char *equals = is_short ? NULL : strchr(name, '=');
    size_t len = is_short ? 1 : equals != NULL ? (size_t)(equals - name) : strlen(name);
    const char *attached = equals != NULL ? equals + 1 : NULL;
    if (is_short && name[1] != '\0') {
        attached = name + 1;
    }
    const struct nl_arg_set *set = sets;
    const struct nl_arg *arg = find(&set, name, len, is_short);
    if (arg == NULL && is_short) {
        snprintf(error, size, "unknown flag %s; a command's own flags go behind --", text);
        return NL_EINVAL;
    }
    if (arg == NULL) {
        unknown_flag(sets, name, len, error, size);
        return NL_EINVAL;
    }
    if (arg->type == NL_ARG_BOOL) {
        if (attached != NULL) {
            snprintf(error, size, "--%s takes no value", arg->name);
            return NL_EINVAL;
        }
        return set_value(set, arg, NULL);
    }
    if (attached == NULL && (*at + 1 >= argc || strcmp(argv[*at + 1], "--") == 0)) {
        snprintf(error, size, "--%s needs a value: --%s %s", arg->name, arg->name,
                 arg->value != NULL ? arg->value : "VALUE");
        return NL_EINVAL;
    }
    const char *value = attached != NULL ? attached : argv[++*at];
    int rc = set_value(set, arg, value);
    return rc == NL_EINVAL ? bad_value(arg, value, error, size) : rc;
}

static bool is_flag(const char *text) {
    return text[0] == '-' && text[1] != '\0' && strcmp(text, "--") != 0;
}

int nl_args_parse(const struct nl_arg_set *sets, int argc, char **argv, struct nl_operands *ret,
                  char *error, size_t error_size) {
    *ret = (struct nl_operands){.items = calloc((size_t)argc + 1, sizeof(char *))};
    if (ret->items == NULL) {
        snprintf(error, error_size, "out of memory");
        return NL_ENOMEM;
    }
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            ret->command = argv + i + 1;
            ret->n_command = (size_t)(argc - i - 1);
            return NL_OK;
        }
        if (!is_flag(argv[i])) {
            ret->items[ret->count++] = argv[i];
            continue;
        }
        int rc = parse_flag(sets, argc, argv, &i, error, error_size);
        if (rc != NL_OK) {
            return rc;
        }
    }
    return NL_OK;
}

int nl_args_parse_leading(const struct nl_arg_set *sets, int argc, char **argv, int *ret_index,
                          char *error, size_t error_size) {
    int i = 0;
    for (; i < argc && is_flag(argv[i]); i++) {
        int rc = parse_flag(sets, argc, argv, &i, error, error_size);
        if (rc != NL_OK) {
            return rc;
        }
    }
    *ret_index = i;
    return NL_OK;
}

static bool has_name(const struct nl_arg *args, const char *name) {
    for (; args != NULL && args->name != NULL; args++) {
        if (strcmp(args->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static void print_arg(FILE *out, const struct nl_arg *arg) {
    char left[WORD_MAX * 2];
    int n = arg->short_name != '\0'
                ? snprintf(left, sizeof left, "  -%c, --%s", arg->short_name, arg->name)
                : snprintf(left, sizeof left, "  --%s", arg->name);
    if (arg->type != NL_ARG_BOOL && n > 0 && (size_t)n < sizeof left) {
        snprintf(left + n, sizeof left - (size_t)n, " %s",
                 arg->value != NULL ? arg->value : "VALUE");
    }
    bool wide = strlen(left) >= HELP_COLUMN - 1;
    fprintf(out, "%-*s%s", wide ? 0 : HELP_COLUMN, left, wide ? "\n" : "");
    fprintf(out, "%*s%s", wide ? HELP_COLUMN : 0, "", arg->help);
    if (arg->fallback != NULL) {
        fprintf(out, " (default %s)", arg->fallback);
    }
    fprintf(out, "%s\n", arg->type == NL_ARG_LIST ? " (may be repeated)" : "");
}

void nl_args_print_help(FILE *out, const struct nl_arg *args, const struct nl_arg *hidden) {
    for (; args->name != NULL; args++) {
        if (!has_name(hidden, args->name)) {
            print_arg(out, args);
        }
    }
}
