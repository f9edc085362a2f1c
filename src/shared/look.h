/*
 * Looks: how a worker makes sure that the message ring has everything that is committed now. The worker asks
 * the manager for a look at the database. One look answers all workers that asked before it began. After the
 * look, the ring is complete, for every topic that it holds, up to a moment after the worker's question.
 *
 * The manager numbers its looks. It trusts nothing that a worker writes here: a broken worker can delay
 * others, or cause looks, but cannot make a look seem done.
 *   1. The worker waits for the look that will be begun next; its number is looks_begun + 1. The worker
 *      writes that number into its slot, and sets its bit in lookers. Then it sets the manager's latch,
 *      unless the manager watches lookers by itself (looks_watched).
 *   2. The manager raises looks_begun, and only then sends the look's queries.
 *   3. After the look, the manager raises looks_done or looks_refused to the look's number. Then it takes the
 *      workers that wait for this look out of lookers and wakes them.
 *   4. The worker sees that its look has ended. It sets its bit before it checks that, so either the worker
 *      sees the end or the manager sees the bit.
 * Before the manager sleeps, it stops watching, and then checks lookers once more. So either the manager sees
 * the worker's bit, or the worker sees that the manager does not watch.
 */
#ifndef PGPOLL_LOOK_H
#define PGPOLL_LOOK_H

#include "shared/scoreboard.h"

#include <stdbool.h>
#include <stdint.h>

enum look_state {
    LOOK_PENDING,
    LOOK_DONE,   /* the ring is complete up to a moment after look_ask() */
    LOOK_REFUSED /* the manager cannot tell whether the ring is complete: ask about each topic */
};

/* ---- a worker */

/* Asks for a look that begins after this call. Returns the look's number. */
uint64_t look_ask(struct scoreboard *scoreboard, int worker);

/*
 * Returns the state of the look with this number. The worker is woken when the state is no longer
 * LOOK_PENDING.
 */
enum look_state look_state(const struct scoreboard *scoreboard, uint64_t number);

/* ---- the manager */

/*
 * Whether a worker waits for a look. Of use only while no look is under way, because workers that wait for
 * that look count, too.
 */
bool look_is_wanted(const struct scoreboard *scoreboard);

/* Begins a look, before its queries are sent. */
void look_begin(struct scoreboard *scoreboard);

/* Ends the look that was begun last, and wakes the workers that wait for it. */
void look_end(struct scoreboard *scoreboard, enum look_state state);

/* Sets whether the manager will call look_is_wanted() by itself, so that workers need not set its latch. */
void look_watch(struct scoreboard *scoreboard, bool watches);

#endif
