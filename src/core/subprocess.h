/*
 * Starts the helper programs that are installed in the same directory as the running program (pgpoll-worker,
 * pgpoll-reader). Each program file is opened once, when the manager starts, so that all processes of a
 * manager run the same build even if another version is installed later.
 */
#ifndef PGPOLL_SUBPROCESS_H
#define PGPOLL_SUBPROCESS_H

#include <signal.h>
#include <sys/types.h>

enum { SUBPROCESS_DESCRIPTORS = 6 };

/*
 * Whether the program connects to the database. A program that does not connect serves clients, so it gets no
 * environment variable that could hold a password.
 */
enum subprocess_kind {
    SUBPROCESS_WITH_DATABASE,   /* inherits the whole environment */
    SUBPROCESS_WITHOUT_DATABASE /* inherits only the variables that it needs */
};

struct subprocess {
    int program;     /* the open executable */
    char path[4096]; /* the executable's path, shown in process lists */
};

/*
 * Opens the program with this name in the directory of the running program. Returns 0, or -1 with errno set.
 */
int subprocess_find(struct subprocess *subprocess, const char *name);

/*
 * Starts the program in a new process. The process inherits descriptors (a list that ends with -1) under the
 * same numbers, and gets these numbers as its arguments; all other close-on-exec descriptors are closed. mask
 * is the signal mask of the new process. Returns the process id, or -1 with errno set.
 */
pid_t subprocess_start(const struct subprocess *subprocess,
                       const int descriptors[static SUBPROCESS_DESCRIPTORS], enum subprocess_kind kind,
                       const sigset_t *mask);

/*
 * Called by the started program to read count descriptors from its arguments. Returns 0, or -1 if the
 * arguments are not count open descriptors; then subprocess_start() did not start the program.
 */
int subprocess_descriptors(int argc, char **argv, int count, int *descriptors);

#endif
