#include "common/rpc/bind_probe.h"

#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/config.h"
#include "common/base/err.h"

// An errno, 0 if the address can be listened on. As gRPC would do it.
static int try_address(const struct addrinfo *ai) {
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return errno;
    }
    int one = 1;
    int error = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, 1) != 0) {
        error = errno;
    }
    close(fd);
    return error;
}

// A host without IPv6 has no ::1 to listen on; that alone is no error.
static bool is_absent(int error) {
    return error == EAFNOSUPPORT || error == EADDRNOTAVAIL;
}

static int explain(int error, const char *address, char *error_text, size_t error_size) {
    const char *why = error == EADDRINUSE      ? "the port is in use"
                      : error == EADDRNOTAVAIL ? "this host has no such address"
                      : error == EACCES        ? "no permission for this port"
                                               : strerror(error);
    snprintf(error_text, error_size, "can't listen on %s: %s", address, why);
    switch (error) {
        case EADDRINUSE:
            return NL_EBUSY;
        case EADDRNOTAVAIL:
        case EAFNOSUPPORT:
            return NL_EINVAL;
        case EACCES:
            return NL_EPERM;
        default:
            return NL_EIO;
    }
}

static int try_all(const struct addrinfo *list, const char *address, char *error_text,
                   size_t error_size) {
    bool any = false;
    int absent = EADDRNOTAVAIL;
    for (const struct addrinfo *ai = list; ai != NULL; ai = ai->ai_next) {
        int error = try_address(ai);
        if (error != 0 && !is_absent(error)) {
            return explain(error, address, error_text, error_size);
        }
        any |= error == 0;
        absent = error != 0 ? error : absent;
    }
    return any ? NL_OK : explain(absent, address, error_text, error_size);
}

int nl_rpc_bind_probe(const char *address, char *error_text, size_t error_size) {
    char *host;
    uint16_t port;
    if (nl_parse_address(address, &host, &port) != NL_OK) {
        snprintf(error_text, error_size, "%s is not an address; host:port is", address);
        return NL_EINVAL;
    }
    char service[8];
    snprintf(service, sizeof service, "%u", (unsigned)port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list;
    int error = getaddrinfo(host, service, &hints, &list);
    free(host);
    if (error != 0) {
        snprintf(error_text, error_size, "can't listen on %s: %s", address, gai_strerror(error));
        return NL_EINVAL;
    }
    int rc = try_all(list, address, error_text, error_size);
    freeaddrinfo(list);
    return rc;
}
