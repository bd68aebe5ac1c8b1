#include "agent/supervisor/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/supervisor/child.h"
#include "agent/supervisor/tree.h"
#include "common/base/err.h"

// ---- building the spec -----------------------------------------------------

static void free_strings(char **list) {
    for (size_t i = 0; list != NULL && list[i] != NULL; i++) {
        free(list[i]);
    }
    free(list);
}

void sup_spec_free(struct sup_spec *spec) {
    if (spec == NULL) {
        return;
    }
    free_strings(spec->argv);
    free_strings(spec->envp);
    free_strings(spec->candidates);
    free(spec->working_dir);
    free(spec->child);
    free(spec);
}

static char **copy_strings(char *const *from, size_t n) {
    char **list = calloc(n + 1, sizeof *list);
    for (size_t i = 0; list != NULL && i < n; i++) {
        list[i] = strdup(from[i]);
        if (list[i] == NULL) {
            free_strings(list);
            return NULL;
        }
    }
    return list;
}

static int build_argv(const Nodelink__V1__SupRun *run, struct sup_spec *spec, char reason[256]) {
    const Nodelink__V1__ShellOptions *options = run->options;
    const char *cmd = run->shell != NULL ? run->shell->cmd : "";
    if (options != NULL && options->n_argv > 0) {
        spec->argv = copy_strings(options->argv, options->n_argv);
    } else if (cmd[0] != '\0') {
        char *shell[] = {(char *)(uintptr_t) "/bin/sh", (char *)(uintptr_t) "-c",
                         (char *)(uintptr_t)cmd};
        spec->argv = copy_strings(shell, 3);
    } else {
        snprintf(reason, 256, "there is no command to run");
        return NL_EINVAL;
    }
    if (spec->argv != NULL && spec->argv[0][0] == '\0') {
        snprintf(reason, 256, "the program's name is empty");
        return NL_EINVAL;
    }
    return spec->argv != NULL ? NL_OK : NL_ENOMEM;
}

// Replaces an entry of the same name. `list` has room.
static int put_env(char **list, size_t *count, const char *entry) {
    size_t name_len = strcspn(entry, "=") + 1;
    char *copy = strdup(entry);
    if (copy == NULL) {
        return NL_ENOMEM;
    }
    for (size_t i = 0; i < *count; i++) {
        if (strncmp(list[i], entry, name_len) == 0) {
            free(list[i]);
            list[i] = copy;
            return NL_OK;
        }
    }
    list[(*count)++] = copy;
    return NL_OK;
}

__attribute__((format(printf, 3, 4))) static int put_env_format(char **list, size_t *count,
                                                                const char *fmt, ...) {
    char *entry = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&entry, fmt, args);
    va_end(args);
    if (n < 0) {
        return NL_ENOMEM;
    }
    int rv = put_env(list, count, entry);
    free(entry);
    return rv;
}

static int put_base_env(char **list, size_t *count) {
    static const struct {
        const char *name, *fallback;
    } base[] = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                {"HOME", "/"},
                {"USER", NULL},
                {"LOGNAME", NULL},
                {"SHELL", "/bin/sh"},
                {"LANG", NULL},
                {"LC_ALL", NULL},
                {"TZ", NULL},
                {"TMPDIR", NULL}};
    int rv = NL_OK;
    for (size_t i = 0; i < sizeof base / sizeof base[0] && rv == NL_OK; i++) {
        const char *value = getenv(base[i].name);
        value = value != NULL ? value : base[i].fallback;
        if (value != NULL) {
            rv = put_env_format(list, count, "%s=%s", base[i].name, value);
        }
    }
    return rv;
}

// The marks come last: a request can't pass its processes off as another task's.
static int put_marks(char **list, size_t *count, const Nodelink__V1__SupRun *run,
                     const struct sup_spec_context *context) {
    int rv = put_env_format(list, count, "NODELINK_TASK_ID=%s", run->task_id);
    if (rv == NL_OK) {
        rv = put_env_format(list, count, "NODELINK_ATTEMPT=%u", run->attempt);
    }
    if (rv == NL_OK) {
        rv = put_env_format(list, count, SUP_TREE_MARK "%s", context->journal_id);
    }
    if (rv == NL_OK && context->agent_id != NULL) {
        rv = put_env_format(list, count, "NODELINK_AGENT_ID=%s", context->agent_id);
    }
    return rv;
}

static int build_env(const Nodelink__V1__SupRun *run, const struct sup_spec_context *context,
                     struct sup_spec *spec, char reason[256]) {
    size_t given = run->shell != NULL ? run->shell->n_env : 0, count = 0;
    spec->envp = calloc(given + 16, sizeof *spec->envp);
    if (spec->envp == NULL) {
        return NL_ENOMEM;
    }
    int rv = put_base_env(spec->envp, &count);
    for (size_t i = 0; i < given && rv == NL_OK; i++) {
        const char *entry = run->shell->env[i];
        const char *equals = strchr(entry, '=');
        if (equals == NULL || equals == entry) {
            snprintf(reason, 256, "environment entry %zu is not of the form KEY=VALUE", i + 1);
            return NL_EINVAL;
        }
        rv = put_env(spec->envp, &count, entry);
    }
    return rv == NL_OK ? put_marks(spec->envp, &count, run, context) : rv;
}

static const char *find_env(char *const *envp, const char *name) {
    size_t len = strlen(name);
    for (; *envp != NULL; envp++) {
        if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=') {
            return *envp + len + 1;
        }
    }
    return NULL;
}

// The search along PATH is prepared here: execvp is not async-signal-safe.
static int build_candidates(struct sup_spec *spec) {
    const char *program = spec->argv[0];
    const char *path = find_env(spec->envp, "PATH");
    bool search = strchr(program, '/') == NULL && path != NULL && path[0] != '\0';
    size_t n = 1;
    for (const char *p = path; search && *p != '\0'; p++) {
        n += *p == ':';
    }
    spec->candidates = calloc(n + 1, sizeof *spec->candidates);
    if (spec->candidates == NULL) {
        return NL_ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        size_t len = search ? strcspn(path, ":") : 0;
        int rv = len > 0 ? asprintf(&spec->candidates[i], "%.*s/%s", (int)len, path, program)
                         : asprintf(&spec->candidates[i], "%s%s", search ? "./" : "", program);
        if (rv < 0) {
            spec->candidates[i] = NULL;
            return NL_ENOMEM;
        }
        path = search ? path + len + 1 : NULL;
    }
    return NL_OK;
}

int sup_spec_new(const Nodelink__V1__SupRun *run, const struct sup_spec_context *context,
                 char reason[256], struct sup_spec **ret) {
    snprintf(reason, 256, "out of memory");
    struct sup_spec *spec = calloc(1, sizeof *spec);
    int rv = spec == NULL ? NL_ENOMEM : build_argv(run, spec, reason);
    if (rv == NL_OK) {
        rv = build_env(run, context, spec, reason);
    }
    if (rv == NL_OK) {
        rv = build_candidates(spec);
    }
    if (rv == NL_OK && run->shell != NULL && run->shell->working_dir[0] != '\0') {
        spec->working_dir = strdup(run->shell->working_dir);
        rv = spec->working_dir == NULL ? NL_ENOMEM : NL_OK;
    }
    if (rv != NL_OK) {
        sup_spec_free(spec);
        return rv;
    }
    *ret = spec;
    return NL_OK;
}

// ---- the parent ------------------------------------------------------------

static void close_all(int *fds, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
            fds[i] = -1;
        }
    }
}

enum { OUT_R, OUT_W, ERR_R, ERR_W, STATUS_R, STATUS_W, FD_COUNT };

static int open_fds(int fds[FD_COUNT]) {
    for (int i = 0; i < FD_COUNT; i++) {
        fds[i] = -1;
    }
    int rv = 0;
    for (int i = OUT_R; i <= STATUS_R && rv >= 0; i += 2) {
        rv = pipe2(&fds[i], O_CLOEXEC);
        if (rv == 0) {
            rv = fcntl(fds[i], F_SETFL, O_NONBLOCK);
        }
    }
    if (rv < 0) {
        int kept = errno;
        close_all(fds, FD_COUNT);
        errno = kept;
        return -1;
    }
    return 0;
}

static pid_t start_child(struct sup_spec *spec, const struct sup_spawn_base *base,
                         const int fds[FD_COUNT]) {
    if (spec->child == NULL) {
        spec->child = malloc(sizeof *spec->child);
    }
    if (spec->child == NULL) {
        errno = ENOMEM;
        return -1;
    }
    spec->child->request = (struct sup_child_request){
        .candidates = spec->candidates,
        .argv = spec->argv,
        .envp = spec->envp,
        .working_dir = spec->working_dir,
        .base = base,
        .in = base->null_fd,
        .out = {fds[OUT_W], fds[ERR_W]},
        .status = fds[STATUS_W],
        .parent = getpid(),
    };
    return sup_child_start(spec->child);
}

int sup_spawn(struct sup_spec *spec, const struct sup_spawn_base *base, char reason[256],
              struct sup_spawned *ret) {
    int fds[FD_COUNT];
    pid_t pid = open_fds(fds) == 0 ? start_child(spec, base, fds) : -1;
    if (pid < 0) {
        int kept = errno;
        snprintf(reason, 256, "can't make a process: %s", strerror(kept));
        close_all(fds, FD_COUNT);
        return nl_err_from_errno(kept);
    }
    int ours[] = {fds[OUT_W], fds[ERR_W], fds[STATUS_W]};
    close_all(ours, 3);
    *ret = (struct sup_spawned){.pid = pid,
                                .start = sup_proc_start(pid),
                                .status_fd = fds[STATUS_R],
                                .out_fds = {fds[OUT_R], fds[ERR_R]}};
    return NL_OK;
}

void sup_spawn_explain(const struct sup_spec *spec, const uint8_t status[SUP_STATUS_LEN],
                       char reason[256]) {
    int32_t got[2];
    memcpy(got, status, sizeof got);
    const char *why = strerror(got[1]);
    if (got[0] == SUP_CHILD_DIRECTORY) {
        snprintf(reason, 256, "working directory '%.160s': %s", spec->working_dir, why);
    } else if (got[0] == SUP_CHILD_PROGRAM) {
        snprintf(reason, 256, "program '%.160s': %s", spec->argv[0], why);
    } else {
        snprintf(reason, 256, "can't set the process up: %s", why);
    }
}
