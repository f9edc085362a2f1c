/*
 * Writes the log line of a poll: its client, its user, its outcome and its duration. Names topics only at
 * level debug, apart from one that the user may not poll. Never logs payloads, cursors, tokens or bodies.
 */
#ifndef PGPOLL_POLL_LOG_H
#define PGPOLL_POLL_LOG_H

#include "core/error.h"

#include <fcgiapp.h>

struct poll_waiter;

/*
 * Logs a request at the level of its outcome. waiter is the poll, or NULL if the request was refused before
 * it became one. why is the text of the error, or "".
 */
void poll_log(const FCGX_Request *request, const struct poll_waiter *waiter, enum error outcome,
              const char *why);

#endif
