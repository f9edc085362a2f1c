/*
 * Whether pgpoll.can_poll() and pgpoll.authenticate() are as installed: the one allows everything, the other
 * authenticates nobody. While they are, workers ask nobody, and the authorizer needs no connection. The
 * manager has one, sets scoreboard, which is borrowed, and zeroes the rest; there is nothing to release. The
 * relay sends the question over its own connection.
 */
#ifndef PGPOLL_OPEN_TO_ALL_H
#define PGPOLL_OPEN_TO_ALL_H

#include "postgres/database.h"

#include <stdbool.h>
#include <stdint.h>

struct question;
struct scoreboard;

struct open_to_all {
    struct scoreboard *scoreboard;
    uint64_t polls; /* how many polls had begun when it was asked last */
    int64_t asked_ms;
    bool wanted;                             /* ask as soon as possible */
    bool is_known, allows_all, knows_nobody; /* the last answer */
};

/* When to ask again; monotonic ms, INT64_MAX: no poll has begun since it was asked. */
int64_t open_to_all_due_ms(const struct open_to_all *open);

/* Returns the statement that asks, and notes the time. */
const char *open_to_all_ask(struct open_to_all *open, int64_t now_ms);

/* Takes the result of the statement that was sent at asked_ms, and publishes it to the workers. */
void open_to_all_take(struct open_to_all *open, const PGresult *result, int64_t asked_ms);

/* can_poll() has denied a poll, so it does not allow everything: ends the belief at once. */
void open_to_all_deny(struct scoreboard *scoreboard);

/*
 * Whether the function that this question is for is as installed, and need not be called: it was, when it was
 * last looked at. If that is too long ago, or never was, the result is OPEN_UNKNOWN, and the relay looks.
 */
enum open_answer { OPEN_UNKNOWN, OPEN_YES, OPEN_NO };
enum open_answer open_to_all_judge(struct open_to_all *open, const struct question *question);

#endif
