/*
 * Writes the log line of a poll: its client, its outcome and its duration. Names topics only at level debug.
 * Never logs payloads, cursors, users or bodies.
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
