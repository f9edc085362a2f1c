/*
 * Looks: how a worker makes sure that the message ring has all that is committed now. It asks the manager for
 * a look at the database; one look answers all workers that asked before it began. After it, the ring is
 * complete, for every topic that it holds, up to a moment after the worker's question.
 *
 * The manager numbers its looks. It trusts nothing that a worker writes here: a broken worker can delay
 * others, or cause looks, but not make a look seem done.
 *   1. The worker reads the number of the look that was begun last (looks_begun); it waits for the next one.
 *      It writes that number into its slot, sets its bit in lookers, and sets the manager's latch unless the
 *      manager watches the set by itself (looks_watched).
 *   2. The manager raises looks_begun, and only then sends the look's queries.
 *   3. After the look, the manager raises looks_done or looks_refused to the look's number, then takes the
 *      workers that wait for it out of lookers and wakes them.
 *   4. The worker sees that its look has ended. Its bit is set before it checks, so either it sees the end or
 *      the manager sees the bit.
 * Before the manager sleeps, it stops watching, and then checks the set once more: either it sees the bit, or
 * the worker sees that nobody watches.
 */
#ifndef PGPOLL_LOOK_H
#define PGPOLL_LOOK_H

#include "shared/scoreboard.h"

#include <stdbool.h>
#include <stdint.h>

enum look_state {
    LOOK_PENDING,
    LOOK_DONE,   /* the ring is complete */
    LOOK_REFUSED /* the manager cannot tell: ask about each topic */
};

/* ---- a worker */

/* Asks for a look that begins after this call. Returns its number. */
uint64_t look_ask(struct scoreboard *scoreboard, int worker);

/* The state of the look with this number. The worker is woken when it is no longer LOOK_PENDING. */
enum look_state look_state(const struct scoreboard *scoreboard, uint64_t number);

/* ---- the manager */

/* Whether a worker waits for a look. Of use while none is under way. */
bool look_is_wanted(const struct scoreboard *scoreboard);

/* Begins a look, before its queries are sent. */
void look_begin(struct scoreboard *scoreboard);

/* Ends the look that was begun last, and wakes the workers that wait for it. */
void look_end(struct scoreboard *scoreboard, enum look_state state);

/* Whether the manager will call look_is_wanted() by itself, so that workers need not set its latch. */
void look_watch(struct scoreboard *scoreboard, bool watches);

#endif
