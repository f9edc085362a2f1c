/*
 * Permits to have a page of the table read: a counting semaphore in the workers' memory that bounds how many
 * workers ask the readers at a time. A worker holds at most one permit, from before it asks until it has the
 * page. There are as many permits as there may be readers, and the manager says how many of them may be taken
 * now (read_pace.h). Whenever more permits are taken than readers run, the manager starts readers.
 *
 * The readers' queue (read_channel.h) alone would bound how many pages are read at a time, but waiting in the
 * queue is expensive:
 *   1. Each queued question is a descriptor in flight. Linux allows a user RLIMIT_NOFILE of them (unix(7),
 *      ETOOMANYREFS): of 3,000 questions of 1,000 processes at a limit of 256, 2,191 failed.
 *   2. All workers that wait for room in the queue are woken whenever there is some. With 3,000 processes
 *      that asked at once, 8 readers and 0.3 ms a page, 9,000 pages took 7 to 18 s and 13 to 21 s of CPU
 *      time. With permits, each of which wakes one worker, they took 1.9 to 3.4 s and 5.4 s of CPU time.
 */
#ifndef PGPOLL_READ_PERMITS_H
#define PGPOLL_READ_PERMITS_H

#include "shared/scoreboard.h"

#include <stdbool.h>
#include <stdint.h>

struct interrupts;

/* Returns how many permits are taken: 0 to scoreboard->read_permits. */
int read_permits_taken(const struct scoreboard *scoreboard);

/*
 * For the manager: from now on, at most count permits (1 to scoreboard->read_permits) are taken at a time. If
 * more are, their workers keep them, and no worker gets one until enough have been returned.
 */
void read_permits_allow(struct scoreboard *scoreboard, int count);

/*
 * For a worker: takes a permit, sleeping until one is free. The worker that has waited longest is woken
 * first. Returns false if none was free by deadline_ms (monotonic), or if interrupts is not NULL and drain
 * was set before.
 */
bool read_permits_take(struct scoreboard *scoreboard, int worker, int64_t deadline_ms,
                       const struct interrupts *interrupts);

/*
 * Returns the worker's permit, if it holds one, and wakes a worker that waits for one. Called by the worker,
 * and by the manager if the worker has died.
 */
void read_permits_return(struct scoreboard *scoreboard, int worker);

/*
 * For the manager, periodically: puts back permits that were lost because a worker was killed while it took
 * or returned one. A permit counts as lost if at two calls in a row it is taken but noted in no slot. A
 * worker that has just taken a permit and not noted it yet looks the same. If both calls meet such workers,
 * they put back one permit too many, which the next two calls correct. Also wakes as many workers as permits
 * are free, because a wake-up is lost with a worker that is killed in between. Returns false if another call
 * is needed.
 */
bool read_permits_mend(struct scoreboard *scoreboard);

#endif
