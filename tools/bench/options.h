// Flags that the subcommands share.
#ifndef NODELINK_TOOLS_BENCH_OPTIONS_H
#define NODELINK_TOOLS_BENCH_OPTIONS_H

#define NL_BENCH_ARG_DURATION(type, fallback)                                      \
    {                                                                              \
        "duration", 0, NL_ARG_SECONDS, offsetof(type, duration_ms), "S", fallback, \
            "how long to measure; a number is seconds"                             \
    }
#define NL_BENCH_ARG_WARMUP(type)                                          \
    {                                                                      \
        "warmup", 0, NL_ARG_SECONDS, offsetof(type, warmup_ms), "S", "1s", \
            "before that, not counted"                                     \
    }
#define NL_BENCH_ARG_COUNT(type)                                  \
    {                                                             \
        "count", 0, NL_ARG_U64, offsetof(type, count), "N", NULL, \
            "stop after so many, even before the time is over"    \
    }
#define NL_BENCH_ARG_CONNECTIONS(type)                                       \
    {                                                                        \
        "connections", 0, NL_ARG_U64, offsetof(type, connections), "N", "1", \
            "of the clients to each address"                                 \
    }

enum { NL_BENCH_CLIENTS_MAX = 100000, NL_BENCH_AGENTS_MAX = 100000 };

#endif
