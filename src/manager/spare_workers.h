/*
 * Keeps a few workers idle, so that new requests are accepted at once. If too few workers are idle, this
 * module drains the polls that have waited longest: their workers answer without messages, and the clients
 * poll again. With more clients than workers, polls therefore become shorter instead of failing. While
 * workers start, those that have not begun to accept count as idle, because they will be in a moment. Part of
 * the manager, which drives it.
 */
#ifndef PGPOLL_SPARE_WORKERS_H
#define PGPOLL_SPARE_WORKERS_H

#include "shared/scoreboard.h"

#include <stdint.h>

struct spare_workers {
    struct scoreboard *scoreboard;
    /* when to check again whether more polls must be drained; INT64_MAX: enough workers are idle */
    int64_t drain_ms;
    /*
     * The polls that were drained last, whose workers will soon be idle. A poll is identified by its worker
     * and the wait_id in the worker's slot.
     */
    struct {
        int worker;
        uint32_t wait_id;
    } drained[SCOREBOARD_RESERVE_MAX];
    int drained_count;
    int64_t drained_ms; /* when the last of these polls was drained */
    /* until when workers that have not begun to accept count as idle; 0: they do not */
    int64_t starting_until_ms;
};

/* scoreboard is borrowed. There is nothing to release. */
void spare_workers_init(struct spare_workers *spare, struct scoreboard *scoreboard);

/*
 * If fewer workers are idle than the reserve demands, drains one poll for each missing worker, the longest
 * waiting first. Clients that are answered early usually poll again at once, so they and the clients in the
 * web server's queue take turns. Each turn costs work. Therefore at most a thousand polls a second are
 * drained that have waited less than 500 ms, and none that has waited less than 50 ms. Call this function in
 * each turn of the manager's loop.
 */
void spare_workers_keep(struct spare_workers *spare, int64_t now_ms);

/*
 * Call the first function when a worker is started: for as long as a start may take, workers that have not
 * begun to accept then count as idle. Call the second one when a start has failed, or none will follow.
 */
void spare_workers_expect(struct spare_workers *spare, int64_t now_ms);
void spare_workers_expect_none(struct spare_workers *spare);

/*
 * Returns when spare_workers_keep() must be called next (monotonic ms), or INT64_MAX if it need not be called
 * before the manager's latch is set.
 */
int64_t spare_workers_due_ms(const struct spare_workers *spare);

/*
 * Recounts the idle workers. Workers update the count themselves, but a worker that is killed may leave it
 * wrong.
 */
void spare_workers_recount(struct scoreboard *scoreboard);

#endif
