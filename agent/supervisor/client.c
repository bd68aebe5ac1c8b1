#include "agent/supervisor/client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"

char *nl_sup_socket_path(const char *state_dir) {
    char *path = NULL;
    return asprintf(&path, "%s/supervisor.sock", state_dir) < 0 ? NULL : path;
}

int nl_sup_socket_path_check(const char *state_dir) {
    size_t len = strlen(state_dir) + strlen("/supervisor.sock");
    return len < sizeof((struct sockaddr_un *)0)->sun_path ? NL_OK : NL_ETOOBIG;
}

// ---- frames ----------------------------------------------------------------

int nl_sup_frame_encode(struct nl_buf *out, const ProtobufCMessage *message) {
    size_t len = protobuf_c_message_get_packed_size(message);
    if (len > NL_SUP_FRAME_BYTES_MAX) {
        return NL_ETOOBIG;
    }
    int rv = nl_buf_reserve(out, NL_SUP_FRAME_HEADER + len);
    if (rv != NL_OK) {
        return rv;
    }
    uint8_t *at = out->data + out->len;
    for (unsigned i = 0; i < NL_SUP_FRAME_HEADER; i++) {
        at[i] = (uint8_t)(len >> (8 * i));
    }
    protobuf_c_message_pack(message, at + NL_SUP_FRAME_HEADER);
    out->len += NL_SUP_FRAME_HEADER + len;
    return NL_OK;
}

int nl_sup_frame_decode(const void *data, size_t len, const uint8_t **ret_payload, size_t *ret_len,
                        size_t *ret_used) {
    const uint8_t *at = data;
    size_t payload = 0;
    if (len < NL_SUP_FRAME_HEADER) {
        return NL_EAGAIN;
    }
    for (unsigned i = 0; i < NL_SUP_FRAME_HEADER; i++) {
        payload |= (size_t)at[i] << (8 * i);
    }
    if (payload > NL_SUP_FRAME_BYTES_MAX) {
        return NL_ETOOBIG;
    }
    if (len - NL_SUP_FRAME_HEADER < payload) {
        return NL_EAGAIN;
    }
    *ret_payload = at + NL_SUP_FRAME_HEADER;
    *ret_len = payload;
    *ret_used = NL_SUP_FRAME_HEADER + payload;
    return NL_OK;
}

static int decode_message(const void *data, size_t len, const ProtobufCMessageDescriptor *type,
                          ProtobufCMessage **ret, size_t *ret_used) {
    const uint8_t *payload = NULL;
    size_t payload_len = 0, used = 0;
    int rv = nl_sup_frame_decode(data, len, &payload, &payload_len, &used);
    if (rv != NL_OK) {
        return rv;
    }
    ProtobufCMessage *m = protobuf_c_message_unpack(type, NULL, payload_len, payload);
    if (m == NULL) {
        return NL_EINVAL;
    }
    *ret = m;
    *ret_used = used;
    return NL_OK;
}

int nl_sup_decode_from(const void *data, size_t len, Nodelink__V1__FromSupervisor **ret,
                       size_t *ret_used) {
    ProtobufCMessage *m = NULL;
    int rv = decode_message(data, len, &nodelink__v1__from_supervisor__descriptor, &m, ret_used);
    if (rv == NL_OK) {
        *ret = (Nodelink__V1__FromSupervisor *)m;
    }
    return rv;
}

int nl_sup_decode_to(const void *data, size_t len, Nodelink__V1__ToSupervisor **ret,
                     size_t *ret_used) {
    ProtobufCMessage *m = NULL;
    int rv = decode_message(data, len, &nodelink__v1__to_supervisor__descriptor, &m, ret_used);
    if (rv == NL_OK) {
        *ret = (Nodelink__V1__ToSupervisor *)m;
    }
    return rv;
}

// ---- starting the supervisor -----------------------------------------------

struct spawn_answer {
    int32_t pid;
    int32_t sys_errno;
};

_Noreturn static void exec_supervisor(const char *self_exe, char *const args[], int log_fd,
                                      int answer_fd) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd >= 0 && dup2(null_fd, 0) == 0 && dup2(log_fd, 1) == 1 && dup2(log_fd, 2) == 2 &&
        (answer_fd == 3 || dup3(answer_fd, 3, O_CLOEXEC) == 3)) {
        close_range(4, ~0u, 0);
        answer_fd = 3;
        execv(self_exe, args);
    }
    struct spawn_answer answer = {.sys_errno = errno};
    ssize_t n = write(answer_fd, &answer, sizeof answer);
    (void)n;
    _exit(127);
}

// The one in the middle: a session of its own, then out of the way, so that the supervisor is
// no child of the link and no process group's leader.
_Noreturn static void run_middle(const char *self_exe, char *const args[], int log_fd,
                                 int answer_fd) {
    setsid();
    pid_t pid = fork();
    if (pid == 0) {
        exec_supervisor(self_exe, args, log_fd, answer_fd);
    }
    struct spawn_answer answer = {.pid = pid, .sys_errno = pid < 0 ? errno : 0};
    ssize_t n = write(answer_fd, &answer, sizeof answer);
    _exit(n == (ssize_t)sizeof answer ? 0 : 1);
}

// The pid from the middle process; an error only when the exec failed; the end of the pipe
// means that it worked.
static int read_answers(int fd, pid_t *ret_pid) {
    struct spawn_answer answer;
    pid_t pid = 0;
    int rv = NL_OK;
    for (;;) {
        ssize_t n = read(fd, &answer, sizeof answer);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n != (ssize_t)sizeof answer) {
            break;
        }
        pid = answer.pid > 0 ? answer.pid : pid;
        rv = answer.sys_errno != 0 ? nl_err_from_errno(answer.sys_errno) : rv;
    }
    if (rv == NL_OK && pid == 0) {
        return NL_EIO;
    }
    if (rv == NL_OK && ret_pid != NULL) {
        *ret_pid = pid;
    }
    return rv;
}

static int open_log(const char *log_file) {
    if (log_file == NULL) {
        return fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    }
    return open(log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
}

int nl_supervisor_spawn(const char *self_exe, char *const args[], const char *log_file,
                        pid_t *ret_pid) {
    int fds[2];
    int log_fd = open_log(log_file);
    if (log_fd < 0) {
        return nl_err_from_errno(errno);
    }
    if (pipe2(fds, O_CLOEXEC) != 0) {
        int rv = nl_err_from_errno(errno);
        close(log_fd);
        return rv;
    }
    pid_t middle = fork();
    if (middle == 0) {
        run_middle(self_exe, args, log_fd, fds[1]);
    }
    int rv = middle < 0 ? nl_err_from_errno(errno) : NL_OK;
    close(fds[1]);
    close(log_fd);
    if (rv == NL_OK) {
        rv = read_answers(fds[0], ret_pid);
        while (waitpid(middle, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    close(fds[0]);
    return rv;
}

// Whether somebody holds a flock on this inode. Asked of the kernel's list: trying the lock
// would, for a moment, make a supervisor that starts just then believe another one runs.
static int lock_holder(ino_t inode, pid_t *ret_pid) {
    FILE *f = fopen("/proc/locks", "re");
    if (f == NULL) {
        return nl_err_from_errno(errno);
    }
    char line[256];
    pid_t holder = 0;
    while (holder == 0 && fgets(line, sizeof line, f) != NULL) {
        int pid = 0;
        unsigned long long number = 0;
        if (sscanf(line, "%*[^:]: FLOCK %*s %*s %d %*[^:]:%*[^:]:%llu", &pid, &number) == 2 &&
            number == inode) {
            holder = pid;
        }
    }
    fclose(f);
    *ret_pid = holder;
    return NL_OK;
}

int nl_supervisor_running(const char *state_dir, pid_t *ret_pid) {
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/lock", state_dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        return NL_EINVAL;
    }
    if (stat(path, &st) != 0) {
        if (errno != ENOENT) {
            return nl_err_from_errno(errno);
        }
        *ret_pid = 0;
        return NL_OK;
    }
    return lock_holder(st.st_ino, ret_pid);
}
