#include "agent/link/backoff.h"

static uint64_t grown(const struct nl_link_backoff *b, uint64_t ceiling) {
    uint64_t next =
        ceiling >= UINT64_MAX / b->factor_percent ? b->cap_ms : ceiling * b->factor_percent / 100;
    return next > b->cap_ms ? b->cap_ms : next;
}

uint64_t nl_link_backoff_next_ms(struct nl_link_backoff *b, uint64_t random) {
    uint64_t ceiling = b->ceiling_ms == 0 ? b->start_ms : b->ceiling_ms;
    ceiling = ceiling > b->cap_ms ? b->cap_ms : ceiling;
    b->ceiling_ms = grown(b, ceiling);
    return ceiling == 0 ? 1 : 1 + random % ceiling;
}

uint64_t nl_link_backoff_slow_ms(const struct nl_link_backoff *b, uint64_t random) {
    uint64_t half = b->cap_ms / 2;
    return half + 1 + random % (half + 1);
}

void nl_link_backoff_reset(struct nl_link_backoff *b) {
    b->ceiling_ms = 0;
}
