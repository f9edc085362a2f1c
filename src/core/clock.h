/*
 * Reads the two system clocks. Deadlines and durations use the monotonic clock. The wall clock serves only
 * times that are shown to people or compared with times in PostgreSQL.
 */
#ifndef PGPOLL_CLOCK_H
#define PGPOLL_CLOCK_H

#include <stdint.h>

/* Returns CLOCK_MONOTONIC in milliseconds. */
int64_t clock_monotonic_ms(void);

/* Returns CLOCK_MONOTONIC in microseconds, for short durations. */
int64_t clock_monotonic_us(void);

/* These functions return the smaller and the larger of two times or durations. */
static inline int64_t clock_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t clock_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Returns CLOCK_REALTIME in milliseconds since 1970-01-01 UTC. */
int64_t clock_wall_ms(void);

#endif
