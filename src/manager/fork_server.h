/*
 * The process that forks the workers. It runs a program of its own, pgpoll-worker, which knows nothing of
 * PostgreSQL and so is small. It is set up like a worker and forks one whenever the manager asks for it, as a child
 * of the manager.
 *
 * The manager's side starts the fork server when it is first needed, and another one when it has died. It never waits
 * for an answer: it asks, and takes the outcome when there is one. It kills a fork server that does not answer in time.
 */
#ifndef PGPOLL_FORK_SERVER_H
#define PGPOLL_FORK_SERVER_H

#include "core/subprocess.h"

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct scoreboard;

struct fork_server {
    struct subprocess subprocess;
    struct scoreboard *scoreboard;
    int socket;  /* -1: no fork server can be asked now */
    pid_t pid;   /* 0: no fork server runs */
    char *asked; /* by worker: enum nursery_asked */
    int asked_count;
    int64_t due_ms; /* the next answer is due then; INT64_MAX: no answer is outstanding */
    bool is_lost;   /* it has died: what is still asked for gets no answer */
};

/* Finds the program. scoreboard: borrowed. false: errno says why. */
bool fork_server_init(struct fork_server *fork_server, struct scoreboard *scoreboard);

/* Lets it end. The workers live on. */
void fork_server_release(struct fork_server *fork_server);

/* No worker is asked for any more: kills it, which nursery_was() still tells. */
void fork_server_kill(struct fork_server *fork_server);

/*
 * Before a reload: kills it and waits for its death, so that no worker is forked whose process id is not in its slot
 * by then.
 */
void fork_server_end(struct fork_server *fork_server);

/* Whether another worker may be asked for now. */
bool fork_server_is_ready(const struct fork_server *fork_server);

/* Asks for this worker; nursery_take() tells the outcome. mask: its signals. false: errno says why. */
bool fork_server_ask(struct fork_server *fork_server, int number, const sigset_t *mask);

/* Whether the outcome for this worker is not yet known. */
bool fork_server_was_asked(const struct fork_server *fork_server, int number);

/* What to wait for, as of poll(2), and until when (monotonic ms), before the next nursery_take(). */
struct pollfd fork_server_pollfd(const struct fork_server *fork_server);
int64_t fork_server_due_ms(const struct fork_server *fork_server);

/*
 * The next outcome: of which worker, and 0 or why it could not be forked (as errno). The process id of a forked
 * worker is in its slot until it has died. false: no outcome now. Kills the fork server when an answer is overdue.
 */
bool fork_server_take(struct fork_server *fork_server, int *number, int *error);

/* The worker with this number has died and was waited for. */
void fork_server_forget_worker(struct fork_server *fork_server, int number);

/* Whether this was the fork server's id; it has died and was waited for. */
bool fork_server_was(struct fork_server *fork_server, pid_t pid);

/*
 * The other side, for the program: forks what the manager asks for on this socket, until it ends or closes that. live: a worker's
 * life, in a process of its own, returning its exit status.
 */
void fork_server_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int number),
                     void *context);

#endif
