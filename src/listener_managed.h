/*
 * The listener of a worker that has a manager: it reads the shared window, is woken by a signal, and asks the manager for what
 * only the database knows. What the window does not hold it has a reader read from the table (reading.h); it has no connection
 * of its own.
 */
#ifndef PGPOLL_LISTENER_MANAGED_H
#define PGPOLL_LISTENER_MANAGED_H

#include "listener.h"

struct config;
struct scoreboard;

/* For the worker with this number, in its own process. config and scoreboard are borrowed for its life. NULL: out of memory. */
struct listener *listener_managed_new(const struct config *config, struct scoreboard *scoreboard, int number);

#endif
