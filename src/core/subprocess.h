/*
 * Starts the helper programs that are installed in the same directory as the running program (pgpoll-worker,
 * pgpoll-reader). Each is opened once, when the manager starts, so that all processes of a manager run the
 * same build even if another version is installed meanwhile.
 */
#ifndef PGPOLL_SUBPROCESS_H
#define PGPOLL_SUBPROCESS_H

#include <signal.h>
#include <sys/types.h>

enum { SUBPROCESS_DESCRIPTORS = 6 };

/*
 * Whether the program connects to the database. A program that does not gets no variable that could hold a
 * password, because clients talk to it.
 */
enum subprocess_kind {
    SUBPROCESS_WITH_DATABASE,   /* inherits the whole environment */
    SUBPROCESS_WITHOUT_DATABASE /* inherits only the variables that it needs */
};

struct subprocess {
    int program;     /* the open executable */
    char path[4096]; /* its path, shown in process lists */
};

/* Opens the program with this name in the directory of the running one. Returns -1 on failure, with errno. */
int subprocess_find(struct subprocess *subprocess, const char *name);

/*
 * Starts the program in a new process. The process inherits descriptors (a list that ends with -1) under the
 * same numbers, and gets these numbers as its arguments; all other close-on-exec descriptors are closed.
 * mask: its signal mask. Returns the process id, or -1: errno says why.
 */
pid_t subprocess_start(const struct subprocess *subprocess,
                       const int descriptors[static SUBPROCESS_DESCRIPTORS], enum subprocess_kind kind,
                       const sigset_t *mask);

/*
 * Called by the started program: reads count descriptors from its arguments. Returns -1 if the arguments are
 * not count open descriptors, because the program was not started by subprocess_start().
 */
int subprocess_descriptors(int argc, char **argv, int count, int *descriptors);

#endif
