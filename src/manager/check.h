/*
 * Checks a set-up, from the settings to a notification that really arrives, and says what is wrong and what to do about it.
 * Publishes nothing and leaves the tables as they are. Used by `pgpoll.fcgi --check` only.
 */
#ifndef PGPOLL_CHECK_H
#define PGPOLL_CHECK_H

#include <stdbool.h>
#include <stdio.h>

struct config;

/* Prints a line for everything that was checked. Returns whether no problems were found. */
bool check_run(const struct config *config, FILE *out);

#endif
