/*
 * Finds out whether pgpoll.can_poll() is the function that was installed, which allows everything. As long as
 * it is, workers need no permission, and the authorizer needs no connection. Part of the relay, which sends
 * the question over its own connection. The relay sets scoreboard, which is borrowed, and zeroes the rest;
 * there is nothing to release.
 */
#ifndef PGPOLL_OPEN_TO_ALL_H
#define PGPOLL_OPEN_TO_ALL_H

#include "postgres/database.h"

#include <stdint.h>

struct scoreboard;

struct open_to_all {
    struct scoreboard *scoreboard;
    uint64_t polls; /* how many polls had begun when the database was last asked */
    int64_t asked_ms;
};

/* Returns when to ask again (monotonic ms), or INT64_MAX if no poll has begun since the last question. */
int64_t open_to_all_due_ms(const struct open_to_all *open);

/* Returns the statement that asks the database, and notes now_ms as the time of the question. */
const char *open_to_all_ask(struct open_to_all *open, int64_t now_ms);

/* Takes the result of the statement that was sent at asked_ms, and tells the workers in the scoreboard. */
void open_to_all_take(const struct open_to_all *open, const PGresult *result, int64_t asked_ms);

/*
 * Notes that can_poll() has denied a poll, so it does not allow everything. From now on workers ask for
 * permission.
 */
void open_to_all_deny(struct scoreboard *scoreboard);

#endif
