/*
 * Programs that the manager starts from where its own stands. Each is opened once, so that it is of the same build as the manager
 * for as long as that runs, whatever is installed in its place meanwhile.
 */
#ifndef PGPOLL_SUBPROCESS_H
#define PGPOLL_SUBPROCESS_H

#include <signal.h>
#include <sys/types.h>

enum { SUBPROCESS_DESCRIPTORS = 6 };

/* Whether the program connects to the database. */
enum subprocess_kind {
    SUBPROCESS_WITH_DATABASE,   /* gets our whole environment */
    SUBPROCESS_WITHOUT_DATABASE /* gets only the variables that it needs, so no password: clients talk to it */
};

struct subprocess {
    int program;     /* a descriptor */
    char path[4096]; /* its name in process lists */
};

/* Finds the program with this name beside our own. -1: errno says why. */
int subprocess_find(struct subprocess *subprocess, const char *name);

/*
 * Starts it in a new process, with these descriptors under the same numbers, which are its arguments too, ended by -1; others are
 * closed if they are to be closed by exec(). mask: its signals. Returns the process id; -1: errno says why.
 */
pid_t subprocess_start(const struct subprocess *subprocess,
                       const int descriptors[static SUBPROCESS_DESCRIPTORS], enum subprocess_kind kind,
                       const sigset_t *mask);

/* For the program started: its descriptors. -1: the arguments are no such numbers, nobody started it so. */
int subprocess_descriptors(int argc, char **argv, int count, int *descriptors);

#endif
