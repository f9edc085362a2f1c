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
    /*
     * Serves one request. interrupts says what may end a wait for this client early; borrowed for the call.
     */
    void (*serve)(struct accept_loop *loop, FCGX_Request *request, const struct interrupts *interrupts);
    /*
     * Does what can be left to do until the process is idle. Called when no request has come for a second, or
     * at a signal. NULL: there is nothing to do.
     */
    void (*rest)(struct accept_loop *loop);
    int64_t peer_timeout_ms; /* for fcgi_io_set_timeout() */
    /*
     * The arguments of main, with which the program is re-executed after SIGHUP. NULL: SIGHUP is ignored, as
     * in a worker that has a manager.
     */
    char **argv;
};

/*
 * Returns whether descriptor 0 is a listening socket, which spawn-fcgi provides. Logs an error if it is not.
 */
bool accept_loop_has_socket(void);

/* Serves requests from descriptor 0 until a signal. Returns the exit status; errors have been logged. */
int accept_loop_run(struct accept_loop *loop);

#endif
