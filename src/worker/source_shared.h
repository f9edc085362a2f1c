/*
 * The listener of a worker that has a manager: it reads the shared window, is woken by a signal, and asks the manager for what
 * only the database knows. What the message ring does not hold it has a reader read from the table (reading.h); it has no connection
 * of its own.
 */
#ifndef PGPOLL_SOURCE_SHARED_H
#define PGPOLL_SOURCE_SHARED_H

#include "worker/message_source.h"

struct config;
struct scoreboard;

/* For the worker with this number, in its own process. config and scoreboard are borrowed for its life. NULL: out of memory. */
struct message_source *source_shared_new(const struct config *config, struct scoreboard *scoreboard,
                                         int number);

#endif
