/*
 * The checks of `pgpoll.fcgi --check`. They connect to the database, check the role's rights, the schema,
 * numbering, LISTEN and this host's limits, and print what is wrong and how to correct it. They publish
 * nothing and change no table.
 */
#ifndef PGPOLL_CHECK_H
#define PGPOLL_CHECK_H

#include <stdbool.h>
#include <stdio.h>

struct config;

/* Runs all checks and prints the results to out. Returns whether no problems were found. */
bool check_run(const struct config *config, FILE *out);

#endif
