/*
 * The process that forks the workers, and the manager's side of it. The process runs the program
 * pgpoll-worker, which is small because it does not link libpq. It initializes itself like a worker, and
 * forks a worker, as a child of the manager, whenever the manager asks for one.
 *
 * The manager's side starts the process when it is first needed, and again after it has died. It never
 * blocks: it sends requests and reads results when they arrive. It kills a fork server that does not answer
 * in time. Part of the manager, which creates, drives and releases it.
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
    int socket;  /* to the process; -1: none can be asked now */
    pid_t pid;   /* 0: no process runs */
    char *asked; /* by worker: enum fork_server_asked */
    int asked_count;
    int64_t deadline_ms; /* of the next result; INT64_MAX: none is outstanding, or the process was killed */
    bool is_lost;        /* the process died: outstanding requests get no answer from it */
};

/*
 * Finds the program. scoreboard is borrowed. false: errno says why; call fork_server_release() all the same.
 */
bool fork_server_init(struct fork_server *fork_server, struct scoreboard *scoreboard);

/* Closes the socket, whereupon the process ends. The workers live on. */
void fork_server_release(struct fork_server *fork_server);

/* Kills the process; no worker is needed any more. fork_server_forget_process() still knows its id. */
void fork_server_kill(struct fork_server *fork_server);

/*
 * Kills the process and waits for its death. After that no worker is forked any more, and the process ids of
 * all workers are in the scoreboard: a reload needs that.
 */
void fork_server_end(struct fork_server *fork_server);

/* Whether fork_server_ask() may be called now. */
bool fork_server_is_ready(const struct fork_server *fork_server);

/*
 * Asks the fork server to fork this worker; fork_server_take() returns the result. Starts the fork server
 * first if none runs, with the signal mask mask. false: errno says why.
 */
bool fork_server_ask(struct fork_server *fork_server, int worker, const sigset_t *mask);

/* Whether this worker was asked for and the result is outstanding. */
bool fork_server_was_asked(const struct fork_server *fork_server, int worker);

/*
 * What to wait for before the next fork_server_take(): a descriptor as for poll(2), and a time (monotonic
 * ms).
 */
struct pollfd fork_server_pollfd(const struct fork_server *fork_server);
int64_t fork_server_due_ms(const struct fork_server *fork_server);

/*
 * Takes the next result: the worker, and 0 or the errno of the failed fork. scoreboard_pid() has the process
 * id of a forked worker until fork_server_forget_worker(). false: there is no result now. Kills the process
 * if a result is overdue.
 */
bool fork_server_take(struct fork_server *fork_server, int *worker, int *error);

/* Notes that this worker has died and was waited for. */
void fork_server_forget_worker(struct fork_server *fork_server, int worker);

/* Notes the death of a child that was waited for. Returns whether it was the fork server. */
bool fork_server_forget_process(struct fork_server *fork_server, pid_t pid);

/*
 * For the program pgpoll-worker: forks the workers that the manager asks for on this socket, until the
 * manager closes it or ends. live runs in each forked process and returns the worker's exit status.
 */
void fork_server_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int worker),
                     void *context);

#endif
