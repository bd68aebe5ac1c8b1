// The PEM files of a TLS identity, which may be replaced while we run. Files that don't make a
// working pair are not taken: the last good ones stay, since a rotation writes one file after the
// other. Not locked; blocking reads of small local files.
#ifndef NODELINK_COMMON_BASE_TLS_FILES_H
#define NODELINK_COMMON_BASE_TLS_FILES_H

#include <stdbool.h>
#include <stddef.h>

struct nl_tls_files;

// Texts that were checked; NULL: no such file was named. Borrowed until the next reload or close.
struct nl_tls_pem {
    const char *ca, *cert, *key;
};

// Reads and checks the files; each path may be NULL, but a certificate needs its key. NL_EIO:
// can't be read; NL_EPERM: group or others have access to the key file; NL_EINVAL: not PEM, or key
// and certificate don't belong together; NL_ENOMEM; with a sentence in error_text.
int nl_tls_files_open(const char *ca_file, const char *cert_file, const char *key_file,
                      struct nl_tls_files **ret, char *error_text, size_t error_size);
void nl_tls_files_close(struct nl_tls_files *files);  // NULL is allowed
// Reads the files again if they changed, or in any case with `force`. NL_OK: *ret_new says whether
// they hold something new. Otherwise as from nl_tls_files_open, and the last good ones stay.
int nl_tls_files_reload(struct nl_tls_files *files, bool force, bool *ret_new, char *error_text,
                        size_t error_size);
// For the check of settings, before anything is opened. NL_EPERM with a sentence if group or others
// have access to the key; NL_OK too for NULL and for a file that isn't there.
int nl_tls_key_check(const char *path, char *error_text, size_t error_size);
struct nl_tls_pem nl_tls_files_pem(const struct nl_tls_files *files);

#endif
