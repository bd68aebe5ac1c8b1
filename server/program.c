#include "server/program.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/fs.h"
#include "common/base/log.h"
#include "server/notify.h"
#include "server/version.h"

static int complain(int exit_code, const char *text) {
    fprintf(stderr, "nodelinkd: %s\n", text);
    return exit_code;
}

// ---- answers ---------------------------------------------------------------

static void print_help(void) {
    printf(
        "nodelinkd: a server node of a nodelink cluster\n\n"
        "  nodelinkd [--config FILE] [flags]\n"
        "  nodelinkd --dev\n"
        "  nodelinkd validate FILE\n\n"
        "Flags beat the environment, which beats the file (--config or %s).\n"
        "Signals: TERM and INT drain and stop (a second one stops at once), HUP reloads.\n"
        "Exit codes: 0, 1 can't start or failed, 2 bad usage or configuration, 3 stopped to be "
        "safe (disk).\n\n",
        NL_SETTINGS_ENV_FILE);
    nl_config_print_help(nl_settings_keys);
}

static int validate(const char *file) {
    struct nl_settings settings = {0};
    struct nl_config_error error;
    char *argv[] = {"nodelinkd", NULL};
    int rv = nl_settings_load(&settings, file, 1, argv, NULL, &error);
    if (rv == NL_OK) {
        rv = nl_settings_check(&settings, file, &error);
    }
    nl_settings_close(&settings);
    if (rv != NL_OK) {
        return complain(NL_EXIT_USAGE, error.text);
    }
    printf("OK\n");
    return NL_EXIT_OK;
}

bool nl_program_answer(struct nl_program *p, int *ret_exit) {
    if (p->argc >= 2 && strcmp(p->argv[1], "validate") == 0) {
        *ret_exit = p->argc == 3 ? validate(p->argv[2])
                                 : complain(NL_EXIT_USAGE, "usage: nodelinkd validate FILE");
        return true;
    }
    *ret_exit = NL_EXIT_OK;
    for (int i = 1; i < p->argc; i++) {
        if (strcmp(p->argv[i], "--help") == 0 || strcmp(p->argv[i], "-h") == 0) {
            print_help();
            return true;
        }
        if (strcmp(p->argv[i], "--version") == 0 || strcmp(p->argv[i], "-V") == 0) {
            printf("nodelinkd %s\n", NL_VERSION);
            return true;
        }
    }
    return false;
}

// ---- configure -------------------------------------------------------------

static int load(struct nl_program *p, struct nl_settings *settings, struct nl_config_error *error) {
    int argi = 0;
    int rv = nl_settings_load(settings, p->file, p->argc, p->argv, &argi, error);
    if (rv == NL_OK && argi < p->argc) {
        snprintf(error->text, sizeof error->text, "'%s': no such command; see --help",
                 p->argv[argi]);
        rv = NL_EINVAL;
    }
    return rv;
}

static int load_secret(struct nl_program *p) {
    if (p->settings.cluster_secret_file == NULL) {
        p->secret = strdup(p->dev.secret);
        return p->secret != NULL ? NL_EXIT_OK : complain(NL_EXIT_FAILURE, "out of memory");
    }
    int rv = NL_FAILPOINT("start.secret")
                 ? NL_EIO
                 : nl_fs_read_secret(p->settings.cluster_secret_file, &p->secret);
    if (rv == NL_OK && p->secret[0] != '\0') {
        return NL_EXIT_OK;
    }
    char text[NL_SERVER_TEXT_MAX];
    snprintf(text, sizeof text, "cluster-secret-file %s: %s", p->settings.cluster_secret_file,
             rv == NL_OK      ? "is empty"
             : rv == NL_EPERM ? "may be read by others; chmod 600 it, and change the secret if "
                                "they did"
                              : nl_strerror(rv));
    return complain(NL_EXIT_USAGE, text);
}

int nl_program_configure(struct nl_program *p) {
    struct nl_config_error error;
    p->file = nl_config_file_arg(p->argc, p->argv, NL_SETTINGS_ENV_FILE);
    int rv = load(p, &p->settings, &error);
    if (rv == NL_OK && NL_FAILPOINT("start.settings")) {
        snprintf(error.text, sizeof error.text, "fail point");
        rv = NL_EINVAL;
    }
    if (rv != NL_OK) {
        return complain(NL_EXIT_USAGE, error.text);
    }
    if (p->settings.dev && nl_dev_prepare(&p->dev, &p->settings) != NL_OK) {
        return complain(NL_EXIT_FAILURE, "--dev: can't make a directory or find a free port");
    }
    if (nl_settings_check(&p->settings, p->file, &error) != NL_OK) {
        return complain(NL_EXIT_USAGE, error.text);
    }
    return load_secret(p);
}

// ---- signals ---------------------------------------------------------------

static void on_stopped(void *user) {
    struct nl_program *p = user;
    p->server = NULL;
    uv_close((uv_handle_t *)&p->terminate, NULL);
    uv_close((uv_handle_t *)&p->interrupt, NULL);
    uv_close((uv_handle_t *)&p->hangup, NULL);
}

static void on_stop_signal(uv_signal_t *handle, int number) {
    struct nl_program *p = handle->data;
    if (p->stopping || p->server == NULL) {
        nl_log(NL_LOG_WARN, "node", "second signal: stopped at once", NULL);
        _exit(NL_EXIT_FAILURE);
    }
    nl_log(NL_LOG_INFO, "node", "stopping", "signal", number == SIGTERM ? "TERM" : "INT", NULL);
    nl_notify("STOPPING=1");
    p->stopping = true;
    nl_server_stop(p->server, on_stopped, p);
    (void)NL_FAILPOINT("stop.begun");
}

static void say_restart_needed(void *user, const char *key) {
    (void)user;
    nl_log(NL_LOG_WARN, "node", "changed, but needs a restart", "key", key, NULL);
}

static void reload_tls(struct nl_program *p) {
    char text[NL_SERVER_TEXT_MAX];
    if (p->settings.tls_cert_file == NULL || p->server == NULL || p->stopping) {
        return;
    }
    if (nl_cluster_reload_tls(p->server->cluster, text, sizeof text) == NL_OK) {
        nl_log(NL_LOG_INFO, "node", "TLS files read again, for new connections", NULL);
    } else {
        nl_log(NL_LOG_ERROR, "node", "TLS files not taken, the old ones stay", "why", text, NULL);
    }
}

static void on_hangup(uv_signal_t *handle, int number) {
    (void)number;
    struct nl_program *p = handle->data;
    struct nl_settings fresh = {0};
    struct nl_config_error error;
    if (p->settings.dev) {
        return;
    }
    int rv = load(p, &fresh, &error);
    if (rv == NL_OK) {
        rv = nl_settings_check(&fresh, p->file, &error);
    }
    if (rv == NL_OK) {
        nl_settings_reload(&p->settings, &fresh, say_restart_needed, NULL);
        nl_log(NL_LOG_INFO, "node", "configuration reloaded", NULL);
    } else {
        nl_log_set_levels(p->settings.log_level);
        nl_log(NL_LOG_ERROR, "node", "configuration not reloaded", "why", error.text, NULL);
    }
    nl_settings_close(&fresh);
    reload_tls(p);
}

static void catch_signal(struct nl_program *p, uv_signal_t *handle, int number, uv_signal_cb cb) {
    uv_signal_init(&p->loop, handle);
    handle->data = p;
    uv_signal_start(handle, cb, number);
}

// ---- prepare ---------------------------------------------------------------

// Each agent is a descriptor.
static void raise_limits(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int write_pid_file(const struct nl_program *p) {
    char text[32];
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    if (p->settings.pid_file == NULL) {
        return NL_EXIT_OK;
    }
    if (!NL_FAILPOINT("start.pid_file") &&
        nl_fs_write_atomic(p->settings.pid_file, text, (size_t)n, 0644) == NL_OK) {
        return NL_EXIT_OK;
    }
    char error[NL_SERVER_TEXT_MAX];
    snprintf(error, sizeof error, "pid-file %s can't be written", p->settings.pid_file);
    return complain(NL_EXIT_FAILURE, error);
}

int nl_program_prepare(struct nl_program *p) {
    bool json = strcmp(p->settings.log_format, "json") == 0;
    nl_log_init(NL_LOG_INFO, json ? NL_LOG_JSON : NL_LOG_TEXT, "nodelinkd");
    nl_log_set_levels(p->settings.log_level);
    signal(SIGPIPE, SIG_IGN);
    raise_limits();
    if (NL_FAILPOINT("start.loop") || uv_loop_init(&p->loop) != 0) {
        return complain(NL_EXIT_FAILURE, "no event loop: out of memory or descriptors");
    }
    catch_signal(p, &p->terminate, SIGTERM, on_stop_signal);
    catch_signal(p, &p->interrupt, SIGINT, on_stop_signal);
    catch_signal(p, &p->hangup, SIGHUP, on_hangup);
    return write_pid_file(p);
}

// ---- open, run, close ------------------------------------------------------

static void on_ready(void *user) {
    struct nl_program *p = user;
    (void)NL_FAILPOINT("start.ready");
    nl_log(NL_LOG_INFO, "node", "ready", "node", p->settings.node_name, "grpc",
           p->settings.grpc_address, NULL);
    if (p->settings.dev) {
        nl_dev_ready(&p->dev, p->server);
    }
}

int nl_program_open(struct nl_program *p) {
    char text[NL_SERVER_TEXT_MAX];
    int rv = nl_server_open(&p->loop, &p->settings, p->secret, on_ready, p, &p->server, text,
                            sizeof text);
    if (rv != NL_OK) {
        return complain(NL_EXIT_FAILURE, text);
    }
    nl_log(NL_LOG_INFO, "node", "serving", "version", NL_VERSION, "cluster",
           p->settings.cluster_name, "node", p->settings.node_name, "grpc",
           p->settings.grpc_address, "raft", p->settings.raft_address, "boot",
           nl_log_u64(nl_cluster_boot(p->server->cluster)).s, NULL);
    nl_notify("READY=1");
    (void)NL_FAILPOINT("start.serving");
    return NL_EXIT_OK;
}

void nl_program_run(struct nl_program *p) {
    uv_run(&p->loop, UV_RUN_DEFAULT);
}

void nl_program_close(struct nl_program *p) {
    if (p->loop.data == NULL && p->terminate.data != NULL) {  // the loop was made
        if (!uv_is_closing((uv_handle_t *)&p->terminate)) {   // the node never opened
            on_stopped(p);
        }
        uv_run(&p->loop, UV_RUN_DEFAULT);
        int rv = uv_loop_close(&p->loop);
        assert(rv == 0);
    }
    if (p->secret != NULL) {
        explicit_bzero(p->secret, strlen(p->secret));
        free(p->secret);
    }
    if (p->settings.pid_file != NULL && p->terminate.data != NULL) {
        unlink(p->settings.pid_file);
    }
    nl_settings_close(&p->settings);
    nl_dev_clean(&p->dev);
    (void)NL_FAILPOINT("start.ended");  // what is open now nobody has closed
}
