/*
 * Looks at the set-up, from the environment to a notification that really arrives, and says in plain words what is wrong with it and
 * what to do. Writes nothing to the database. Used by `pgpoll.fcgi --check` only.
 */
#ifndef PGPOLL_CHECK_H
#define PGPOLL_CHECK_H

#include <stdbool.h>
#include <stdio.h>

struct config;

/* Says a line for everything it looked at. Returns whether nothing was wrong. */
bool check_run(const struct config *config, FILE *out);

#endif
