// How long to wait before the next round of connection attempts: exponential with full
// jitter (a uniform draw from 0 to the ceiling), so that a fleet that lost a server at one
// instant comes back spread over time. Pure: the random number comes from the caller.
#ifndef NODELINK_AGENT_LINK_BACKOFF_H
#define NODELINK_AGENT_LINK_BACKOFF_H

#include <stdint.h>

struct nl_link_backoff {
    uint64_t start_ms;
    uint64_t cap_ms;
    uint64_t factor_percent;  // 150: each ceiling is 1.5 times the one before
    uint64_t ceiling_ms;      // of the next draw; 0: start_ms
};

// A draw from 1 to the ceiling, which then grows. `random`: 64 uniform bits.
uint64_t nl_link_backoff_next_ms(struct nl_link_backoff *b, uint64_t random);
// A draw from half of the cap to the cap, for peers that refuse us for a reason that time
// alone won't change (a wrong token). Leaves the ceiling alone.
uint64_t nl_link_backoff_slow_ms(const struct nl_link_backoff *b, uint64_t random);
void nl_link_backoff_reset(struct nl_link_backoff *b);

#endif
