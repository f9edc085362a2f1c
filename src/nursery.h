/*
 * The process that forks the workers. It runs a program of its own, pgpoll-worker, which knows nothing of
 * PostgreSQL and so is small. It is set up like a worker and forks one whenever the manager asks for it, as a child
 * of the manager.
 *
 * The manager's side starts the nursery when it is first needed, and another one when it has died. It never waits
 * for an answer: it asks, and takes the outcome when there is one. It kills a nursery that does not answer in time.
 */
#ifndef PGPOLL_NURSERY_H
#define PGPOLL_NURSERY_H

#include "child.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct scoreboard;

struct nursery {
    struct child child;
    struct scoreboard *scoreboard;
    int socket;  /* -1: no nursery can be asked now */
    pid_t pid;   /* 0: no nursery runs */
    char *asked; /* by worker: enum nursery_asked */
    int asked_count;
    int64_t due_ms; /* the next answer is due then; INT64_MAX: no answer is outstanding */
    bool is_lost;   /* it has died: what is still asked for gets no answer */
};

/* Finds the program. scoreboard: borrowed. false: errno says why. */
bool nursery_init(struct nursery *nursery, struct scoreboard *scoreboard);

/* Lets it end. The workers live on. */
void nursery_release(struct nursery *nursery);

/* No worker is asked for any more: kills it, which nursery_was() still tells. */
void nursery_kill(struct nursery *nursery);

/*
 * Before a reload: kills it and waits for its death, so that no worker is forked whose process id is not in its slot
 * by then.
 */
void nursery_end(struct nursery *nursery);

/* Whether another worker may be asked for now. */
bool nursery_is_ready(const struct nursery *nursery);

/* Asks for this worker; nursery_take() tells the outcome. mask: its signals. false: errno says why. */
bool nursery_ask(struct nursery *nursery, int number, const sigset_t *mask);

/* Whether the outcome for this worker is not yet known. */
bool nursery_was_asked(const struct nursery *nursery, int number);

/* What to wait for, as of poll(2), and until when (monotonic ms), before the next nursery_take(). */
struct pollfd nursery_pollfd(const struct nursery *nursery);
int64_t nursery_due_ms(const struct nursery *nursery);

/*
 * The next outcome: of which worker, and 0 or why it could not be forked (as errno). The process id of a forked
 * worker is in its slot until it has died. false: no outcome now. Kills the nursery when an answer is overdue.
 */
bool nursery_take(struct nursery *nursery, int *number, int *error);

/* The worker with this number has died and was waited for. */
void nursery_forget_worker(struct nursery *nursery, int number);

/* Whether this was the nursery's id; it has died and was waited for. */
bool nursery_was(struct nursery *nursery, pid_t pid);

/*
 * The other side, for the program: forks what the manager asks for on this socket, until it ends or closes that. live: a worker's
 * life, in a process of its own, returning its exit status.
 */
void nursery_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int number), void *context);

#endif
