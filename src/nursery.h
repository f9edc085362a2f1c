/*
 * Where workers come from: a process of a program of its own, pgpoll-worker, which knows nothing of PostgreSQL and so is small. It
 * is set up like a worker and forks one whenever the manager wants it, as a child of the manager.
 *
 * The manager's side of it starts the nursery when it is first needed, and another one when it has died.
 */
#ifndef PGPOLL_NURSERY_H
#define PGPOLL_NURSERY_H

#include "child.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

struct scoreboard;

struct nursery {
    struct child child;
    struct scoreboard *scoreboard;
    int socket; /* -1: there is none now */
    pid_t pid;
};

/* Finds the program. scoreboard: borrowed. false: errno says why. */
bool nursery_init(struct nursery *nursery, struct scoreboard *scoreboard);

/* Ends it. The workers live on. */
void nursery_release(struct nursery *nursery);

/* Has the worker with this number made; its process id is in its slot then. mask: its signals. false: errno says why. */
bool nursery_fork(struct nursery *nursery, int number, const sigset_t *mask);

/* Whether this was the nursery's id; it has died and been waited for. */
bool nursery_was(struct nursery *nursery, pid_t pid);

/*
 * The other side, for the program: forks what the manager asks for on this socket, until it ends or closes that. live: a worker's
 * life, in a process of its own, returning its exit status.
 */
void nursery_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int number), void *context);

#endif
