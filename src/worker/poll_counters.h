/*
 * Counts a finished poll: its outcome, its messages, how long it waited and how old its first message was.
 * The worker calls it once per poll, after the answer is sent. It only adds to the worker's counters;
 * counters.h describes who empties them.
 */
#ifndef PGPOLL_POLL_COUNTERS_H
#define PGPOLL_POLL_COUNTERS_H

#include "core/error.h"

struct poll_waiter;
struct counters;

/* Counts one poll whose answer is sent. Reads waiter, so call this before poll_waiter_release(). */
void poll_counters_add(struct counters *counters, const struct poll_waiter *waiter, enum error outcome);

#endif
