// `run`: how often, and until when.
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/base/config.h"
#include "common/base/err.h"
#include "tools/run.h"

enum { ATTEMPTS_MAX = 100, NAME_MAX_LEN = 16 };

static const struct {
    const char *name;
    Nodelink__V1__RetryOn value;
} ENDS[NL_RETRY_ON_MAX] = {
    {"exit", NODELINK__V1__RETRY_ON__RETRY_ON_EXIT},
    {"signal", NODELINK__V1__RETRY_ON__RETRY_ON_SIGNAL},
    {"timeout", NODELINK__V1__RETRY_ON__RETRY_ON_TIMEOUT},
    {"not-started", NODELINK__V1__RETRY_ON__RETRY_ON_NOT_STARTED},
    {"lost", NODELINK__V1__RETRY_ON__RETRY_ON_LOST},
};

static bool add_end(struct nl_run_plan *plan, const char *name, size_t len) {
    for (size_t i = 0; i < NL_RETRY_ON_MAX; i++) {
        if (strlen(ENDS[i].name) == len && memcmp(ENDS[i].name, name, len) == 0) {
            if (plan->spec.n_retry_on == NL_RETRY_ON_MAX) {
                return false;
            }
            plan->retry_on[plan->spec.n_retry_on++] = ENDS[i].value;
            return true;
        }
    }
    return false;
}

static int parse_ends(const struct nl_cli *cli, struct nl_run_plan *plan, const char *text) {
    for (const char *at = text;; at++) {
        size_t len = strcspn(at, ",");
        if (!add_end(plan, at, len)) {
            return nl_cli_usage(cli,
                                "--retry-on %s: a list of exit, signal, timeout, not-started, "
                                "lost, each once",
                                text);
        }
        at += len;
        if (*at == '\0') {
            return NL_EXIT_OK;
        }
    }
}

// "2026-11-24T06:00:00Z", or with an offset: "...+01:00". NL_EINVAL.
static int parse_time(const char *text, uint64_t *ret_ms) {
    struct tm tm = {0};
    const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (rest == NULL) {
        return NL_EINVAL;
    }
    long offset = 0;
    if (strcmp(rest, "Z") != 0) {
        unsigned hours, minutes;
        int used = 0;
        if (sscanf(rest, "%*[+-]%2u:%2u%n", &hours, &minutes, &used) != 2 || rest[used] != '\0' ||
            used != 6 || hours > 14 || minutes > 59) {
            return NL_EINVAL;
        }
        offset = (long)(hours * 3600 + minutes * 60) * (rest[0] == '-' ? -1 : 1);
    }
    time_t at = timegm(&tm);
    if (at <= 0 || at < offset) {
        return NL_EINVAL;
    }
    *ret_ms = (uint64_t)(at - offset) * 1000;
    return NL_OK;
}

// A duration counts from the submit, and a time is one: repeated with the same words it is the same
// request (P8).
static int parse_deadline(const struct nl_cli *cli, const char *flag, const char *text,
                          uint64_t *ret_by, uint64_t *ret_within) {
    if (text == NULL) {
        return NL_EXIT_OK;
    }
    if (nl_parse_duration_ms(text, ret_within) == NL_OK && *ret_within > 0) {
        return NL_EXIT_OK;
    }
    *ret_within = 0;
    if (parse_time(text, ret_by) == NL_OK) {
        return NL_EXIT_OK;
    }
    return nl_cli_usage(cli,
                        "--%s %s: neither a duration (90s, 10m) nor a time "
                        "(2026-11-24T06:00:00Z)",
                        flag, text);
}

int nl_run_limits(const struct nl_cli *cli, struct nl_run_plan *plan) {
    const struct nl_run_options *o = plan->options;
    if (o->attempts == 0 || o->attempts > ATTEMPTS_MAX) {
        return nl_cli_usage(cli, "--attempts has to be 1 to %d", ATTEMPTS_MAX);
    }
    if (o->retry_on != NULL && o->attempts == 1) {
        return nl_cli_usage(cli, "--retry-on needs --attempts");
    }
    // One attempt is what no number says: so the request stays the same.
    plan->spec.attempts = o->attempts == 1 ? 0 : (uint32_t)o->attempts;
    plan->spec.retry_on = plan->retry_on;
    if (o->retry_on != NULL && parse_ends(cli, plan, o->retry_on) != NL_EXIT_OK) {
        return NL_EXIT_USAGE;
    }
    int rc = parse_deadline(cli, "start-by", o->start_by, &plan->spec.start_by_ms,
                            &plan->spec.start_within_ms);
    return rc != NL_EXIT_OK
               ? rc
               : parse_deadline(cli, "finish-by", o->finish_by, &plan->spec.finish_by_ms,
                                &plan->spec.finish_within_ms);
}
