#include "common/base/tls_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/fs.h"

#define PEM_BYTES_MAX (1u << 20)
// A file as young as this may change again without a new time stamp.
#define SETTLED_MS 2000

enum { CA, CERT, KEY, FILES };

// What a file's stat says of its content.
struct stamp {
    dev_t dev;
    ino_t inode;
    off_t size;
    struct timespec modified, changed;
};

struct nl_tls_files {
    char *paths[FILES];          // owned; NULL: not used
    struct stamp stamps[FILES];  // of what was last looked at, good or not
    char *pem[FILES];            // the last good ones; owned
};

// ---- what the files hold ---------------------------------------------------

static int no_password(char *out, int size, int writing, void *user) {
    (void)out;
    (void)size;
    (void)writing;
    (void)user;
    return 0;  // instead of asking at the terminal
}

static X509 *parse_cert(const char *pem) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert = bio != NULL ? PEM_read_bio_X509(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    return cert;
}

static EVP_PKEY *parse_key(const char *pem) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    return key;
}

// NULL, or what is wrong with them.
static const char *check_pair(const char *cert_pem, const char *key_pem) {
    X509 *cert = parse_cert(cert_pem);
    EVP_PKEY *key = parse_key(key_pem);
    const char *wrong = NULL;
    if (cert == NULL) {
        wrong = "holds no PEM certificate";
    } else if (key == NULL) {
        wrong = "has a key file without a usable PEM private key";
    } else if (X509_check_private_key(cert, key) != 1) {
        wrong = "does not belong to the private key";
    }
    X509_free(cert);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return wrong;
}

static const char *check_ca(const char *pem) {
    X509 *cert = parse_cert(pem);
    const char *wrong = cert == NULL ? "holds no PEM certificate" : NULL;
    X509_free(cert);
    ERR_clear_error();
    return wrong;
}

static int check(const struct nl_tls_files *files, char *const pem[FILES], char *error_text,
                 size_t error_size) {
    const char *path = files->paths[CA];
    const char *wrong = pem[CA] != NULL ? check_ca(pem[CA]) : NULL;
    if (wrong == NULL && pem[CERT] != NULL) {
        path = files->paths[CERT];
        wrong = check_pair(pem[CERT], pem[KEY]);
    }
    if (wrong != NULL) {
        snprintf(error_text, error_size, "%s %s", path, wrong);
        return NL_EINVAL;
    }
    return NL_OK;
}

// ---- reading ---------------------------------------------------------------

static void free_pem(char *pem[FILES]) {
    for (int i = 0; i < FILES; i++) {
        if (pem[i] != NULL) {
            OPENSSL_cleanse(pem[i], strlen(pem[i]));
            free(pem[i]);
            pem[i] = NULL;
        }
    }
}

static int too_open(const char *path, mode_t mode, char *error_text, size_t error_size) {
    snprintf(error_text, error_size,
             "%s: mode %04o gives others access to the private key; chmod 600 it, and make a new "
             "one if they used it",
             path, (unsigned)mode & 07777);
    return NL_EPERM;
}

int nl_tls_key_check(const char *path, char *error_text, size_t error_size) {
    struct stat st;
    bool open = path != NULL && stat(path, &st) == 0 && (st.st_mode & (S_IRWXG | S_IRWXO)) != 0;
    return open ? too_open(path, st.st_mode, error_text, error_size) : NL_OK;
}

static int read_one(const char *path, bool is_private, char **ret, char *error_text,
                    size_t error_size) {
    size_t len;
    mode_t mode = 0;
    int rc = is_private ? nl_fs_read_private(path, PEM_BYTES_MAX, ret, &len, &mode)
                        : nl_fs_read(path, PEM_BYTES_MAX, ret, &len);
    if (mode != 0) {
        return too_open(path, mode, error_text, error_size);
    }
    if (rc != NL_OK) {
        snprintf(error_text, error_size, "%s: %s", path, nl_strerror(rc));
    }
    return rc == NL_OK ? NL_OK : NL_EIO;
}

static int read_all(const struct nl_tls_files *files, char *pem[FILES], char *error_text,
                    size_t error_size) {
    for (int i = 0; i < FILES; i++) {
        if (files->paths[i] == NULL) {
            continue;
        }
        int rc = read_one(files->paths[i], i == KEY, &pem[i], error_text, error_size);
        if (rc != NL_OK) {
            free_pem(pem);
            return rc;
        }
    }
    return NL_OK;
}

static struct stamp look(const char *path) {
    struct stamp stamp;
    memset(&stamp, 0, sizeof stamp);
    struct stat st;
    if (path != NULL && stat(path, &st) == 0) {
        stamp.dev = st.st_dev;
        stamp.inode = st.st_ino;
        stamp.size = st.st_size;
        stamp.modified = st.st_mtim;
        stamp.changed = st.st_ctim;
    }
    return stamp;
}

static bool is_young(const struct stamp *stamp) {
    uint64_t changed_ms = (uint64_t)stamp->changed.tv_sec * 1000;
    return nl_clock_wall_ms() < changed_ms + SETTLED_MS;
}

static bool look_again(struct nl_tls_files *files) {
    bool changed = false;
    for (int i = 0; i < FILES; i++) {
        struct stamp stamp = look(files->paths[i]);
        changed |= memcmp(&stamp, &files->stamps[i], sizeof stamp) != 0 || is_young(&stamp);
        files->stamps[i] = stamp;
    }
    return changed;
}

static bool same(char *const a[FILES], char *const b[FILES]) {
    for (int i = 0; i < FILES; i++) {
        if (a[i] != NULL && strcmp(a[i], b[i]) != 0) {
            return false;
        }
    }
    return true;
}

int nl_tls_files_reload(struct nl_tls_files *files, bool force, bool *ret_new, char *error_text,
                        size_t error_size) {
    char *pem[FILES] = {NULL};
    bool changed = look_again(files);
    if (!changed && !force) {
        *ret_new = false;
        return NL_OK;
    }
    int rc = read_all(files, pem, error_text, error_size);
    rc = rc == NL_OK ? check(files, pem, error_text, error_size) : rc;
    if (rc != NL_OK) {
        free_pem(pem);
        return rc;
    }
    *ret_new = !same(pem, files->pem);
    free_pem(files->pem);
    memcpy(files->pem, pem, sizeof pem);
    return NL_OK;
}

struct nl_tls_pem nl_tls_files_pem(const struct nl_tls_files *files) {
    return (struct nl_tls_pem){files->pem[CA], files->pem[CERT], files->pem[KEY]};
}

// ---- open, close -----------------------------------------------------------

static bool copy_path(char **to, const char *path) {
    *to = path != NULL ? strdup(path) : NULL;
    return path == NULL || *to != NULL;
}

void nl_tls_files_close(struct nl_tls_files *files) {
    if (files == NULL) {
        return;
    }
    free_pem(files->pem);
    for (int i = 0; i < FILES; i++) {
        free(files->paths[i]);
    }
    free(files);
}

static int load_first(struct nl_tls_files *files, char *error_text, size_t error_size) {
    if ((files->paths[CERT] != NULL) != (files->paths[KEY] != NULL)) {
        snprintf(error_text, error_size, "TLS needs both a certificate and a key file");
        return NL_EINVAL;
    }
    look_again(files);
    int rc = read_all(files, files->pem, error_text, error_size);
    return rc == NL_OK ? check(files, files->pem, error_text, error_size) : rc;
}

int nl_tls_files_open(const char *ca_file, const char *cert_file, const char *key_file,
                      struct nl_tls_files **ret, char *error_text, size_t error_size) {
    struct nl_tls_files *files = calloc(1, sizeof *files);
    bool ok = files != NULL && copy_path(&files->paths[CA], ca_file) &&
              copy_path(&files->paths[CERT], cert_file) && copy_path(&files->paths[KEY], key_file);
    if (!ok) {
        snprintf(error_text, error_size, "no memory");
        nl_tls_files_close(files);
        return NL_ENOMEM;
    }
    int rc = load_first(files, error_text, error_size);
    if (rc != NL_OK) {
        nl_tls_files_close(files);
        return rc;
    }
    *ret = files;
    return NL_OK;
}
