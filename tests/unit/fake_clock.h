/* Replaces the library's clocks. Tests move the monotonic clock forward instead of sleeping. */
#ifndef PGPOLL_FAKE_CLOCK_H
#define PGPOLL_FAKE_CLOCK_H

#include <stdint.h>

/* Moves the monotonic clock forward. */
void fake_clock_advance(int64_t ms);

/* Stops the clocks: from now on only fake_clock_advance() moves them. */
void fake_clock_stop(void);

/* Makes the clocks show the system's time again, for tests that really sleep. */
void fake_clock_restore(void);

#endif
