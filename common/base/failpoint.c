#include "common/base/failpoint.h"

#ifdef NL_FAILPOINTS

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/config.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/log.h"

enum {
    POINTS_MAX = 32,
    NAME_MAX_LEN = 64,
    SPEC_LEN_MAX = 4096,
    PATH_LEN = 4096,
    ACTION_LEN = 32,
    STOP_LOOK_NS = 1000000,
};

enum action { ACTION_KILL, ACTION_STALL, ACTION_ERROR, ACTION_STOP };

struct point {
    char name[NAME_MAX_LEN];
    enum action action;
    uint64_t stall_ms;
    uint64_t percent;  // of the hits; 100: all
    uint64_t at_hit;   // 0: each
    uint64_t hits;     // so far
};

static struct {
    pthread_mutex_t lock;
    bool loaded;
    const char *dir;  // of the environment; NULL: none
    size_t count;
    struct point points[POINTS_MAX];
} state = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret) {
    uint64_t v = 0;
    if (nl_parse_u64(text, &v) != NL_OK || v < min || v > max) {
        return NL_EINVAL;
    }
    *ret = v;
    return NL_OK;
}

static int parse_action(char *text, struct point *p) {
    char *hit = strchr(text, '@');
    char *percent = strchr(text, '%');
    p->percent = 100;
    if (hit != NULL) {
        *hit = '\0';
        if (parse_number(hit + 1, 1, UINT32_MAX, &p->at_hit) != NL_OK) {
            return NL_EINVAL;
        }
    } else if (percent != NULL) {
        *percent = '\0';
        if (parse_number(percent + 1, 0, 100, &p->percent) != NL_OK) {
            return NL_EINVAL;
        }
    }
    if (strcmp(text, "kill") == 0) {
        p->action = ACTION_KILL;
        return NL_OK;
    }
    if (strcmp(text, "error") == 0) {
        p->action = ACTION_ERROR;
        return NL_OK;
    }
    p->action = ACTION_STALL;
    if (strncmp(text, "stall:", 6) != 0) {
        return NL_EINVAL;
    }
    return parse_number(text + 6, 0, 24u * 3600 * 1000, &p->stall_ms);
}

static int parse_point(char *text, struct point *p) {
    char *equals = strchr(text, '=');
    if (equals == NULL || equals == text || equals - text >= NAME_MAX_LEN) {
        return NL_EINVAL;
    }
    *equals = '\0';
    *p = (struct point){0};
    snprintf(p->name, sizeof p->name, "%s", text);
    return parse_action(equals + 1, p);
}

// Caller holds the lock. On failure the points stay as they were.
static int load(const char *spec) {
    struct point points[POINTS_MAX];
    size_t count = 0;
    char copy[SPEC_LEN_MAX];
    if (strlen(spec) >= sizeof copy) {
        return NL_EINVAL;
    }
    memcpy(copy, spec, strlen(spec) + 1);
    char *rest = copy;
    for (char *item = strsep(&rest, ","); item != NULL; item = strsep(&rest, ",")) {
        if (item[0] == '\0') {
            continue;
        }
        if (count == POINTS_MAX || parse_point(item, &points[count]) != NL_OK) {
            return NL_EINVAL;
        }
        count++;
    }
    memcpy(state.points, points, count * sizeof points[0]);
    state.count = count;
    state.loaded = true;
    state.dir = getenv("NODELINK_FAILPOINT_DIR");
    return NL_OK;
}

// A test that asks for a fault and silently gets none would pass for nothing.
static void load_environment(void) {
    const char *spec = getenv("NODELINK_FAILPOINTS");
    if (load(spec != NULL ? spec : "") != NL_OK) {
        nl_log(NL_LOG_ERROR, "failpoint", "NODELINK_FAILPOINTS is malformed", "value", spec, NULL);
        abort();
    }
}

int nl_failpoint_set(const char *spec) {
    pthread_mutex_lock(&state.lock);
    int rv = load(spec);
    pthread_mutex_unlock(&state.lock);
    return rv;
}

static bool chosen(struct point *p) {
    p->hits += 1;
    if (p->at_hit != 0) {
        return p->hits == p->at_hit;
    }
    if (p->percent >= 100) {
        return true;
    }
    uint32_t random;
    nl_random_bytes(&random, sizeof random);
    return random % 100 < p->percent;
}

// ---- armed by a file -------------------------------------------------------

static void file_of(const struct point *p, char path[PATH_LEN]) {
    snprintf(path, PATH_LEN, "%s/%s.%d", state.dir, p->name, (int)getpid());
}

static void read_action(const char *path, struct point *p) {
    char text[ACTION_LEN] = "";
    FILE *f = fopen(path, "re");
    bool ok = f != NULL && fgets(text, sizeof text, f) != NULL;
    if (f != NULL) {
        fclose(f);
    }
    text[strcspn(text, "\n")] = '\0';
    if (ok && strcmp(text, "stop") == 0) {
        p->action = ACTION_STOP;
    } else if (!ok || parse_action(text, p) != NL_OK) {
        nl_log(NL_LOG_ERROR, "failpoint", "malformed file", "path", path, "action", text, NULL);
        abort();
    }
}

// The rename decides among processes and threads.
static bool take_file(const char *name, struct point *ret) {
    char armed[PATH_LEN], taken[PATH_LEN];
    if (state.dir == NULL || strlen(name) >= NAME_MAX_LEN) {
        return false;
    }
    *ret = (struct point){0};
    snprintf(ret->name, sizeof ret->name, "%s", name);
    snprintf(armed, sizeof armed, "%s/%s", state.dir, name);
    if (access(armed, F_OK) != 0) {
        return false;
    }
    file_of(ret, taken);
    if (rename(armed, taken) != 0) {
        return false;
    }
    read_action(taken, ret);
    return true;
}

static void wait_for_removal(const struct point *p) {
    char path[PATH_LEN];
    file_of(p, path);
    while (access(path, F_OK) == 0) {
        nanosleep(&(struct timespec){.tv_nsec = STOP_LOOK_NS}, NULL);
    }
}

// ---- hits ------------------------------------------------------------------

static bool act(const struct point *p) {
    static const char *const names[] = {"kill", "stall", "error", "stop"};
    nl_log(NL_LOG_WARN, "failpoint", "hit", "name", p->name, "action", names[p->action], NULL);
    if (p->action == ACTION_KILL) {
        kill(getpid(), SIGKILL);
    }
    if (p->action == ACTION_STALL) {
        struct timespec ts = {.tv_sec = (time_t)(p->stall_ms / 1000),
                              .tv_nsec = (long)(p->stall_ms % 1000) * 1000000};
        while (nanosleep(&ts, &ts) != 0) {
        }
    }
    if (p->action == ACTION_STOP) {
        wait_for_removal(p);
    }
    return p->action == ACTION_ERROR;
}

bool nl_failpoint_hit(const char *name) {
    struct point found;
    bool take = false;
    pthread_mutex_lock(&state.lock);
    if (!state.loaded) {
        load_environment();
    }
    for (size_t i = 0; i < state.count && !take; i++) {
        if (strcmp(state.points[i].name, name) == 0 && chosen(&state.points[i])) {
            found = state.points[i];
            take = true;
        }
    }
    pthread_mutex_unlock(&state.lock);
    return (take || take_file(name, &found)) && act(&found);
}

#else

// Not an empty translation unit.
extern const bool nl_failpoint_compiled_out;
const bool nl_failpoint_compiled_out = true;

#endif
