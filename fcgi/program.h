/* What the programs' mains have in common: their options, configuration and log. */
#ifndef PGPOLL_PROGRAM_H
#define PGPOLL_PROGRAM_H

#include <stdbool.h>

struct config;

/*
 * Handles the command line (--help, --version), loads the configuration and opens the log. name: borrowed for good.
 * false: the program is to exit with *status, all having been said.
 */
bool program_start(const char *name, const char *purpose, int argc, char **argv, struct config *config, int *status);

#endif
