/* The library's clocks, of which tests may move the monotonic one forward instead of sleeping. */
#ifndef PGPOLL_FAKE_CLOCK_H
#define PGPOLL_FAKE_CLOCK_H

#include <stdint.h>

void fake_clock_advance(int64_t ms);

/* From now on time passes by fake_clock_advance() only, however long the machine takes. */
void fake_clock_stop(void);

/* Back to the system's time, for what sleeps by that. */
void fake_clock_restore(void);

#endif
