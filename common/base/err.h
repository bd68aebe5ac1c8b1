// Error codes of the whole project: an `int`, 0 or negative. Errors of a library
// are converted once, in the file that includes the library. A refusal of the
// domain (unknown agent, conflict) is not an error but an outcome.
#ifndef NODELINK_COMMON_BASE_ERR_H
#define NODELINK_COMMON_BASE_ERR_H

enum nl_err {
    NL_OK = 0,
    NL_ENOMEM = -1,    // no memory, or over a memory cap
    NL_EINVAL = -2,    // the caller's or the peer's input is wrong
    NL_EIO = -3,       // disk or file error
    NL_ECORRUPT = -4,  // stored or received data can't be what was written
    NL_ENOTFOUND = -5,
    NL_EEXIST = -6,
    NL_EFULL = -7,       // a queue, a disk or a limit is full; nothing was done
    NL_ENOTLEADER = -8,  // nothing was done
    NL_ENOQUORUM = -9,   // nothing was done
    NL_EUNKNOWN = -10,   // it may or may not have happened (P13)
    NL_ETIMEOUT = -11,   // in time nothing was heard; nothing was done
    NL_ECANCELED = -12,  // stopped, or given up by the caller
    NL_EAUTH = -13,      // missing or wrong credential
    NL_ECLOSED = -14,    // the peer or the object is closed
    NL_EAGAIN = -15,     // not now: would block
    NL_ETOOBIG = -16,    // over a size limit
    NL_EBUSY = -17,      // somebody else holds it (port, lock, directory)
    NL_EPERM = -18,
    NL_EVERSION = -19,  // written by another, incompatible version
    NL_EGAP = -20,      // bytes asked for are gone
};

// Short text for a person, never NULL.
const char *nl_strerror(int err);
// NL_E* for an errno value (positive).
int nl_err_from_errno(int sys_errno);

#endif
