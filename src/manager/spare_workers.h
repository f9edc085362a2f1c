/*
 * Keeps a few workers idle, so that new requests are accepted at once. If too few are idle, it drains the
 * polls that have waited longest: their workers answer without messages, and the clients poll again. So more
 * clients than workers means shorter polls, not errors. Part of the manager, which drives it.
 */
#ifndef PGPOLL_SPARE_WORKERS_H
#define PGPOLL_SPARE_WORKERS_H

#include "shared/scoreboard.h"

#include <stdint.h>

struct spare_workers {
    struct scoreboard *scoreboard;
    int64_t drain_ms; /* when to drain more polls, if still needed; INT64_MAX: enough workers are idle */
    /* Polls that were drained last, whose workers are idle soon: the worker, and its slot's wait_id. */
    struct {
        int worker;
        uint32_t wait_id;
    } drained[SCOREBOARD_RESERVE_MAX];
    int drained_count;
    int64_t drained_ms; /* when the last of them was drained */
};

/* scoreboard is borrowed. There is nothing to release. */
void spare_workers_init(struct spare_workers *spare, struct scoreboard *scoreboard);

/*
 * Drains as many polls as idle workers are missing from the reserve, the longest waiting first. If clients
 * that are answered early come back at once, they and those in the web server's queue take turns. So that
 * this costs little, it drains at most a thousand polls a second that have waited less than 500 ms, and none
 * that has waited less than 50 ms. To be called in each turn of the loop.
 */
void spare_workers_keep(struct spare_workers *spare, int64_t now_ms);

/* When spare_workers_keep() must be called next; monotonic ms, INT64_MAX: only after the latch was set. */
int64_t spare_workers_due_ms(const struct spare_workers *spare);

/* Recounts the idle workers. Workers keep the count themselves, but one that is killed may leave it wrong. */
void spare_workers_count(struct scoreboard *scoreboard);

#endif
