/*
 * Waits for a descriptor or a deadline, and in a worker also for a disconnect of the client or a signal.
 * Deadlines are monotonic milliseconds.
 */
#ifndef PGPOLL_WAIT_H
#define PGPOLL_WAIT_H

#include "core/error.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* What can end a wait early. The accept loop owns it; the worker borrows it for one request. */
struct interrupts {
    int client_fd; /* the FastCGI connection, from which the whole request was read; -1: none */
    const volatile sig_atomic_t *drain; /* nonzero: answer now; set by a signal handler */
    /* Nonzero: the manager has news for this worker. A signal handler sets it; wait_for_event() clears it. */
    volatile sig_atomic_t *woken;
    /*
     * The signal mask during the sleep. It unblocks the signals that set the flags; otherwise they are
     * blocked.
     */
    const sigset_t *sleep_mask;
};

/*
 * Sleeps until fd (-1: none) has one of the events (as for poll(2)) or an error, and then returns true.
 * Returns false if deadline_ms comes first. Signals do not end the sleep. Checks fd once even if the deadline
 * has passed.
 */
bool wait_for_fd(int fd, short events, int64_t deadline_ms);

/*
 * For a worker that serves a request. Sleeps until fd (-1: none) has one of the events or until woken is set,
 * and then returns ERROR_NONE. Returns ERROR_TIMEOUT if deadline_ms comes first, ERROR_CLIENT_GONE if the
 * client has left, or ERROR_DRAINED if drain is set. Checks everything once even if the deadline has passed.
 */
enum error wait_for_event(const struct interrupts *interrupts, int fd, short events, int64_t deadline_ms);

#endif
