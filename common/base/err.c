#include "common/base/err.h"

#include <errno.h>
#include <stddef.h>

static const char *const texts[] = {
    [-NL_OK] = "success",
    [-NL_ENOMEM] = "out of memory",
    [-NL_EINVAL] = "invalid input",
    [-NL_EIO] = "input/output error",
    [-NL_ECORRUPT] = "corrupt data",
    [-NL_ENOTFOUND] = "not found",
    [-NL_EEXIST] = "exists already",
    [-NL_EFULL] = "full",
    [-NL_ENOTLEADER] = "not the leader",
    [-NL_ENOQUORUM] = "no quorum",
    [-NL_EUNKNOWN] = "outcome unknown",
    [-NL_ETIMEOUT] = "timed out",
    [-NL_ECANCELED] = "cancelled",
    [-NL_EAUTH] = "not authenticated",
    [-NL_ECLOSED] = "closed",
    [-NL_EAGAIN] = "try again",
    [-NL_ETOOBIG] = "too big",
    [-NL_EBUSY] = "in use by another process",
    [-NL_EPERM] = "not permitted",
    [-NL_EVERSION] = "incompatible version",
    [-NL_EGAP] = "data no longer available",
};

const char *nl_strerror(int err) {
    if (err > 0 || err <= -(int)(sizeof texts / sizeof texts[0]) || texts[-err] == NULL) {
        return "unknown error";
    }
    return texts[-err];
}

int nl_err_from_errno(int sys_errno) {
    switch (sys_errno) {
        case 0:
            return NL_OK;
        case ENOMEM:
            return NL_ENOMEM;
        case EINVAL:
        case ENAMETOOLONG:
        case ENOTDIR:
        case EISDIR:
        case ELOOP:
            return NL_EINVAL;
        case ENOENT:
        case ESRCH:
            return NL_ENOTFOUND;
        case EEXIST:
        case ENOTEMPTY:
            return NL_EEXIST;
        case ENOSPC:
        case EDQUOT:
        case EMFILE:
        case ENFILE:
            return NL_EFULL;
        case EFBIG:
        case E2BIG:
        case EMSGSIZE:
            return NL_ETOOBIG;
        case EACCES:
        case EPERM:
        case EROFS:
            return NL_EPERM;
        case EBUSY:
        case EADDRINUSE:
        case ETXTBSY:
            return NL_EBUSY;
        case EAGAIN:
        case EINTR:
            return NL_EAGAIN;
        case ETIMEDOUT:
            return NL_ETIMEOUT;
        case ECANCELED:
            return NL_ECANCELED;
        case EPIPE:
        case ECONNRESET:
        case ECONNREFUSED:
        case ENOTCONN:
        case ECONNABORTED:
            return NL_ECLOSED;
        default:
            return NL_EIO;
    }
}
