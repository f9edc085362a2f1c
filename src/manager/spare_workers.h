/*
 * Keeps a few workers idle, so that new requests are accepted at once: if too few are, the polls that have waited
 * longest are answered early, and their clients poll again. The manager's loop drives it.
 */
#ifndef PGPOLL_SPARE_WORKERS_H
#define PGPOLL_SPARE_WORKERS_H

#include <stdint.h>

struct scoreboard;

struct spare_workers {
    struct scoreboard *scoreboard;
    int64_t due_ms; /* when to drain the next polls; INT64_MAX: enough workers are idle */
};

/* scoreboard: borrowed. Needs no release. */
void spare_workers_init(struct spare_workers *spare, struct scoreboard *scoreboard);

/* Drains as many of the longest waiting polls as workers are missing from the reserve. Call it in each turn. */
void spare_workers_keep(struct spare_workers *spare, int64_t now_ms);

/* When spare_workers_keep() has something to do without any event: monotonic ms, INT64_MAX: never. */
int64_t spare_workers_due_ms(const struct spare_workers *spare);

/* Recounts the idle workers. Workers keep the count themselves, but a worker that is killed leaves it wrong. */
void spare_workers_count(struct scoreboard *scoreboard);

#endif
