/*
 * The log's line for each poll: who asked, what it came to and how long it took. Topics are named at level debug only; payloads,
 * cursors, users and bodies never.
 */
#ifndef PGPOLL_POLL_LOG_H
#define PGPOLL_POLL_LOG_H

#include "core/error.h"

#include <fcgiapp.h>

struct poll_waiter;

/*
 * Logs a request, at the level of what it came to. waiter: the poll, or NULL where it did not get so far. why: more about what went
 * wrong, or "".
 */
void poll_log(const FCGX_Request *request, const struct poll_waiter *waiter, enum error outcome,
              const char *why);

#endif
