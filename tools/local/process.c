#include "tools/local/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/config.h"
#include "common/base/err.h"
#include "common/base/fs.h"

enum { STAT_BYTES = 1024, PATH_BYTES = 4096, ENVIRON_BYTES = 1 << 20, CLOCK_SLACK_MS = 2000 };

struct stat_line {
    char state;
    pid_t parent;
    unsigned threads;
    uint64_t start;
};

static int read_small(const char *path, char *out, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return NL_ENOTFOUND;
    }
    ssize_t n = read(fd, out, size - 1);
    close(fd);
    if (n <= 0) {
        return NL_ENOTFOUND;
    }
    out[n] = '\0';
    return NL_OK;
}

// The name in parentheses may hold anything, so the fields are counted from the last one.
static int read_stat(pid_t pid, struct stat_line *ret) {
    char path[64];
    char text[STAT_BYTES];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_small(path, text, sizeof text) != NL_OK) {
        return NL_ENOTFOUND;
    }
    const char *rest = strrchr(text, ')');
    int parent = 0;
    unsigned long long start = 0;
    if (rest == NULL ||
        sscanf(rest + 1,
               " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %u %*d %llu",
               &ret->state, &parent, &ret->threads, &start) != 4) {
        return NL_ENOTFOUND;
    }
    ret->parent = parent;
    ret->start = start;
    // The first thread is a zombie from its own end on, but the others hold the ports and locks
    // until they have ended too.
    bool zombie = ret->state == 'Z' || ret->state == 'X';
    return zombie && ret->threads <= 1 ? NL_ENOTFOUND : NL_OK;
}

int nl_process_of_pid(pid_t pid, struct nl_process *ret) {
    struct stat_line line;
    if (pid <= 0 || read_stat(pid, &line) != NL_OK) {
        return NL_ENOTFOUND;
    }
    *ret = (struct nl_process){pid, line.start};
    return NL_OK;
}

static bool runs_program(pid_t pid, const char *program) {
    char path[64];
    char exe[PATH_BYTES];
    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    ssize_t n = readlink(path, exe, sizeof exe - 1);
    if (n <= 0) {
        return false;
    }
    exe[n] = '\0';
    const char *name = strrchr(exe, '/');
    name = name != NULL ? name + 1 : exe;
    size_t len = strlen(program);
    // A program that was built anew shows as "NAME (deleted)".
    return strncmp(name, program, len) == 0 && (name[len] == '\0' || name[len] == ' ');
}

static uint64_t started_wall_ms(const struct nl_process *process) {
    char text[128];
    double uptime = 0;
    if (read_small("/proc/uptime", text, sizeof text) != NL_OK ||
        sscanf(text, "%lf", &uptime) != 1) {
        return 0;
    }
    uint64_t since_boot_ms = process->start * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
    return nl_clock_wall_ms() - (uint64_t)(uptime * 1000) + since_boot_ms;
}

int nl_process_of_file(const char *path, const char *program, struct nl_process *ret) {
    char text[64];
    struct stat st;
    uint64_t pid = 0;
    struct nl_process process;
    if (stat(path, &st) != 0 || read_small(path, text, sizeof text) != NL_OK) {
        return NL_ENOTFOUND;
    }
    text[strcspn(text, " \n")] = '\0';
    if (nl_parse_u64(text, &pid) != NL_OK || pid > INT32_MAX ||
        nl_process_of_pid((pid_t)pid, &process) != NL_OK || !runs_program(process.pid, program)) {
        return NL_ENOTFOUND;
    }
    uint64_t written_ms =
        (uint64_t)st.st_mtim.tv_sec * 1000 + (uint64_t)st.st_mtim.tv_nsec / 1000000;
    if (started_wall_ms(&process) > written_ms + CLOCK_SLACK_MS) {
        return NL_ENOTFOUND;
    }
    *ret = process;
    return NL_OK;
}

enum nl_process_state nl_process_state(const struct nl_process *process) {
    struct stat_line line;
    if (process->pid <= 0) {
        return NL_PROCESS_GONE;
    }
    // A child of this very process stays a zombie until it is waited for.
    waitpid(process->pid, NULL, WNOHANG);
    if (read_stat(process->pid, &line) != NL_OK || line.start != process->start) {
        return NL_PROCESS_GONE;
    }
    return line.state == 'T' ? NL_PROCESS_PAUSED : NL_PROCESS_RUNNING;
}

int nl_process_signal(const struct nl_process *process, int number) {
    if (process->pid <= 0) {
        return NL_ENOTFOUND;
    }
    int fd = pidfd_open(process->pid, 0);
    if (fd < 0) {
        return NL_ENOTFOUND;
    }
    int rc = NL_ENOTFOUND;
    if (nl_process_state(process) != NL_PROCESS_GONE) {
        rc = pidfd_send_signal(fd, number, NULL, 0) == 0 ? NL_OK
             : errno == ESRCH                            ? NL_ENOTFOUND
                                                         : NL_EPERM;
    }
    close(fd);
    return rc;
}

// ---- start -----------------------------------------------------------------

static int set_up(posix_spawn_file_actions_t *files, posix_spawnattr_t *attr, const char *log) {
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    short flags = POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    int bad = posix_spawnattr_setflags(attr, flags);
    bad |= posix_spawnattr_setsigmask(attr, &none);
    bad |= posix_spawnattr_setsigdefault(attr, &all);
    bad |= posix_spawn_file_actions_addopen(files, 0, "/dev/null", O_RDONLY, 0);
    bad |= posix_spawn_file_actions_addopen(files, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    bad |= posix_spawn_file_actions_adddup2(files, 1, 2);
    bad |= posix_spawn_file_actions_addclosefrom_np(files, 3);
    return bad == 0 ? NL_OK : NL_ENOMEM;
}

int nl_process_start(char *const argv[], char *const environment[], const char *log,
                     struct nl_process *ret) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    pid_t pid = 0;
    if (posix_spawn_file_actions_init(&files) != 0) {
        return NL_ENOMEM;
    }
    if (posix_spawnattr_init(&attr) != 0) {
        posix_spawn_file_actions_destroy(&files);
        return NL_ENOMEM;
    }
    int rc = set_up(&files, &attr, log);
    if (rc == NL_OK) {
        int error = posix_spawn(&pid, argv[0], &files, &attr, argv, environment);
        rc = error == 0 ? NL_OK : nl_err_from_errno(error);
    }
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    // One that ended at once is gone already: its pid is kept, its log says why.
    if (rc == NL_OK && nl_process_of_pid(pid, ret) != NL_OK) {
        *ret = (struct nl_process){pid, 0};
    }
    return rc;
}

// ---- descendants -----------------------------------------------------------

struct entry {
    struct nl_process process;
    pid_t parent;
    bool ours;
};

static int read_all(struct entry **ret, size_t *ret_count) {
    DIR *dir = opendir("/proc");
    struct entry *entries = NULL;
    size_t n = 0;
    if (dir == NULL) {
        return NL_EIO;
    }
    for (struct dirent *d = readdir(dir); d != NULL; d = readdir(dir)) {
        struct stat_line line;
        uint64_t pid = 0;
        if (nl_parse_u64(d->d_name, &pid) != NL_OK || pid > INT32_MAX ||
            read_stat((pid_t)pid, &line) != NL_OK) {
            continue;
        }
        struct entry *more = realloc(entries, (n + 1) * sizeof *entries);
        if (more == NULL) {
            free(entries);
            closedir(dir);
            return NL_ENOMEM;
        }
        entries = more;
        entries[n++] = (struct entry){{(pid_t)pid, line.start}, line.parent, false};
    }
    closedir(dir);
    *ret = entries;
    *ret_count = n;
    return NL_OK;
}

static bool has_environment(pid_t pid, const char *entry, char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    size_t len = 0;
    for (ssize_t n = 1; n > 0 && len<ENVIRON_BYTES - 1; len += n> 0 ? (size_t)n : 0) {
        n = read(fd, text + len, ENVIRON_BYTES - 1 - len);
    }
    close(fd);
    text[len] = '\0';
    for (const char *at = text; at < text + len; at += strlen(at) + 1) {
        if (strcmp(at, entry) == 0) {
            return true;
        }
    }
    return false;
}

// The marked ones; takes the entries.
static int take_marked(struct entry *entries, size_t n, struct nl_process **ret,
                       size_t *ret_count) {
    struct nl_process *found = calloc(n + 1, sizeof *found);
    size_t at = 0;
    for (size_t i = 0; found != NULL && i < n; i++) {
        if (entries[i].ours) {
            found[at++] = entries[i].process;
        }
    }
    free(entries);
    if (found == NULL) {
        return NL_ENOMEM;
    }
    *ret = found;
    *ret_count = at;
    return NL_OK;
}

int nl_process_with_environment(const char *entry, struct nl_process **ret, size_t *ret_count) {
    struct entry *entries = NULL;
    size_t n = 0;
    char *text = malloc(ENVIRON_BYTES);
    int rc = text != NULL ? read_all(&entries, &n) : NL_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        entries[i].ours = has_environment(entries[i].process.pid, entry, text);
    }
    free(text);
    return rc == NL_OK ? take_marked(entries, n, ret, ret_count) : rc;
}

// Marks the children of marked ones until nothing changes.
static void mark(struct entry *entries, size_t n, pid_t root) {
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < n; i++) {
            bool child = entries[i].parent == root;
            for (size_t j = 0; j < n && !child; j++) {
                child = entries[j].ours && entries[j].process.pid == entries[i].parent;
            }
            if (child && !entries[i].ours) {
                entries[i].ours = true;
                changed = true;
            }
        }
    }
}

int nl_process_descendants(const struct nl_process *root, struct nl_process **ret,
                           size_t *ret_count) {
    struct entry *entries = NULL;
    size_t n = 0;
    if (nl_process_state(root) == NL_PROCESS_GONE) {
        *ret = NULL;
        *ret_count = 0;
        return NL_OK;
    }
    int rc = read_all(&entries, &n);
    if (rc != NL_OK) {
        return rc;
    }
    mark(entries, n, root->pid);
    return take_marked(entries, n, ret, ret_count);
}
