/*
 * What may end a worker's sleep before the thing it waits for: its client leaves, or the process is told to answer.
 * The one place where a worker sleeps with a client on the line. Borrowed from the program for one request.
 */
#ifndef PGPOLL_WAIT_H
#define PGPOLL_WAIT_H

#include "core/error.h"

#include <signal.h>
#include <stdint.h>

struct interrupts {
    int client_fd;                        /* the FastCGI connection, its request read to the end; -1: none */
    const volatile sig_atomic_t *release; /* not zero: answer now; set by a signal handler */
    volatile sig_atomic_t
        *woken; /* not zero: our manager has something for us; set by a signal handler, cleared here */
    const sigset_t *sleep_mask; /* lets in the signals that set them; blocked at all other times */
};

/*
 * Sleeps until fd (-1: none) is ready for events as of poll(2), or woken is set. ERROR_NONE: so it is; otherwise ERROR_TIMEOUT
 * (deadline_ms of the monotonic clock has come), ERROR_CLIENT_GONE or ERROR_RELEASED. A passed deadline still looks once.
 */
enum error wait_for_event(const struct interrupts *interrupts, int fd, short events, int64_t deadline_ms);

#endif
