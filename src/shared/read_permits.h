/*
 * Permits to have a page of the table read: a counting semaphore in the workers' memory that bounds how many
 * workers ask the readers at a time. A worker holds at most one permit, from before it asks until it has the
 * page.
 */
#ifndef PGPOLL_READ_PERMITS_H
#define PGPOLL_READ_PERMITS_H

#include "shared/scoreboard.h"

#include <stdbool.h>
#include <stdint.h>

/* How many permits are taken: 0 to scoreboard->read_permits. */
int read_permits_taken(const struct scoreboard *scoreboard);

/*
 * For a worker: takes a permit, sleeping until one is free. false: none was free by the deadline, in
 * monotonic milliseconds.
 */
bool read_permits_take(struct scoreboard *scoreboard, int worker, int64_t deadline_ms);

/*
 * Returns the worker's permit, if it holds one, and wakes a worker that waits for one. For the worker, and
 * for the manager if it died.
 */
void read_permits_return(struct scoreboard *scoreboard, int worker);

/*
 * For the manager, periodically: puts back permits that were lost because a worker was killed while it took
 * or returned one. A permit counts as lost if at two calls in a row it is taken but noted in no slot. Living
 * workers that both calls catch just before they note theirs look the same; then there is a permit too many
 * until the next two calls.
 */
void read_permits_mend(struct scoreboard *scoreboard);

#endif
