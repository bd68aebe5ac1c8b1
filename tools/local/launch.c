#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/fs.h"
#include "tools/local/local.h"

extern char **environ;

enum {
    AGENT_STOP_MS = 5000,
    NODE_STOP_MS = 10000,
    KILL_MS = 3000,
    POLL_MS = 20,
    LOG_TAIL_LINES = 15,
    LOG_BYTES_MAX = 64 << 20,
    FIXED_AGENT_ARGS = 10,
    JOURNAL_MARK_BYTES = 128,
    ORPHAN_PASSES = 3,
};

void nl_local_node_log(const struct nl_local_node *node, char *out) {
    nl_local_path(out, node->dir, "nodelinkd.log");
}

void nl_local_agent_log(const struct nl_local_agent *agent, char *out) {
    nl_local_path(out, agent->dir, "agent.log");
}

// ---- start -----------------------------------------------------------------

// The programs lie where this one does.
static int find_program(const struct nl_cli *cli, const char *name, char *out) {
    char self[NL_LOCAL_PATH];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    if (slash == NULL || !nl_local_path(out, self, name) || access(out, X_OK) != 0) {
        nl_cli_fail(cli,
                    &(struct nl_failure){.code = "NOT_FOUND",
                                         .outcome = "failed",
                                         .next = "it has to lie beside nodelink; scripts/build"},
                    "no program %s in %s", name, self);
        return NL_EXIT_FAILED;
    }
    return NL_EXIT_OK;
}

// Our own settings and credentials are not for the children: a node would take NODELINKD_* for
// its own, and an agent's tasks must not inherit the administrator's token.
static char **child_environment(void) {
    static const char KEPT[] = "NODELINK_FAILPOINT";  // ..S=, ..._DIR=: only test builds look
    size_t n = 0;
    while (environ[n] != NULL) {
        n++;
    }
    char **copy = calloc(n + 1, sizeof *copy);
    size_t at = 0;
    for (size_t i = 0; copy != NULL && i < n; i++) {
        bool ours = strncmp(environ[i], "NODELINK", strlen("NODELINK")) == 0;
        if (!ours || strncmp(environ[i], KEPT, strlen(KEPT)) == 0) {
            copy[at++] = environ[i];
        }
    }
    return copy;
}

static int start(const struct nl_cli *cli, char *const argv[], const char *log, const char *name,
                 struct nl_process *ret) {
    char **environment = child_environment();
    int rc = environment != NULL ? nl_process_start(argv, environment, log, ret) : NL_ENOMEM;
    free(environment);
    if (rc != NL_OK) {
        nl_cli_fail(cli, &(struct nl_failure){.code = "IO", .outcome = "failed"},
                    "can't start %s (%s): %s", name, argv[0], nl_strerror(rc));
        return NL_EXIT_FAILED;
    }
    return NL_EXIT_OK;
}

int nl_local_start_node(const struct nl_cli *cli, struct nl_local *local,
                        struct nl_local_node *node) {
    char program[NL_LOCAL_PATH], config[NL_LOCAL_PATH], log[NL_LOCAL_PATH];
    int rc = find_program(cli, "nodelinkd", program);
    if (rc != NL_EXIT_OK) {
        return rc;
    }
    nl_local_path(config, node->dir, "nodelinkd.conf");
    nl_local_node_log(node, log);
    // A node whose data was wiped later must not found the cluster anew.
    char *argv[] = {program, (char *)"--config", config,
                    local->bootstrapped ? NULL : (char *)"--bootstrap", NULL};
    return start(cli, argv, log, node->name, &node->process);
}

// The servers for one agent, beginning with another one for each, so that they spread.
static bool list_servers(const struct nl_local *local, const struct nl_local_agent *agent,
                         struct nl_buf *out) {
    size_t first = (size_t)(agent - local->agents);
    bool ok = true;
    for (size_t i = 0; i < local->n_nodes; i++) {
        const struct nl_local_node *node = &local->nodes[(first + i) % local->n_nodes];
        ok = ok && nl_buf_printf(out, "%s%s", i > 0 ? "," : "", node->grpc) == NL_OK;
    }
    return ok && nl_buf_append(out, "", 1) == NL_OK;
}

int nl_local_start_agent(const struct nl_cli *cli, struct nl_local *local,
                         struct nl_local_agent *agent) {
    char program[NL_LOCAL_PATH], log[NL_LOCAL_PATH];
    struct nl_buf servers;
    nl_buf_init(&servers, 0);
    char **argv = calloc(FIXED_AGENT_ARGS + local->n_agent_flags + 1, sizeof *argv);
    int rc = find_program(cli, "nodelink-agent", program);
    if (rc == NL_EXIT_OK && (argv == NULL || !list_servers(local, agent, &servers))) {
        rc = nl_cli_usage(cli, "out of memory");
    }
    if (rc == NL_EXIT_OK) {
        const char *fixed[FIXED_AGENT_ARGS] = {program,
                                               "--agent-id",
                                               agent->id,
                                               "--token-file",
                                               agent->token_file,
                                               "--servers",
                                               (const char *)servers.data,
                                               "--state-dir",
                                               agent->dir,
                                               "--insecure"};
        memcpy(argv, fixed, sizeof fixed);
        memcpy(argv + FIXED_AGENT_ARGS, local->agent_flags, local->n_agent_flags * sizeof *argv);
        nl_local_agent_log(agent, log);
        rc = start(cli, argv, log, agent->id, &agent->link);
    }
    free(argv);
    nl_buf_close(&servers);
    return rc;
}

// ---- where they are --------------------------------------------------------

static void find_by_file(const char *dir, const char *file, struct nl_process *process) {
    char path[NL_LOCAL_PATH];
    struct nl_process found;
    if (nl_local_path(path, dir, file) &&
        nl_process_of_file(path, "nodelink-agent", &found) == NL_OK) {
        *process = found;
    }
}

void nl_local_refresh(struct nl_local *local) {
    for (size_t i = 0; i < local->n_agents; i++) {
        struct nl_local_agent *agent = &local->agents[i];
        find_by_file(agent->dir, "link.pid", &agent->link);
        find_by_file(agent->dir, "supervisor.pid", &agent->supervisor);
    }
}

static bool alive(const struct nl_process *process) {
    return nl_process_state(process) != NL_PROCESS_GONE;
}

bool nl_local_any_alive(const struct nl_local *local) {
    for (size_t i = 0; i < local->n_nodes; i++) {
        if (alive(&local->nodes[i].process)) {
            return true;
        }
    }
    for (size_t i = 0; i < local->n_agents; i++) {
        if (alive(&local->agents[i].link) || alive(&local->agents[i].supervisor)) {
            return true;
        }
    }
    return false;
}

// ---- stop ------------------------------------------------------------------

// Processes to be ended together.
struct group {
    struct nl_process *items;  // owned
    size_t count;
};

static void add(struct group *group, const struct nl_process *process) {
    if (!alive(process)) {
        return;
    }
    struct nl_process *items = realloc(group->items, (group->count + 1) * sizeof *items);
    if (items != NULL) {
        group->items = items;
        items[group->count++] = *process;
    }
}

static void signal_all(const struct group *group, int number) {
    for (size_t i = 0; i < group->count; i++) {
        nl_process_signal(&group->items[i], number);
    }
}

static bool wait_all(const struct group *group, uint64_t timeout_ms) {
    uint64_t deadline = nl_clock_mono_ms() + timeout_ms;
    for (size_t i = 0; i < group->count;) {
        if (!alive(&group->items[i])) {
            i++;
        } else if (nl_clock_mono_ms() >= deadline) {
            return false;
        } else {
            nl_cli_pause_ms(POLL_MS);
        }
    }
    return true;
}

static void end_group(struct group *group, uint64_t timeout_ms) {
    signal_all(group, SIGTERM);
    signal_all(group, SIGCONT);  // a paused one has to see it
    if (!wait_all(group, timeout_ms)) {
        signal_all(group, SIGKILL);
        wait_all(group, KILL_MS);
    }
    free(group->items);
    *group = (struct group){0};
}

// What runs under a supervisor would outlive it, so it is noted before.
static void add_tasks(struct group *tasks, const struct nl_process *supervisor) {
    struct nl_process *found = NULL;
    size_t n = 0;
    if (nl_process_descendants(supervisor, &found, &n) == NL_OK) {
        for (size_t i = 0; i < n; i++) {
            add(tasks, &found[i]);
        }
        free(found);
    }
}

// Tasks whose supervisor was killed belong to nobody, but carry their agent's mark.
static void add_orphans(struct group *tasks, const struct nl_local_agent *agent) {
    char path[NL_LOCAL_PATH];
    char entry[JOURNAL_MARK_BYTES];
    char *id = NULL;
    size_t len = 0;
    struct nl_process *found = NULL;
    size_t n = 0;
    if (!nl_local_path(path, agent->dir, "journal_id") ||
        nl_fs_read(path, JOURNAL_MARK_BYTES / 2, &id, &len) != NL_OK || len == 0) {
        free(id);
        return;
    }
    snprintf(entry, sizeof entry, "NODELINK_JOURNAL=%s", id);
    if (nl_process_with_environment(entry, &found, &n) == NL_OK) {
        for (size_t i = 0; i < n; i++) {
            add(tasks, &found[i]);
        }
        free(found);
    }
    free(id);
}

// More than once: one may have forked while it was being looked for.
static void end_orphans(const struct nl_local *local) {
    for (int pass = 0; pass < ORPHAN_PASSES; pass++) {
        struct group tasks = {0};
        for (size_t i = 0; i < local->n_agents; i++) {
            add_orphans(&tasks, &local->agents[i]);
        }
        if (tasks.count == 0) {
            return;
        }
        end_group(&tasks, 0);
    }
}

void nl_local_stop_all(struct nl_local *local) {
    struct group links = {0}, supervisors = {0}, tasks = {0}, nodes = {0};
    nl_local_refresh(local);
    for (size_t i = 0; i < local->n_agents; i++) {
        add(&links, &local->agents[i].link);
    }
    // Links first: without one nothing new starts under the supervisors.
    end_group(&links, AGENT_STOP_MS);
    nl_local_refresh(local);
    for (size_t i = 0; i < local->n_agents; i++) {
        add(&supervisors, &local->agents[i].supervisor);
        add_tasks(&tasks, &local->agents[i].supervisor);
    }
    end_group(&supervisors, AGENT_STOP_MS);
    end_group(&tasks, 0);
    end_orphans(local);
    for (size_t i = 0; i < local->n_nodes; i++) {
        add(&nodes, &local->nodes[i].process);
    }
    end_group(&nodes, NODE_STOP_MS);
}

// ---- logs ------------------------------------------------------------------

void nl_local_print_log(const char *name, const char *path) {
    char *text = NULL;
    size_t len = 0;
    if (nl_fs_read(path, LOG_BYTES_MAX, &text, &len) != NL_OK || len == 0) {
        fprintf(stderr, "%s wrote no log to %s\n", name, path);
        free(text);
        return;
    }
    size_t at = len - (text[len - 1] == '\n');
    for (int lines = 0; at > 0; at--) {
        if (text[at - 1] == '\n' && ++lines == LOG_TAIL_LINES) {
            break;
        }
    }
    fprintf(stderr, "the end of %s:\n%s", path, text + at);
    free(text);
}
