/*
 * A quota on the number of polls that one client may have waiting on this host (PGPOLL_MAX_POLLS_PER_CLIENT).
 * A client is a user or, if unauthenticated, an address. The workers' memory has, for each worker, a hash of
 * the client that it serves. The newest poll wins: if a client has too many polls, its oldest ones are
 * answered early.
 */
#ifndef PGPOLL_POLL_QUOTA_H
#define PGPOLL_POLL_QUOTA_H

#include "shared/scoreboard.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * A poll lasts at least this long before a newer one may drain it. Otherwise two programs of one client with
 * a quota of one, which poll again at once, would drain each other without a pause.
 */
enum { POLL_QUOTA_SHORTEST_MS = 500 };

/*
 * For a worker: claims a poll slot for this client, keyed by user, or by address if user is "", for a poll
 * that started at started_ms (monotonic). If the client then has more than quota polls, drains the oldest
 * ones. Returns false, and claims nothing, if the client has more than 2 * quota + SCOREBOARD_HANDOVERS
 * polls. A poll that is being drained still counts until its worker returns the claim; the second limit keeps
 * a client from occupying all workers with such polls.
 */
bool poll_quota_claim(struct scoreboard *scoreboard, int worker, const char *user, const char *address,
                      int64_t started_ms, int quota);

/*
 * Returns the worker's claim, if it has one. Called by the worker before it answers, and by the manager if
 * the worker has died.
 */
void poll_quota_return(struct scoreboard *scoreboard, int worker);

#endif
