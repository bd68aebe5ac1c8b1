// Certificates for tests, made on the spot: NAME.pem and NAME.key in a directory.
#ifndef NODELINK_TESTS_UNIT_CLUSTER_CERTS_H
#define NODELINK_TESTS_UNIT_CLUSTER_CERTS_H

// Makes /tmp/nl-certs-XXXXXX with the CAs "ca" and "other", both of the same name; "n1", "n2", "n3"
// of the first for 127.0.0.1 and localhost; "far" of the first for far.example; "expired" of the
// first; "stranger" of the second for 127.0.0.1. Returns the directory (static).
const char *certs_open(void);
void certs_close(void);
// DIR/name in one of a few rotating static buffers.
const char *certs_path(const char *name);
// One more, or a new one of that name: signed by `ca`, valid until `days` from now.
void certs_make(const char *name, const char *ca, const char *names, long days);
void certs_write(const char *name, const char *text);

#endif
