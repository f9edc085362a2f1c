/*
 * The life of a FastCGI worker process: accept a request, serve it, again, until a signal says otherwise.
 *
 *   SIGTERM, SIGINT, SIGUSR1   answer what waits, then exit 0
 *   SIGHUP                     answer what waits, then run the program anew from its file, with the same process id
 *   SIGUSR2                    from a worker's manager: wakes a poll that waits for it
 *
 * Signals are let in only where the process sleeps, so none comes between a look at its flag and the sleep.
 */
#ifndef PGPOLL_ACCEPT_LOOP_H
#define PGPOLL_ACCEPT_LOOP_H

#include "core/wait.h"

#include <fcgiapp.h>
#include <stdbool.h>
#include <stdint.h>

struct accept_loop {
    /* Serves one request. interrupts: its client's connection and the signals; borrowed for the call. */
    void (*serve)(struct accept_loop *server, FCGX_Request *request, const struct interrupts *interrupts);
    /* Nothing has come in for a second, or a signal has; NULL: of no interest. */
    void (*rest)(struct accept_loop *server);
    int64_t peer_timeout_ms; /* see peer.h */
    /* main's, to run the program anew on SIGHUP; NULL: SIGHUP means nothing, as to a worker that has a manager. */
    char **argv;
};

/* Whether descriptor 0 is a listening socket, where spawn-fcgi leaves it; if not, that is logged. */
bool accept_loop_has_socket(void);

/* Serves what comes in on that socket. Returns the status to exit with; what went wrong is logged. */
int accept_loop_run(struct accept_loop *server);

#endif
