/*
 * Whether pgpoll.can_poll() is as installed and so allows everything. While that is known, workers do not ask the
 * authorizer, which then needs no connection; the relay asks this over its own. The owner sets scoreboard (borrowed), the
 * rest begins as zero; there is nothing to release.
 */
#ifndef PGPOLL_OPEN_TO_ALL_H
#define PGPOLL_OPEN_TO_ALL_H

#include "postgres/database.h"

#include <stdint.h>

struct scoreboard;

struct open_to_all {
    struct scoreboard *scoreboard;
    uint64_t polls; /* begun when it was asked last */
    int64_t asked_ms;
};

/* When to ask again: monotonic ms, INT64_MAX: not while nobody polls. */
int64_t open_to_all_due_ms(const struct open_to_all *open);

/* The statement that asks; notes that it is asked now. */
const char *open_to_all_ask(struct open_to_all *open, int64_t now_ms);

/* Takes the answer to a statement that was sent at asked_ms, and tells the workers. */
void open_to_all_take(const struct open_to_all *open, const PGresult *result, int64_t asked_ms);

/* can_poll() has denied something, so it does not allow everything any more. */
void open_to_all_deny(struct scoreboard *scoreboard);

#endif
