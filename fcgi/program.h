/* What the programs' mains have in common: their options, configuration and log. */
#ifndef PGPOLL_PROGRAM_H
#define PGPOLL_PROGRAM_H

#include <stdbool.h>
#include <stdio.h>

struct config;

/* A program as its command line and --help know it. */
struct program {
    const char *name;
    const char *purpose;
    const char *spawned;     /* spawn-fcgi's options for it, as an example */
    const char *arguments;   /* its own there, each after a blank; NULL: none */
    const char *uses;        /* which of the environment variables mean something to it; NULL: all */
    bool can_have_a_manager; /* --workers N */
    bool (*check)(const struct config *config, FILE *out); /* --check; NULL: it has none */
};

/*
 * Handles the command line (--help, --version, --workers, --check), loads the configuration and opens the log. program: borrowed for good.
 * false: the program is to exit with *status, all having been said.
 */
bool program_start(const struct program *program, int argc, char **argv, struct config *config, int *status);

/*
 * For a program that the manager starts (child.h): takes the descriptors from the command line, loads the configuration and opens
 * the log, as the manager has done. false: the program is to fail, all having been said.
 */
bool program_continue(const char *name, int argc, char **argv, int count, int *descriptors, struct config *config);

#endif
