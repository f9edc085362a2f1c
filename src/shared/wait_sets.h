/*
 * Wait sets: which workers wait for which topic. A set is one bit per worker in the workers' memory. The
 * topic with number n uses set n % SCOREBOARD_BUCKETS, so several topics share a set. No lock is needed:
 *   1. A worker enters its sets, executes a fence, and then looks into the message ring once more.
 *   2. The manager appends to the ring, executes a fence, and then wakes the workers in the topic's set.
 * Whichever fence comes first, the worker sees the message or the manager sees the worker.
 */
#ifndef PGPOLL_WAIT_SETS_H
#define PGPOLL_WAIT_SETS_H

#include "shared/scoreboard.h"

/* For a worker: enters or leaves the sets of the topics in its slot. */
void wait_sets_enter(struct scoreboard *scoreboard, int worker);
void wait_sets_leave(struct scoreboard *scoreboard, int worker);

/*
 * For the manager: removes a dead worker from all sets, whatever topics its slot names, because they may be
 * garbage.
 */
void wait_sets_remove(struct scoreboard *scoreboard, int worker);

/* For the manager: wakes every worker in the topic's set whose slot names this topic. */
void wait_sets_wake(struct scoreboard *scoreboard, int topic);

/*
 * For the manager: does that for all topics together, in one pass over the workers. Wakes every worker that
 * serves a poll, also those that do not wait yet.
 */
void wait_sets_wake_all(struct scoreboard *scoreboard);

#endif
