/*
 * Permits to have a page of the table read: a counting semaphore in the workers' memory that bounds how many
 * workers ask the readers at a time. A worker holds at most one permit, from before it asks until it has the
 * page. There are as many permits as there may be readers, and the manager runs as many readers as permits
 * are taken.
 *
 * The readers' queue (read_channel.h) does not make them superfluous. It bounds how many pages are read at a
 * time, but not what it costs to wait for that:
 *   1. Each queued question is a descriptor in flight. Linux allows a user RLIMIT_NOFILE of them (unix(7),
 *      ETOOMANYREFS): of 3,000 questions of 1,000 processes at a limit of 256, 2,191 failed.
 *   2. All workers that wait for room in the queue are woken whenever there is some. With 3,000 processes
 *      that asked at once, 8 readers and 0.3 ms a page, 9,000 pages took 7 to 18 s and 13 to 21 s of CPU
 *      time; with permits, which wake one worker each, 1.9 to 3.4 s and 5.4 s.
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
