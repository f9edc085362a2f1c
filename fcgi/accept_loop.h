/*
 * The main loop of a FastCGI process: accepts a request, serves it, and accepts the next one, until a signal
 * ends it. A program's main fills in a struct accept_loop and runs it.
 *
 *   SIGTERM, SIGINT, SIGUSR1   answer the current request at once, then exit with status 0
 *   SIGHUP                     answer the current request at once, then re-exec with the same process id
 *   SIGUSR2                    sent by a worker's manager: wakes a waiting poll
 *
 * Signals are unblocked only while the process sleeps, so no signal is lost between the check of its flag and
 * the sleep.
 */
#ifndef PGPOLL_ACCEPT_LOOP_H
#define PGPOLL_ACCEPT_LOOP_H

#include "core/wait.h"

#include <fcgiapp.h>
#include <stdbool.h>
#include <stdint.h>

struct accept_loop {
    /* Serves one request. interrupts is what may end a wait for this client; borrowed for the call. */
    void (*serve)(struct accept_loop *loop, FCGX_Request *request, const struct interrupts *interrupts);
    /*
     * Called when no request has come for a second, or at a signal, to free what an idle process does not
     * need. NULL: nothing to do.
     */
    void (*rest)(struct accept_loop *loop);
    int64_t peer_timeout_ms; /* for fcgi_io_set_timeout() */
    /*
     * The arguments of main, with which SIGHUP re-execs the program. NULL: SIGHUP is ignored, as in a worker
     * with a manager.
     */
    char **argv;
};

/* Whether descriptor 0 is a listening socket, as spawn-fcgi provides it. Logs an error if not. */
bool accept_loop_has_socket(void);

/* Serves requests from that socket until a signal. Returns the exit status; errors have been logged. */
int accept_loop_run(struct accept_loop *loop);

#endif
