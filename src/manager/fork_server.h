/*
 * The fork server, a process that forks the workers, and the manager's interface to it. The fork server runs
 * the program pgpoll-worker, which is small because it does not link libpq. It initializes itself like a
 * worker. Whenever the manager asks for a worker, the fork server forks one, as a child of the manager.
 *
 * This interface starts the fork server when it is first needed, and again after it has died. Its functions
 * send requests, and read results that have arrived. They do not block. If the fork server does not answer in
 * time, they kill it. Part of the manager, which creates, drives and releases it.
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
    int socket;  /* connected to the fork server; -1: no fork server can be asked now */
    pid_t pid;   /* the fork server's process id; 0: none runs */
    char *asked; /* by worker: an enum fork_server_asked */
    int asked_count;
    /* when the next result is overdue; INT64_MAX: no request is outstanding, or the fork server was killed */
    int64_t deadline_ms;
    bool is_lost; /* the fork server has died, so it will not answer the outstanding requests */
};

/*
 * Finds the program pgpoll-worker. scoreboard is borrowed. Returns false if this fails (errno says why); call
 * fork_server_release() even then.
 */
bool fork_server_init(struct fork_server *fork_server, struct scoreboard *scoreboard);

/* Closes the socket, which makes the fork server exit. The workers live on. */
void fork_server_release(struct fork_server *fork_server);

/*
 * Kills the fork server, if it runs. Its death is reported to fork_server_forget_process(), and until then no
 * other fork server is started and fork_server_take() returns no result.
 */
void fork_server_kill(struct fork_server *fork_server);

/*
 * Whether no fork server runs. Then no worker is being forked, and the scoreboard has the process ids of all
 * workers. A reload needs both.
 */
bool fork_server_has_ended(const struct fork_server *fork_server);

/* Whether fork_server_ask() may be called now. */
bool fork_server_is_ready(const struct fork_server *fork_server);

/*
 * Asks the fork server to fork this worker; fork_server_take() returns the result. If no fork server runs,
 * starts one first, with the signal mask mask. Returns false if it cannot be asked; errno says why.
 */
bool fork_server_ask(struct fork_server *fork_server, int worker, const sigset_t *mask);

/*
 * Whether the fork server was asked for this worker and fork_server_take() has not returned the result yet.
 */
bool fork_server_was_asked(const struct fork_server *fork_server, int worker);

/* fork_server_take() is next due when poll(2) reports this descriptor, or at this time (monotonic ms). */
struct pollfd fork_server_pollfd(const struct fork_server *fork_server);
int64_t fork_server_due_ms(const struct fork_server *fork_server);

/*
 * Takes the next result. worker: the worker that was asked for; error: 0, or the errno of the failed fork.
 * Returns false if there is no result now. scoreboard_pid() has the process id of a forked worker until
 * slot_reset(). If a result is overdue, this function kills the fork server.
 */
bool fork_server_take(struct fork_server *fork_server, int *worker, int *error);

/* Notes that this worker has died and that waitpid(2) has reported it. */
void fork_server_forget_worker(struct fork_server *fork_server, int worker);

/*
 * Tells this module that waitpid(2) has reported the death of a child. Returns whether the child was the fork
 * server.
 */
bool fork_server_forget_process(struct fork_server *fork_server, pid_t pid);

/*
 * For the program pgpoll-worker: forks the workers that the manager asks for on this socket, until the
 * manager closes it or dies. live runs in each forked process and returns the worker's exit status.
 */
void fork_server_run(struct scoreboard *scoreboard, int socket, int (*live)(void *context, int worker),
                     void *context);

#endif
