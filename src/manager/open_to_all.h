/*
 * Whether pgpoll.can_poll() is as installed, and so allows everything. While it is, workers need no
 * permission, and the authorizer needs no connection. Part of the relay, which sends the question over its
 * own connection. The relay sets scoreboard, which is borrowed, and zeroes the rest; there is nothing to
 * release.
 */
#ifndef PGPOLL_OPEN_TO_ALL_H
#define PGPOLL_OPEN_TO_ALL_H

#include "postgres/database.h"

#include <stdint.h>

struct scoreboard;

struct open_to_all {
    struct scoreboard *scoreboard;
    uint64_t polls; /* how many polls had begun when it was asked last */
    int64_t asked_ms;
};

/* When to ask again; monotonic ms, INT64_MAX: no poll has begun since it was asked. */
int64_t open_to_all_due_ms(const struct open_to_all *open);

/* Returns the statement that asks, and notes the time. */
const char *open_to_all_ask(struct open_to_all *open, int64_t now_ms);

/* Takes the result of the statement that was sent at asked_ms, and publishes it to the workers. */
void open_to_all_take(const struct open_to_all *open, const PGresult *result, int64_t asked_ms);

/* can_poll() has denied a poll, so it does not allow everything: ends the belief at once. */
void open_to_all_deny(struct scoreboard *scoreboard);

#endif
