/*
 * The checks of `pgpoll.fcgi --check`: connects, checks the role's rights, the schema, numbering, LISTEN and
 * this host's limits, and prints what is wrong and how to correct it. Publishes nothing and changes no table.
 */
#ifndef PGPOLL_CHECK_H
#define PGPOLL_CHECK_H

#include <stdbool.h>
#include <stdio.h>

struct config;

/* Prints a line for each check to out. Returns whether no problems were found. */
bool check_run(const struct config *config, FILE *out);

#endif
