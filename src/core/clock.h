/*
 * The two clocks. Deadlines are monotonic milliseconds; the wall clock is only for what people and PostgreSQL call a time.
 */
#ifndef PGPOLL_CLOCK_H
#define PGPOLL_CLOCK_H

#include <stdint.h>

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t clock_monotonic_ms(void);

/* The earlier and the later of two times, or the shorter and the longer of two durations. */
static inline int64_t clock_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t clock_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Milliseconds since 1970-01-01 UTC. */
int64_t clock_wall_ms(void);

#endif
