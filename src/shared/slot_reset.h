/* The manager frees here whatever a dead worker held in the scoreboard. */
#ifndef PGPOLL_SLOT_RESET_H
#define PGPOLL_SLOT_RESET_H

#include "shared/scoreboard.h"

/*
 * Empties a dead worker's slot: it is in no set, holds no claim and no permit, and has asked nothing. Call
 * it after the process has ended: a worker that still runs may write there again.
 */
void slot_reset(struct scoreboard *scoreboard, int worker);

#endif
