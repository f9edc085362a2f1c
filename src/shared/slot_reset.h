/* Lets the manager free everything that a dead worker held in the scoreboard. */
#ifndef PGPOLL_SLOT_RESET_H
#define PGPOLL_SLOT_RESET_H

#include "shared/scoreboard.h"

/*
 * Empties a dead worker's slot: takes the worker out of all sets, returns its claim (poll_quota.h) and its
 * permit (read_permits.h), and drops its question. Call this only after the process has ended, because a
 * worker that still runs may write to the slot again.
 */
void slot_reset(struct scoreboard *scoreboard, int worker);

#endif
