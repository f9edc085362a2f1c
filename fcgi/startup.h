/* What the programs' mains have in common: their options, configuration and log. */
#ifndef PGPOLL_STARTUP_H
#define PGPOLL_STARTUP_H

#include <stdbool.h>
#include <stdio.h>

struct config;

/* A program as its command line and --help know it. */
struct program {
    const char *name;
    const char *purpose;
    const char *spawned; /* spawn-fcgi's options for it, as an example */
    const char *uses;    /* which of the environment variables mean something to it; NULL: all */
    /* Does what --check asks for, in a program that can be a manager and so has --workers; NULL: it has neither. */
    bool (*check)(const struct config *config, FILE *out);
};

/*
 * Handles the command line (--help, --version, --workers, --check), loads the configuration and opens the log.
 * program: borrowed for good. false: the program exits with *status; everything has been said.
 */
bool program_start(const struct program *program, int argc, char **argv, struct config *config, int *status);

/*
 * For a program that the manager starts (child.h): takes the descriptors from the command line, loads the configuration
 * and opens the log, as the manager has done. Exits by itself after --help and --version.
 * false: the program fails; everything has been said.
 */
bool program_continue(const char *name, int argc, char **argv, int count, int *descriptors,
                      struct config *config);

#endif
