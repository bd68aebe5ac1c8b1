// The program: one seed, or many, each in a process of its own.

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/sim.h"

enum { STEPS = 30000, CLIENTS = 10, JOBS_MAX = 64, SEED_SECONDS_MAX = 120 };

static const char usage[] =
    "usage: sim --seed N [--steps M] [--nodes 3|5] [--scenario NAME] [-v]\n"
    "       sim --seed FIRST --count COUNT [--jobs J] [--expect-failure] ...\n"
    "       sim --seeds-file FILE\n"
    "\n"
    "  --seed N           everything follows from it; the same seed gives the same trace\n"
    "  --steps M          events, then everything is healed and must become live (30000)\n"
    "  --nodes 3|5        otherwise chosen by the seed\n"
    "  --scenario NAME    a schedule written by hand instead of random faults\n"
    "  --count COUNT      that many seeds, each in its own process; stops at the first failure\n"
    "  --keep-going       doesn't stop there\n"
    "  --expect-failure   succeeds only if a seed fails\n"
    "  --seeds-file FILE  seeds that once found something: a line each, seed and options\n"
    "  -v                 what happens, on stderr\n";

struct options {
    struct sim_options sim;
    uint64_t count;
    unsigned jobs;
    bool keep_going, expect_failure, quiet;
    const char *seeds_file;
};

// LeakSanitizer asks: a node that stopped itself leaves its memory as it was.
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) {
    return sim.counts[SIM_F_FAIL_STOP] > 0;
}

// ---- one seed ------------------------------------------------------------------------

static void run_random(void) {
    sim_start_all();
    sim_clients_init(CLIENTS);
    sim_at(sim.now_us + 500 * SIM_MS, sim_faults_step, 0);
    while (sim.counts[SIM_STEPS] < sim.options.steps) {
        sim_step();
    }
}

// Ends the process where something doesn't hold.
static void run_seed(const struct sim_options *options) {
    sim_open(options);
    if (options->scenario == NULL) {
        run_random();
    } else if (!sim_scenario_run(options->scenario)) {
        fprintf(stderr, "sim: no scenario %s; there are:", options->scenario);
        sim_scenario_list();
        fprintf(stderr, "\n");
        exit(2);
    }
    sim_finish();
    sim.counts[SIM_VIRTUAL_MS] = sim.now_us / SIM_MS - 1000000;
    sim_close();
}

static void print_counts(const uint64_t counts[SIM_COUNTS]) {
    for (unsigned i = 0; i < SIM_COUNTS; i++) {
        printf("%14llu  %s\n", (unsigned long long)counts[i], sim_count_names[i]);
    }
}

static int run_one(const struct options *o) {
    run_seed(&o->sim);
    if (!o->quiet) {
        print_counts(sim.counts);
    }
    printf("seed %llu: trace %016llx\n", (unsigned long long)o->sim.seed,
           (unsigned long long)sim.trace);
    return 0;
}

// ---- many seeds ------------------------------------------------------------------------

// Shared with the children, one place each.
static uint64_t (*counts_of)[SIM_COUNTS];

static struct {
    pid_t pid;  // 0: free
    uint64_t seed;
} jobs[JOBS_MAX];

static uint64_t totals[SIM_COUNTS];

static void print_replay(const struct options *o, uint64_t seed) {
    printf("seed %llu failed. Replay: sim --seed %llu --steps %llu", (unsigned long long)seed,
           (unsigned long long)seed, (unsigned long long)o->sim.steps);
    if (o->sim.nodes != 0) {
        printf(" --nodes %u", o->sim.nodes);
    }
    if (o->sim.scenario != NULL) {
        printf(" --scenario %s", o->sim.scenario);
    }
    if (o->sim.plant != PLANT_NONE) {
        printf(" --plant %s", sim_plant_names[o->sim.plant]);
    }
    printf(" -v\n");
    fflush(stdout);
}

static void spawn(const struct options *o, unsigned job, uint64_t seed) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct sim_options options = o->sim;
        options.seed = seed;
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        alarm(SEED_SECONDS_MAX);
        if (o->expect_failure && freopen("/dev/null", "w", stderr) == NULL) {
            _exit(2);
        }
        run_seed(&options);
        memcpy(counts_of[job], sim.counts, sizeof sim.counts);
        exit(0);  // not _exit: LeakSanitizer looks at exit
    }
    jobs[job].pid = pid;
    jobs[job].seed = seed;
}

// true: a seed failed.
static bool reap(const struct options *o, unsigned *running) {
    int status;
    pid_t pid = wait(&status);
    for (unsigned job = 0; job < o->jobs; job++) {
        if (jobs[job].pid != pid) {
            continue;
        }
        jobs[job].pid = 0;
        (*running)--;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            for (unsigned i = 0; i < SIM_COUNTS; i++) {
                totals[i] += counts_of[job][i];
            }
            return false;
        }
        if (!o->expect_failure) {
            print_replay(o, jobs[job].seed);
        }
        return true;
    }
    return false;
}

static unsigned free_job(void) {
    unsigned job = 0;
    while (jobs[job].pid != 0) {
        job++;
    }
    return job;
}

static int report(const struct options *o, uint64_t done, uint64_t failed) {
    if (!o->quiet) {
        print_counts(totals);
    }
    printf("%llu seeds from %llu on, %llu failed\n", (unsigned long long)done,
           (unsigned long long)o->sim.seed, (unsigned long long)failed);
    if (o->expect_failure) {
        return failed > 0 ? 0 : 1;
    }
    return failed > 0 ? 1 : 0;
}

static int run_many(const struct options *o) {
    uint64_t next = o->sim.seed, end = o->sim.seed + o->count, failed = 0;
    unsigned running = 0;
    counts_of = mmap(NULL, o->jobs * sizeof *counts_of, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts_of == MAP_FAILED) {
        perror("sim: mmap");
        return 2;
    }
    while (running > 0 || next < end) {
        bool stop = failed > 0 && !o->keep_going;
        if (!stop && next < end && running < o->jobs) {
            spawn(o, free_job(), next++);
            running++;
            continue;
        }
        if (running == 0) {
            break;
        }
        failed += reap(o, &running);
    }
    return report(o, next - o->sim.seed, failed);
}

// ---- options ---------------------------------------------------------------------------

static bool set_plant(struct options *o, const char *name) {
    for (unsigned i = 0; i < PLANTS; i++) {
        if (strcmp(sim_plant_names[i], name) == 0) {
            o->sim.plant = (enum sim_plant)i;
            return true;
        }
    }
    return false;
}

static bool number(const char *text, uint64_t *ret) {
    char *end;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0';
}

static bool take(struct options *o, int c, const char *arg) {
    uint64_t n = 0;
    bool ok = strchr("snNcj", c) == NULL || number(arg, &n);
    switch (c) {
        case 's':
            o->sim.seed = n;
            return ok;
        case 'n':
            o->sim.steps = n;
            return ok;
        case 'N':
            o->sim.nodes = (unsigned)n;
            return ok && (n == 3 || n == 5);
        case 'c':
            o->count = n;
            return ok && n > 0;
        case 'j':
            o->jobs = (unsigned)n;
            return ok && n > 0 && n <= JOBS_MAX;
        case 'S':
            o->sim.scenario = arg;
            return true;
        case 'p':
            return set_plant(o, arg);
        case 'f':
            o->seeds_file = arg;
            return true;
        case 'k':
            return o->keep_going = true;
        case 'x':
            return o->expect_failure = true;
        case 'q':
            return o->quiet = true;
        case 'v':
            return o->sim.verbose = true;
        default:
            return false;
    }
}

static bool parse(struct options *o, int argc, char **argv) {
    static const struct option names[] = {
        {"seed", required_argument, NULL, 's'},  {"steps", required_argument, NULL, 'n'},
        {"nodes", required_argument, NULL, 'N'}, {"scenario", required_argument, NULL, 'S'},
        {"count", required_argument, NULL, 'c'}, {"jobs", required_argument, NULL, 'j'},
        {"plant", required_argument, NULL, 'p'}, {"seeds-file", required_argument, NULL, 'f'},
        {"keep-going", no_argument, NULL, 'k'},  {"expect-failure", no_argument, NULL, 'x'},
        {"quiet", no_argument, NULL, 'q'},       {NULL, 0, NULL, 0},
    };
    int c;
    *o = (struct options){.sim = {.seed = 1, .steps = STEPS}, .jobs = 1};
    optind = 0;
    while ((c = getopt_long(argc, argv, "v", names, NULL)) != -1) {
        if (!take(o, c, optarg)) {
            return false;
        }
    }
    return optind == argc;
}

// ---- the file of seeds -------------------------------------------------------------------

static bool run_line(char *line) {
    char *argv[32] = {(char *)(uintptr_t) "sim", (char *)(uintptr_t) "--seed"};
    int argc = 2;
    struct options o;
    char *save = NULL, *end = strchr(line, '#');
    if (end != NULL) {
        *end = '\0';
    }
    for (char *word = strtok_r(line, " \t\n", &save); word != NULL && argc < 31;
         word = strtok_r(NULL, " \t\n", &save)) {
        argv[argc++] = word;
    }
    if (argc == 2) {
        return true;
    }
    if (!parse(&o, argc, argv)) {
        fprintf(stderr, "sim: the line of seed %s is not understood\n", argv[2]);
        return false;
    }
    o.count = 1;
    o.quiet = true;
    return run_many(&o) == 0;
}

enum { FILE_BYTES_MAX = 64 * 1024 };

// Read as a whole first: a child's exit would move the offset that it shares with this process.
static int run_file(const char *path) {
    static char text[FILE_BYTES_MAX];
    bool ok = true;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        perror(path);
        return 2;
    }
    size_t len = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[len] = '\0';
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
        ok = run_line(line) && ok;
    }
    return ok ? 0 : 1;
}

int main(int argc, char **argv) {
    struct options o;
    if (!parse(&o, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    if (o.seeds_file != NULL) {
        return run_file(o.seeds_file);
    }
    return o.count > 0 ? run_many(&o) : run_one(&o);
}
