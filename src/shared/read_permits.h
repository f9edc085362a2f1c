/*
 * Permits to have a page of the table read: a number in the workers' memory that bounds how many workers
 * ask the readers at a time. A worker holds at most one permit, from before it asks until it has the
 * page. There are as many permits as there may be readers, and the manager says how many of them may be
 * taken now (read_pace.h). Whenever more permits are taken than readers run, the manager starts readers.
 *
 * The readers' queue (read_channel.h) alone would bound how many pages are read at a time, but waiting in
 * the queue is expensive:
 *   1. Each queued question is a descriptor in flight. Linux allows a user RLIMIT_NOFILE of them (unix(7),
 *      ETOOMANYREFS): of 3,000 questions of 1,000 processes at a limit of 256, 2,191 failed.
 *   2. All workers that wait for room in the queue are woken whenever there is some. With 3,000 processes
 *      that asked at once, 8 readers and 0.3 ms a page, 9,000 pages took 7 to 18 s and 13 to 21 s of CPU
 *      time. With permits, each of which wakes one worker, they took 1.9 to 3.4 s and 5.4 s of CPU time.
 *
 * The workers that wait for a permit are a queue: each has a ticket in scoreboard->read_turns. Whoever
 * returns a permit gives it to the worker with the lowest ticket, so no worker that asks later can take
 * it before.
 */
#ifndef PGPOLL_READ_PERMITS_H
#define PGPOLL_READ_PERMITS_H

#include "shared/scoreboard.h"

#include <stdbool.h>

/* Returns how many permits are taken: 0 to scoreboard->read_permits. */
int read_permits_taken(const struct scoreboard *scoreboard);

/*
 * For the manager: from now on, at most count permits (1 to scoreboard->read_permits) are taken at a time. If
 * more are, their workers keep them, and no worker gets one until enough have been returned.
 */
void read_permits_allow(struct scoreboard *scoreboard, int count);

/*
 * For a worker: enters the queue, unless the worker is in it, and returns whether the worker holds a permit.
 * If not, the worker is woken when it gets one. Call this again then, and also every second, because a
 * process may be killed between giving the permit and waking the worker, or a broken worker may write wrong
 * values. To leave the queue, call read_permits_return().
 */
bool read_permits_take(struct scoreboard *scoreboard, int worker);

/*
 * Returns the worker's permit, if it holds one, to the worker that waits longest, or gives up the
 * worker's place in the queue. Called by the worker, and by the manager if the worker has died or is stopped
 * (SIGSTOP). One that continues then goes on reading, or enters the queue again.
 */
void read_permits_return(struct scoreboard *scoreboard, int worker);

/* Whether this worker holds a permit. */
bool read_permits_has(const struct scoreboard *scoreboard, int worker);

/*
 * For the manager, periodically: puts back permits that were lost because a worker was killed while it
 * took or returned one. A permit counts as lost if at two calls in a row it is taken but noted for no
 * worker. One that is just handed out looks the same. If both calls meet such permits, they put back one
 * too many, which the next two calls correct. Also hands out what is free, because a worker may be killed
 * before it does, and removes the turns of idle workers, which only a broken worker can have written.
 * Returns false if another call is needed.
 */
bool read_permits_mend(struct scoreboard *scoreboard);

#endif
