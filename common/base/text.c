#include "common/base/text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buf.h"
#include "common/base/err.h"

enum { ID_LEN_MAX = 128 };

// Length of the well-formed sequence at s, 0 if there is none (RFC 3629 section 4: no
// overlong forms, no surrogates, nothing above U+10FFFF).
static size_t utf8_sequence(const unsigned char *s, size_t left) {
    unsigned char lead = s[0];
    if (lead < 0x80) {
        return lead == 0 ? 0 : 1;
    }
    size_t len = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || left < len) {
        return 0;
    }
    unsigned char low = 0x80, high = 0xBF;  // range of the second byte
    if (lead == 0xE0) {
        low = 0xA0;
    } else if (lead == 0xED) {
        high = 0x9F;
    } else if (lead == 0xF0) {
        low = 0x90;
    } else if (lead == 0xF4) {
        high = 0x8F;
    }
    if (s[1] < low || s[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return len;
}

bool nl_text_utf8_ok(const char *s, size_t len) {
    size_t at = 0;
    while (at < len) {
        size_t n = utf8_sequence((const unsigned char *)s + at, len - at);
        if (n == 0) {
            return false;
        }
        at += n;
    }
    return true;
}

static bool alnum(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool nl_text_id_ok(const char *s) {
    if (s == NULL || s[0] == '\0' || s[0] == '-' || s[0] == '.') {
        return false;
    }
    size_t i = 0;
    for (; s[i] != '\0'; i++) {
        if (i >= ID_LEN_MAX || (!alnum(s[i]) && strchr("._:-", s[i]) == NULL)) {
            return false;
        }
    }
    return true;
}

static bool plain_word(const char *word) {
    if (word[0] == '\0') {
        return false;
    }
    for (const char *p = word; *p != '\0'; p++) {
        if (!alnum(*p) && strchr("_-+=./:,@%", *p) == NULL) {
            return false;
        }
    }
    // A word with '=' in command position would be read as an assignment.
    return strchr(word, '=') == NULL;
}

static int quote_into(struct nl_buf *out, const char *word) {
    if (plain_word(word)) {
        return nl_buf_append(out, word, strlen(word));
    }
    int rv = nl_buf_append(out, "'", 1);
    while (rv == NL_OK && *word != '\0') {
        size_t run = strcspn(word, "'");
        rv = nl_buf_append(out, word, run);
        word += run;
        if (rv == NL_OK && *word == '\'') {
            rv = nl_buf_append(out, "'\\''", 4);
            word++;
        }
    }
    return rv == NL_OK ? nl_buf_append(out, "'", 1) : rv;
}

static char *finish(struct nl_buf *out, int rv) {
    if (rv == NL_OK) {
        rv = nl_buf_append(out, "", 1);
    }
    if (rv != NL_OK) {
        nl_buf_close(out);
        return NULL;
    }
    return (char *)out->data;
}

char *nl_text_shell_quote(const char *word) {
    struct nl_buf out;
    nl_buf_init(&out, 0);
    return finish(&out, quote_into(&out, word));
}

char *nl_text_shell_join(char *const *argv, size_t n) {
    struct nl_buf out;
    nl_buf_init(&out, 0);
    int rv = NL_OK;
    for (size_t i = 0; i < n && rv == NL_OK; i++) {
        if (i > 0) {
            rv = nl_buf_append(&out, " ", 1);
        }
        if (rv == NL_OK) {
            rv = quote_into(&out, argv[i]);
        }
    }
    return finish(&out, rv);
}

void nl_text_duration(char out[32], unsigned long long ms) {
    unsigned long long s = ms / 1000, m = s / 60, h = m / 60, d = h / 24;
    if (ms < 1000) {
        snprintf(out, 32, "%llums", ms);
    } else if (s < 60 && ms % 1000 >= 100) {
        snprintf(out, 32, "%llu.%llus", s, ms % 1000 / 100);
    } else if (s < 60) {
        snprintf(out, 32, "%llus", s);
    } else if (m < 60) {
        snprintf(out, 32, "%llum%02llus", m, s % 60);
    } else if (h < 24) {
        snprintf(out, 32, "%lluh%02llum", h, m % 60);
    } else {
        snprintf(out, 32, "%llud%02lluh", d, h % 24);
    }
}
