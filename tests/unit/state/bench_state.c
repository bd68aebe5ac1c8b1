// Speed and memory with many tasks; run by hand: bench_state [tasks]
// bench_state TASKS FILE only writes the state's snapshot: for tests/scale, whose nodes start with
// it.
//
// Every task is submitted, started and finished on one of a thousand agents, then some are applied
// while a snapshot is held, as a node does it.

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cluster/state/state.h"
#include "common/base/clock.h"
#include "common/base/err.h"

#define AGENTS 1000u

static struct nl_state *state;
static uint64_t sequence;
static uint64_t begin_ms = 1700000000000;
static uint32_t *latency_ns;  // of each command of a phase
static size_t n_latency;

static void must(int rv, const char *what) {
    if (rv != NL_OK) {
        fprintf(stderr, "%s: %s\n", what, nl_strerror(rv));
        exit(EXIT_FAILURE);
    }
}

static void on_effect(void *user, const struct nl_effect *effect) {
    if (effect->kind == NL_EFFECT_OUTCOME && effect->outcome.code != NL_OUTCOME_OK) {
        fprintf(stderr, "command %llu: %s\n", (unsigned long long)sequence,
                nl_outcome_name(effect->outcome.code));
        exit(EXIT_FAILURE);
    }
    (void)user;
}

static void apply(Nodelink__V1__Command *command) {
    uint8_t data[1024];
    command->proposer = 1 + sequence % 3;
    command->boot = 1;
    command->sequence = ++sequence;
    command->ack_below = sequence > 3000 ? sequence - 3000 : 0;
    command->time_ms = begin_ms + sequence / 20;
    size_t len = nodelink__v1__command__pack(command, data);
    uint64_t before = nl_clock_mono_ns();
    must(nl_state_apply(state, sequence, data, len, on_effect, NULL), "apply");
    if (latency_ns != NULL) {
        latency_ns[n_latency++] = (uint32_t)(nl_clock_mono_ns() - before);
    }
}

static void names(uint32_t i, char agent[24], char task[40]) {
    snprintf(agent, 24, "host-%04u", i % AGENTS);
    // Like nl_random_id: spread over the key space, 26 characters.
    snprintf(task, 40, "%016llx%010u", (unsigned long long)(i * 0x9e3779b97f4a7c15ULL), i);
}

static void submit(uint32_t i) {
    char agent[24], task[40], cmd[64];
    char *env[] = {(char *)"PATH=/usr/bin:/bin"};
    Nodelink__V1__TaskSubmit m = NODELINK__V1__TASK_SUBMIT__INIT;
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    names(i, agent, task);
    snprintf(cmd, sizeof cmd, "/usr/local/bin/deploy --release %u", i);
    spec.agent_id = agent;
    spec.cmd = cmd;
    spec.env = env;
    spec.n_env = 1;
    spec.timeout_ms = 60000;
    m.task_id = task;
    m.spec = &spec;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_SUBMIT;
    command.task_submit = &m;
    apply(&command);
}

static void start(uint32_t i) {
    char agent[24], task[40];
    Nodelink__V1__TaskStart m = NODELINK__V1__TASK_START__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    names(i, agent, task);
    m.task_id = task;
    m.agent_id = agent;
    m.attempt = 1;
    m.epoch = 1;
    m.pid = 4711;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_START;
    command.task_start = &m;
    apply(&command);
}

static void finish(uint32_t i) {
    char agent[24], task[40];
    uint8_t sha256[32] = {(uint8_t)i};
    Nodelink__V1__TaskFinish m = NODELINK__V1__TASK_FINISH__INIT;
    Nodelink__V1__TaskResult r = NODELINK__V1__TASK_RESULT__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    names(i, agent, task);
    r.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    r.stdout_bytes = i;
    r.stdout_sha256 = r.stderr_sha256 = (ProtobufCBinaryData){sizeof sha256, sha256};
    r.started_ms = r.finished_ms = begin_ms;
    m.task_id = task;
    m.agent_id = agent;
    m.attempt = 1;
    m.epoch = 1;
    m.result = &r;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_FINISH;
    command.task_finish = &m;
    apply(&command);
}

static void prepare(void) {
    uint8_t sha256[32] = {1};
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__NodeUp up = NODELINK__V1__NODE_UP__INIT;
    up.node = up.node_boot = 1;
    command.body_case = NODELINK__V1__COMMAND__BODY_NODE_UP;
    command.node_up = &up;
    apply(&command);
    for (uint32_t i = 0; i < AGENTS; i++) {
        char agent[24], task[40];
        names(i, agent, task);
        Nodelink__V1__AgentTokenCreate create = NODELINK__V1__AGENT_TOKEN_CREATE__INIT;
        Nodelink__V1__AgentRegister hello = NODELINK__V1__AGENT_REGISTER__INIT;
        create.agent_id = hello.agent_id = agent;
        create.token_sha256 = hello.token_sha256 = (ProtobufCBinaryData){sizeof sha256, sha256};
        hello.node = hello.node_boot = 1;
        hello.extended = true;
        hello.journal_id = (char *)"journal";
        command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE;
        command.agent_token_create = &create;
        apply(&command);
        command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_REGISTER;
        command.agent_register = &hello;
        apply(&command);
    }
}

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void phase(const char *name, void (*one)(uint32_t i), uint32_t from, uint32_t to) {
    n_latency = 0;
    uint64_t before = nl_clock_mono_us();
    for (uint32_t i = from; i < to; i++) {
        one(i);
    }
    uint64_t us = nl_clock_mono_us() - before;
    qsort(latency_ns, n_latency, sizeof *latency_ns, compare_u32);
    printf("%-24s %8.0f/s   p50 %5.1f us  p99 %5.1f us  p99.9 %6.1f us  max %7.1f us\n", name,
           (to - from) * 1e6 / (double)(us + 1), latency_ns[n_latency / 2] / 1e3,
           latency_ns[n_latency * 99 / 100] / 1e3, latency_ns[n_latency * 999 / 1000] / 1e3,
           latency_ns[n_latency - 1] / 1e3);
}

// Of this thread: what the machine's other work doesn't change.
static uint64_t cpu_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

struct stamp {
    uint64_t wall_us, cpu_us;
};

static struct stamp stamp(void) {
    return (struct stamp){nl_clock_mono_us(), cpu_us()};
}

static struct stamp timed(const char *name, struct stamp since) {
    struct stamp now = stamp();
    printf("%-24s %10.3f ms   cpu %10.3f ms\n", name, (double)(now.wall_us - since.wall_us) / 1e3,
           (double)(now.cpu_us - since.cpu_us) / 1e3);
    return stamp();
}

static size_t in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

struct writer {
    struct nl_state_snapshot *snapshot;
    uint8_t *data;
    size_t len;
};

static void *write_snapshot(void *arg) {
    struct writer *w = arg;
    struct stamp t = stamp();
    must(nl_state_snapshot_write(w->snapshot, &w->data, &w->len), "snapshot write");
    timed("snapshot write (thread)", t);
    return NULL;
}

static void bench_load(const struct writer *w) {
    struct nl_state *loaded;
    char why[256];
    struct stamp t = stamp();
    must(nl_state_load(state, w->data, w->len, &loaded), "load");
    t = timed("load", t);
    nl_state_swap(state, loaded);
    t = timed("swap", t);
    nl_state_free(loaded);
    t = timed("free", t);
    must(nl_state_check(state, why, sizeof why), why);
    timed("check", t);
}

static void bench_snapshot(uint32_t tasks) {
    struct writer w = {0};
    pthread_t thread;
    struct stamp t = stamp();
    must(nl_state_snapshot_begin(state, &w.snapshot), "snapshot begin");
    timed("snapshot begin", t);
    if (pthread_create(&thread, NULL, write_snapshot, &w) != 0) {
        exit(EXIT_FAILURE);
    }
    uint32_t more = tasks / 20 + 1;
    phase("submit while frozen", submit, tasks, tasks + more);
    phase("start while frozen", start, tasks, tasks + more);
    phase("finish while frozen", finish, tasks, tasks + more);
    pthread_join(thread, NULL);
    t = stamp();
    nl_state_snapshot_detach(state, w.snapshot);
    t = timed("snapshot detach", t);
    nl_state_snapshot_free(w.snapshot);
    timed("snapshot free", t);
    printf("%-24s %10.1f MB, %.0f bytes per task\n", "snapshot size", (double)w.len / 1e6,
           (double)w.len / tasks);
    bench_load(&w);
    t = stamp();
    free(w.data);
    timed("free of the bytes", t);
}

// As the leader does it: a thousand with each command.
static void prune(uint32_t i) {
    Nodelink__V1__TaskPrune m = NODELINK__V1__TASK_PRUNE__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    (void)i;
    m.finished_before_ms = UINT64_MAX;
    m.limit = 1000;
    command.body_case = NODELINK__V1__COMMAND__BODY_TASK_PRUNE;
    command.task_prune = &m;
    apply(&command);
}

// What one list request looks at, when nothing of it is wanted.
static void scan(uint32_t i) {
    const struct nl_task *task = NULL;
    static uint32_t wanted;
    uint64_t before = nl_clock_mono_ns();
    (void)i;
    for (int n = 0; n < 5000 && (task = nl_state_task_next_older(state, task)) != NULL; n++) {
        wanted += strcmp(task->spec->agent_id, "none") == 0;
    }
    latency_ns[n_latency++] = (uint32_t)(nl_clock_mono_ns() - before);
}

static void make_tasks(uint32_t tasks) {
    prepare();
    for (uint32_t i = 0; i < tasks; i++) {
        submit(i);
        start(i);
        finish(i);
    }
}

// Prints the index that the snapshot is of.
static int write_file(uint32_t tasks, const char *path) {
    struct writer w = {0};
    // Not long ago, so that the tasks stay within their retention time.
    begin_ms = nl_clock_wall_ms() - 3600 * 1000;
    make_tasks(tasks);
    must(nl_state_snapshot_begin(state, &w.snapshot), "snapshot begin");
    must(nl_state_snapshot_write(w.snapshot, &w.data, &w.len), "snapshot write");
    nl_state_snapshot_end(state, w.snapshot);
    FILE *file = fopen(path, "wb");
    bool ok = file != NULL && fwrite(w.data, 1, w.len, file) == w.len;
    ok = file != NULL && fclose(file) == 0 && ok;
    printf("%llu\n", (unsigned long long)nl_state_index(state));
    free(w.data);
    nl_state_free(state);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv) {
    uint32_t tasks = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1000000;
    // The limit of active tasks is out of the way: all are submitted before the first starts.
    const struct nl_state_limits limits = {.tasks_per_agent_active_max = tasks / AGENTS + 100};
    must(nl_state_new(&limits, &state), "new");
    if (argc > 2) {
        return write_file(tasks, argv[2]);
    }
    prepare();
    latency_ns = malloc(((size_t)tasks + 1) * sizeof *latency_ns);
    if (tasks == 0 || latency_ns == NULL) {
        return EXIT_FAILURE;
    }
    size_t before = in_use();
    phase("submit", submit, 0, tasks);
    printf("%-24s %10.0f bytes per task\n", "memory, submitted",
           (double)(in_use() - before) / tasks);
    phase("start", start, 0, tasks);
    phase("finish", finish, 0, tasks);
    printf("%-24s %10.0f bytes per task\n", "memory, finished",
           (double)(in_use() - before) / tasks);
    bench_snapshot(tasks);
    phase("scan of 5000", scan, 0, 20);
    phase("prune of 1000", prune, 0, tasks / 1000);
    free(latency_ns);
    nl_state_free(state);
    return EXIT_SUCCESS;
}
