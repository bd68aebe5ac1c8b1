#include "tests/unit/cluster/certs.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/cluster/fixture.h"

#define DAY_S (24L * 3600)

static char dir[32];

const char *certs_path(const char *name) {
    static char buffers[16][128];
    static unsigned at;
    char *buffer = buffers[at++ % 16];
    snprintf(buffer, sizeof buffers[0], "%s/%s", dir, name);
    return buffer;
}

static FILE *open_file(const char *name, const char *suffix, const char *mode) {
    char file[64];
    snprintf(file, sizeof file, "%s%s", name, suffix);
    FILE *f = fopen(certs_path(file), mode);
    assert_non_null(f);
    return f;
}

static void write_pair(const char *name, X509 *cert, EVP_PKEY *key) {
    FILE *f = open_file(name, ".pem", "w");
    assert_int_equal(PEM_write_X509(f, cert), 1);
    fclose(f);
    f = open_file(name, ".key", "w");
    assert_int_equal(fchmod(fileno(f), 0600), 0);
    assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(f);
}

static X509 *new_cert(EVP_PKEY *key, const char *name, long days) {
    static long serial;
    X509 *cert = X509_new();
    X509_NAME *subject = X509_get_subject_name(cert);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(cert), -10 * DAY_S);
    X509_gmtime_adj(X509_getm_notAfter(cert), days * DAY_S);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_pubkey(cert, key);
    return cert;
}

static void extend(X509 *cert, int nid, const char *value) {
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(ext);
    assert_int_equal(X509_add_ext(cert, ext, -1), 1);
    X509_EXTENSION_free(ext);
}

static void make_ca(const char *name) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = new_cert(key, "nodelink test CA", 2);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    extend(cert, NID_basic_constraints, "critical,CA:TRUE");
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    write_pair(name, cert, key);
    X509_free(cert);
    EVP_PKEY_free(key);
}

void certs_make(const char *name, const char *ca, const char *names, long days) {
    FILE *f = open_file(ca, ".pem", "r");
    X509 *ca_cert = PEM_read_X509(f, NULL, NULL, NULL);
    fclose(f);
    f = open_file(ca, ".key", "r");
    EVP_PKEY *ca_key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    fclose(f);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = new_cert(key, name, days);
    X509_set_issuer_name(cert, X509_get_subject_name(ca_cert));
    extend(cert, NID_subject_alt_name, names);
    assert_true(X509_sign(cert, ca_key, EVP_sha256()) > 0);
    write_pair(name, cert, key);
    X509_free(cert);
    EVP_PKEY_free(key);
    X509_free(ca_cert);
    EVP_PKEY_free(ca_key);
}

void certs_write(const char *name, const char *text) {
    FILE *f = open_file(name, "", "w");
    fputs(text, f);
    fclose(f);
}

const char *certs_open(void) {
    snprintf(dir, sizeof dir, "/tmp/nl-certs-XXXXXX");
    assert_non_null(mkdtemp(dir));
    make_ca("ca");
    make_ca("other");
    certs_make("n1", "ca", "IP:127.0.0.1,DNS:localhost", 2);
    certs_make("n2", "ca", "IP:127.0.0.1,DNS:localhost", 2);
    certs_make("n3", "ca", "IP:127.0.0.1,DNS:localhost", 2);
    certs_make("far", "ca", "DNS:far.example", 2);
    certs_make("expired", "ca", "IP:127.0.0.1", -1);
    certs_make("stranger", "other", "IP:127.0.0.1", 2);
    return dir;
}

void certs_close(void) {
    fixture_remove(dir);
}
