// Configuration: any bytes as nodelinkd's and the agent's file, and as each kind of value. Refused
// with a sentence, or taken; what is taken keeps its bounds.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/link/settings.h"
#include "common/base/err.h"
#include "common/base/text.h"
#include "server/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
    if (!condition) {
        abort();
    }
}

static void check_error(int rv, const struct nl_config_error *error) {
    require(rv == NL_OK || rv == NL_EINVAL || rv == NL_ENOMEM);
    require(memchr(error->text, '\0', sizeof error->text) != NULL);
    require(rv == NL_OK || error->text[0] != '\0');
}

static void node_settings(const char *path) {
    struct nl_settings settings;
    struct nl_config_error error = {""};
    char *argv[] = {(char *)"nodelinkd", NULL};
    int argi = 0;
    memset(&settings, 0, sizeof settings);
    int rv = nl_settings_load(&settings, path, 1, argv, &argi, &error);
    check_error(rv, &error);
    if (rv == NL_OK) {
        rv = nl_settings_check(&settings, path, &error);
        check_error(rv, &error);
    }
    if (rv == NL_OK && !settings.help && !settings.version && !settings.dev) {
        require(settings.n_members > 0 && settings.node_id > 0);
        require(settings.heartbeat_ms < settings.election_timeout_ms);
    }
    nl_settings_close(&settings);
}

static void agent_settings(const char *path) {
    struct nl_link_settings settings;
    struct nl_config_error error = {""};
    char *argv[] = {(char *)"nodelink-agent", NULL};
    memset(&settings, 0, sizeof settings);
    int rv = nl_link_settings_load(&settings, path, 1, argv, &error);
    require(rv == NL_OK || error.text[0] != '\0');
    nl_link_settings_close(&settings);
}

static void values(const char *text) {
    uint64_t number = 42;
    char *host = NULL;
    uint16_t port = 0;
    require(nl_parse_u64(text, &number) == NL_OK || number == 42);
    number = 42;
    require(nl_parse_duration_ms(text, &number) == NL_OK || number == 42);
    number = 42;
    require(nl_parse_size(text, &number) == NL_OK || number == 42);
    if (nl_parse_address(text, &host, &port) == NL_OK) {
        require(host != NULL && host[0] != '\0');
        free(host);
    }
    nl_text_id_ok(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    char path[64];
    if (fd < 0) {
        fd = memfd_create("config", MFD_CLOEXEC);
    }
    require(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    node_settings(path);
    agent_settings(path);
    char *text = malloc(size + 1);
    require(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    values(text);
    free(text);
    return 0;
}
