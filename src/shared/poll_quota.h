/*
 * The number of polls that one client may have waiting on this host (PGPOLL_MAX_POLLS_PER_CLIENT). A client
 * is a user or, if unauthenticated, an address; the workers' memory has a hash of it for each worker. The
 * newest poll wins: the client's oldest polls are answered early.
 */
#ifndef PGPOLL_POLL_QUOTA_H
#define PGPOLL_POLL_QUOTA_H

#include "shared/scoreboard.h"

#include <stdbool.h>

/*
 * A poll lasts this long before it is drained for a newer one: otherwise two clients that share a quota of
 * one, and poll again at once, would drain each other without a pause.
 */
enum { POLL_QUOTA_SHORTEST_MS = 500 };

/*
 * For a worker: claims a poll slot for this client, keyed by user, or by address if user is "". If the client
 * has more than quota polls, the oldest ones are drained. A poll being drained still counts until its worker
 * returns the claim; so that a client cannot occupy all workers with those, the result is false, and nothing
 * is claimed, if it has more than 2 * quota + SCOREBOARD_HANDOVERS polls.
 */
bool poll_quota_claim(struct scoreboard *scoreboard, int worker, const char *user, const char *address,
                      int quota);

/*
 * Ends the worker's claim, if it has one. For the worker before it answers, and for the manager if the worker
 * died.
 */
void poll_quota_return(struct scoreboard *scoreboard, int worker);

#endif
