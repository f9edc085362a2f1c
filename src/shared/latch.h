/*
 * Waking processes that share a scoreboard: the manager through its latch, an eventfd(2) that its loop polls,
 * and a worker through a flag in its slot and SIGUSR2.
 *
 * A worker is woken in this way. The waker sets woken in the worker's slot and, if woken was clear, sends
 * SIGUSR2. The worker clears woken, looks for what it waits for, and then sleeps in a call that unblocks the
 * signal, such as ppoll(2); everywhere else it is blocked. If the waker sets woken after the worker has
 * cleared it, the signal ends the sleep. If the waker sets woken before that, the worker's look sees whatever
 * the waker wrote before waking.
 */
#ifndef PGPOLL_LATCH_H
#define PGPOLL_LATCH_H

#include "shared/scoreboard.h"

/* Sets the manager's latch, from any process. The manager's loop clears it before it looks for work. */
void latch_set(const struct scoreboard *scoreboard);

/*
 * Sets the manager's latch if its statistics writer sleeps. Call this after each change of something that the
 * statistics show.
 */
void latch_wake_stats_writer(struct scoreboard *scoreboard);

/* Wakes one worker, whatever it waits for. For the manager and other workers. */
void latch_wake(struct scoreboard *scoreboard, int worker);

/*
 * Asks a worker to answer its poll early, without messages, as soon as the poll has lasted shortest_ms (more
 * than 0). Wakes the worker. For the manager and other workers.
 */
void latch_drain(struct scoreboard *scoreboard, int worker, int shortest_ms);

#endif
