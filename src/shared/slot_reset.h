/* Freeing everything that a dead worker held in the scoreboard, for the manager. */
#ifndef PGPOLL_SLOT_RESET_H
#define PGPOLL_SLOT_RESET_H

#include "shared/scoreboard.h"

/* Empties a dead worker's slot: it is in no set, holds no claim and no permit, and has asked nothing. The worker's process must be gone. */
void slot_reset(struct scoreboard *scoreboard, int worker);

#endif
