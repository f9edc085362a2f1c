/*
 * Replaces src/core/clock.c, because the linker takes an object file from the library only for symbols that
 * the tests do not define.
 */
#include "fake_clock.h"

#include "core/clock.h"

#include <time.h>

static int64_t moved_ms, stopped_ms, stopped_wall_ms; /* the stopped times; 0: the clock runs */

static int64_t read_ms(clockid_t clock)
{
    struct timespec now;

    (void)clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t clock_monotonic_ms(void)
{
    return (stopped_ms ? stopped_ms : read_ms(CLOCK_MONOTONIC)) + moved_ms;
}

int64_t clock_monotonic_us(void)
{
    return clock_monotonic_ms() * 1000;
}

int64_t clock_wall_ms(void)
{
    return stopped_wall_ms ? stopped_wall_ms : read_ms(CLOCK_REALTIME);
}

void fake_clock_advance(int64_t ms)
{
    moved_ms += ms;
}

void fake_clock_stop(void)
{
    stopped_ms = read_ms(CLOCK_MONOTONIC);
    stopped_wall_ms = read_ms(CLOCK_REALTIME);
}

void fake_clock_restore(void)
{
    moved_ms = stopped_ms = stopped_wall_ms = 0;
}
