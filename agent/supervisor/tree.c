#include "agent/supervisor/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/err.h"

enum { ENVIRON_BYTES_MAX = 2 * 1024 * 1024, STAT_BYTES = 1024 };

struct proc {
    pid_t pid, ppid, group, session;
    char state;
    uint64_t start;
    bool ours;  // descends from the supervisor
    bool examined;
    const struct sup_task *task;  // NULL: none of a task's
};

struct sup_tree {
    const struct sup_core *core;
    const char *journal_id;
    struct proc *procs;  // by pid
    size_t count, cap;
    char *environ_text;  // scratch
};

// ---- /proc -----------------------------------------------------------------

static ssize_t read_file(const char *path, char *out, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    size_t len = 0;
    ssize_t n = 1;
    while (n > 0 && len < size - 1) {
        n = read(fd, out + len, size - 1 - len);
        len += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    out[len] = '\0';
    return n < 0 ? -1 : (ssize_t)len;
}

// The name in parentheses may hold anything, parentheses included: fields count from the last.
static bool read_stat(pid_t pid, struct proc *ret) {
    char path[64], text[STAT_BYTES];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_file(path, text, sizeof text) <= 0) {
        return false;
    }
    const char *after = strrchr(text, ')');
    int ppid = 0, group = 0, session = 0;
    unsigned long long start = 0;
    char state = 0;
    if (after == NULL ||
        sscanf(after + 1,
               " %c %d %d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &state, &ppid, &group, &session, &start) != 5) {
        return false;
    }
    *ret = (struct proc){.pid = pid,
                         .ppid = ppid,
                         .group = group,
                         .session = session,
                         .state = state,
                         .start = start};
    return true;
}

uint64_t sup_proc_start(pid_t pid) {
    struct proc p;
    return read_stat(pid, &p) ? p.start : 0;
}

void sup_proc_boot_id(uint8_t out[16]) {
    char text[64], digits[33];
    size_t n = 0;
    memset(out, 0, 16);
    if (read_file("/proc/sys/kernel/random/boot_id", text, sizeof text) <= 0) {
        return;
    }
    for (const char *p = text; *p != '\0' && n < 32; p++) {
        if (*p != '-' && *p != '\n') {
            digits[n++] = *p;
        }
    }
    digits[n] = '\0';
    if (nl_hex_decode(digits, out, 16) != NL_OK) {
        memset(out, 0, 16);
    }
}

static const char *entry_value(const char *text, size_t len, const char *name) {
    size_t name_len = strlen(name);
    for (const char *at = text; at < text + len; at += strlen(at) + 1) {
        if (strncmp(at, name, name_len) == 0) {
            return at + name_len;
        }
    }
    return NULL;
}

static const struct sup_task *task_of_environment(struct sup_tree *tree, pid_t pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    ssize_t n = read_file(path, tree->environ_text, ENVIRON_BYTES_MAX);
    if (n <= 0) {
        return NULL;
    }
    const char *mark = entry_value(tree->environ_text, (size_t)n, SUP_TREE_MARK);
    const char *id = entry_value(tree->environ_text, (size_t)n, "NODELINK_TASK_ID=");
    const char *attempt = entry_value(tree->environ_text, (size_t)n, "NODELINK_ATTEMPT=");
    if (mark == NULL || id == NULL || attempt == NULL || strcmp(mark, tree->journal_id) != 0) {
        return NULL;
    }
    return sup_core_find(tree->core, id, (uint32_t)strtoul(attempt, NULL, 10));
}

// ---- the picture -----------------------------------------------------------

struct sup_tree *sup_tree_new(const struct sup_core *core, const char *journal_id) {
    struct sup_tree *tree = calloc(1, sizeof *tree);
    char *text = malloc(ENVIRON_BYTES_MAX);
    if (tree == NULL || text == NULL) {
        free(tree);
        free(text);
        return NULL;
    }
    tree->core = core;
    tree->journal_id = journal_id;
    tree->environ_text = text;
    return tree;
}

void sup_tree_free(struct sup_tree *tree) {
    if (tree != NULL) {
        free(tree->procs);
        free(tree->environ_text);
        free(tree);
    }
}

static int add(struct sup_tree *tree, const struct proc *p) {
    if (tree->count == tree->cap) {
        size_t cap = tree->cap == 0 ? 256 : tree->cap * 2;
        struct proc *procs = realloc(tree->procs, cap * sizeof *procs);
        if (procs == NULL) {
            return NL_ENOMEM;
        }
        tree->procs = procs;
        tree->cap = cap;
    }
    tree->procs[tree->count++] = *p;
    return NL_OK;
}

static int by_pid(const void *a, const void *b) {
    const struct proc *x = a, *y = b;
    return (x->pid > y->pid) - (x->pid < y->pid);
}

static struct proc *find(const struct sup_tree *tree, pid_t pid) {
    struct proc key = {.pid = pid};
    return tree->count == 0 ? NULL : bsearch(&key, tree->procs, tree->count, sizeof key, by_pid);
}

static int read_all(struct sup_tree *tree) {
    DIR *dir = opendir("/proc");
    if (dir == NULL) {
        return NL_EIO;
    }
    tree->count = 0;
    int rv = NL_OK;
    for (struct dirent *e = readdir(dir); e != NULL && rv == NL_OK; e = readdir(dir)) {
        struct proc p;
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' &&
            read_stat((pid_t)strtol(e->d_name, NULL, 10), &p)) {
            rv = add(tree, &p);
        }
    }
    closedir(dir);
    if (tree->count > 0) {
        qsort(tree->procs, tree->count, sizeof tree->procs[0], by_pid);
    }
    return rv;
}

// A chain of parents that ends at the supervisor. /proc is read while it changes: the bound
// keeps a cycle of recycled pids from looping for ever.
static bool descends(const struct sup_tree *tree, const struct proc *p, pid_t self) {
    for (int depth = 0; p != NULL && depth < 4096; depth++) {
        if (p->ppid == self) {
            return true;
        }
        p = p->ppid > 1 ? find(tree, p->ppid) : NULL;
    }
    return false;
}

// Session or group led by the main process. Once that is reaped its number could be another's,
// but not among our own descendants as long as any process of the session lives.
static const struct sup_task *task_of_session(const struct sup_tree *tree, const struct proc *p) {
    for (const struct sup_task *t = sup_core_walk(tree->core, NULL); t != NULL;
         t = sup_core_walk(tree->core, t)) {
        if (t->pid == 0 || (p->session != t->pid && p->group != t->pid)) {
            continue;
        }
        const struct proc *leader = find(tree, t->pid);
        bool proven = leader != NULL && leader->start == t->pid_start;
        if (proven || (p->ours && t->phase < SUP_RECORDING)) {
            return t;
        }
    }
    return NULL;
}

static const struct sup_task *task_of(struct sup_tree *tree, struct proc *p, int depth) {
    if (p->examined || depth > 4096) {
        return p->task;
    }
    p->examined = true;
    p->task = task_of_environment(tree, p->pid);
    if (p->task == NULL) {
        p->task = task_of_session(tree, p);
    }
    struct proc *parent = p->task == NULL && p->ppid > 1 ? find(tree, p->ppid) : NULL;
    if (parent != NULL && parent->pid != getpid()) {
        p->task = task_of(tree, parent, depth + 1);
    }
    return p->task;
}

int sup_tree_refresh(struct sup_tree *tree, bool everywhere) {
    int rv = read_all(tree);
    if (rv != NL_OK) {
        return rv;
    }
    pid_t self = getpid();
    for (size_t i = 0; i < tree->count; i++) {
        tree->procs[i].ours = descends(tree, &tree->procs[i], self);
        // Nobody else's processes: not read, not counted, never signalled.
        tree->procs[i].examined =
            !(tree->procs[i].ours || everywhere) || tree->procs[i].pid == self;
    }
    for (size_t i = 0; i < tree->count; i++) {
        task_of(tree, &tree->procs[i], 0);
    }
    return NL_OK;
}

static bool living(const struct proc *p) {
    return p->state != 'Z' && p->state != 'X';
}

size_t sup_tree_count(const struct sup_tree *tree, const struct sup_task *task) {
    size_t n = 0;
    for (size_t i = 0; i < tree->count; i++) {
        n += tree->procs[i].task == task && living(&tree->procs[i]);
    }
    return n;
}

// By pidfd, after checking that the number still names the process of the picture.
static void signal_one(const struct proc *p, int sig) {
    int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
    if (fd < 0) {
        return;
    }
    if (sup_proc_start(p->pid) == p->start) {
        syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0);
        if (sig == SIGTERM) {
            syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0);
        }
    }
    close(fd);
}

void sup_tree_signal(const struct sup_tree *tree, const struct sup_task *task, int sig) {
    // While the main process is not reaped its group can't be anybody else's, and one call
    // reaches those too that were forked since the picture was taken.
    bool group = !task->exited && task->pid > 0;
    if (group && kill(-task->pid, sig) != 0) {
        kill(task->pid, sig);  // it has not made its session yet
    }
    if (group && sig == SIGTERM) {
        kill(-task->pid, SIGCONT);
    }
    for (size_t i = 0; i < tree->count; i++) {
        const struct proc *p = &tree->procs[i];
        if (p->task == task && living(p) && !(group && p->group == task->pid)) {
            signal_one(p, sig);
        }
    }
}
