/*
 * Whether pgpoll.can_poll() and pgpoll.authenticate() are the functions that were installed: that can_poll()
 * allows everything, and that authenticate() authenticates nobody. As long as they are, workers ask nobody,
 * and the authorizer needs no connection. The manager has one struct open_to_all, sets its scoreboard, which
 * is borrowed, and zeroes the rest; there is nothing to release. The relay sends the question about the
 * functions to the database, over its own connection.
 */
#ifndef PGPOLL_OPEN_TO_ALL_H
#define PGPOLL_OPEN_TO_ALL_H

#include "postgres/database.h"

#include <stdbool.h>
#include <stdint.h>

struct question;
struct scoreboard;
struct statement;

struct open_to_all {
    struct scoreboard *scoreboard;
    uint64_t polls; /* how many polls had begun when the database was last asked */
    int64_t asked_ms;
    bool wanted;                             /* ask the database as soon as possible */
    bool is_known, allows_all, knows_nobody; /* the database's last answer, if is_known */
};

/* Returns when to ask again (monotonic ms), or INT64_MAX if no poll has begun since the last question. */
int64_t open_to_all_due_ms(const struct open_to_all *open);

/* Initialises the statement that asks the database, and notes now_ms as the time of the question. */
void open_to_all_ask(struct open_to_all *open, struct statement *statement, int64_t now_ms);

/*
 * Takes the result of the statement that was sent at asked_ms, and publishes it to the workers in the
 * scoreboard.
 */
void open_to_all_take(struct open_to_all *open, const PGresult *result, int64_t asked_ms);

/*
 * Notes that can_poll() has denied a poll, so it is not as installed. From now on workers ask for permission.
 */
void open_to_all_deny(struct scoreboard *scoreboard);

/*
 * Says whether the function that this question is for must be called. OPEN_YES: it is as installed and need
 * not be called. OPEN_NO: it was not as installed when the database was last asked, so it must be called.
 * OPEN_UNKNOWN: the database has not been asked, or too long ago for OPEN_YES; the relay asks it soon.
 */
enum open_answer { OPEN_UNKNOWN, OPEN_YES, OPEN_NO };
enum open_answer open_to_all_judge(struct open_to_all *open, const struct question *question);

#endif
