/* The start of every program: command line, configuration and log. */
#ifndef PGPOLL_STARTUP_H
#define PGPOLL_STARTUP_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

struct config;

/* Describes a program for its command line and --help. */
struct program {
    const char *name;
    const char *purpose;
    const char *spawned; /* options of spawn-fcgi for the example in --help */
    const char *uses;    /* the settings that the program uses; NULL: all */
    /* Runs --check. NULL: the program cannot be a manager, so it has no options but --help and --version. */
    bool (*check)(const struct config *config, FILE *out);
    bool (*reload)(const struct config *config, pid_t manager); /* runs --reload; set if check is */
};

/*
 * Handles the command line (--help, --version, --workers, --check, --reload), loads the configuration and
 * opens the log. program is borrowed for the life of the process. Returns false if the program must exit with
 * *status, because an option was handled or an error was reported.
 */
bool startup_begin(const struct program *program, int argc, char **argv, struct config *config, int *status);

/*
 * Does what startup_begin() does, for a program that the manager starts (subprocess.h). Reads count
 * descriptors from the command line, loads the configuration and opens the log as the manager has done. Exits
 * after --help and --version. Returns false if the program must exit because of an error, which was reported.
 */
bool startup_continue(const char *name, int argc, char **argv, int count, int *descriptors,
                      struct config *config);

#endif
