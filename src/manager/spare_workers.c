#include "manager/spare_workers.h"

#include "shared/latch.h"

#include <stdatomic.h>

enum {
    DRAIN_AGAIN_MS = 5,    /* time between two checks while too few workers are idle */
    DRAIN_LASTS_MS = 50,   /* for this long, the worker of a drained poll counts as about to be idle */
    SHORTEST_WAIT_MS = 50, /* a poll is not drained before it has waited this long */
    LONG_WAIT_MS = 500,    /* polls that have waited this long are drained without a limit */
    START_MS = 5000,       /* a worker that has not begun this long after its start is not counted on */
    /* at most this many polls that have waited less than LONG_WAIT_MS are drained in one check: one per ms */
    MOST_SHORT = DRAIN_AGAIN_MS
};

void spare_workers_init(struct spare_workers *spare, struct scoreboard *scoreboard)
{
    *spare = (struct spare_workers){ .scoreboard = scoreboard, .drain_ms = INT64_MAX };
}

int64_t spare_workers_due_ms(const struct spare_workers *spare)
{
    return spare->drain_ms;
}

/*
 * Returns how many workers will soon be idle, because their polls were drained less than DRAIN_LASTS_MS ago.
 */
static int coming(struct spare_workers *spare, int64_t now_ms)
{
    int kept = 0;

    if (now_ms >= spare->drained_ms + DRAIN_LASTS_MS)
        spare->drained_count = 0;
    for (int i = 0; i < spare->drained_count; i++) {
        const struct slot *slot = scoreboard_slot(spare->scoreboard, spare->drained[i].worker);

        if (atomic_load(&slot->state) == SLOT_WAITING &&
            atomic_load(&slot->wait_id) == spare->drained[i].wait_id)
            spare->drained[kept++] = spare->drained[i];
    }
    return spare->drained_count = kept;
}

void spare_workers_expect(struct spare_workers *spare, int64_t now_ms)
{
    spare->starting_until_ms = now_ms + START_MS;
}

void spare_workers_expect_none(struct spare_workers *spare)
{
    spare->starting_until_ms = 0;
}

/*
 * Returns how many workers will soon be idle, because they are being started, or are next; at most most.
 * Workers are started in the order of their numbers, so the search from the end finds these first.
 */
static int starting(const struct spare_workers *spare, int most, int64_t now_ms)
{
    const struct scoreboard *scoreboard = spare->scoreboard;
    int found = 0;

    if (now_ms >= spare->starting_until_ms)
        return 0;
    for (int i = scoreboard->worker_count - 1; i >= 0 && found < most; i--)
        found += atomic_load(&scoreboard_slot(scoreboard, i)->state) == SLOT_EMPTY;
    return found;
}

/*
 * Finds the polls that have waited longest, among those that began at before_ms or earlier and are not being
 * drained. Stores their workers, the longest wait first. Returns how many polls it has found, at most count.
 */
static int find_longest(const struct scoreboard *scoreboard, int64_t before_ms, int *workers, int count)
{
    int64_t since[SCOREBOARD_RESERVE_MAX];
    int found = 0;

    for (int i = 0; i < scoreboard->worker_count; i++) {
        const struct slot *slot = scoreboard_slot(scoreboard, i);
        const int64_t since_ms = atomic_load(&slot->since_ms);
        int at = found;

        if (atomic_load(&slot->state) != SLOT_WAITING || atomic_load(&slot->drain) || since_ms > before_ms ||
            (found == count && since_ms >= since[count - 1]))
            continue;
        if (found < count)
            found++;
        else
            at = count - 1;
        for (; at > 0 && since[at - 1] > since_ms; at--) {
            since[at] = since[at - 1];
            workers[at] = workers[at - 1];
        }
        since[at] = since_ms;
        workers[at] = i;
    }
    return found;
}

static void drain(struct spare_workers *spare, int worker, int64_t now_ms)
{
    struct slot *slot = scoreboard_slot(spare->scoreboard, worker);

    spare->drained[spare->drained_count].worker = worker;
    spare->drained[spare->drained_count++].wait_id = atomic_load(&slot->wait_id);
    spare->drained_ms = now_ms;
    latch_drain(spare->scoreboard, worker, SHORTEST_WAIT_MS);
}

void spare_workers_keep(struct spare_workers *spare, int64_t now_ms)
{
    struct scoreboard *scoreboard = spare->scoreboard;
    int wanted = scoreboard->reserve - scoreboard_idle(scoreboard), found, shorter = 0;
    int workers[SCOREBOARD_RESERVE_MAX];

    if (wanted <= 0)
        spare->drain_ms = INT64_MAX;
    if (wanted <= 0 || (spare->drain_ms != INT64_MAX && now_ms < spare->drain_ms))
        return;
    spare->drain_ms = now_ms + DRAIN_AGAIN_MS;
    wanted -= coming(spare, now_ms);
    wanted -= starting(spare, wanted, now_ms);
    if (wanted <= 0)
        return;
    found = find_longest(scoreboard, now_ms - SHORTEST_WAIT_MS, workers, wanted);
    for (int i = 0; i < found && shorter < MOST_SHORT; i++) {
        const struct slot *slot = scoreboard_slot(scoreboard, workers[i]);

        shorter += atomic_load(&slot->since_ms) > now_ms - LONG_WAIT_MS;
        drain(spare, workers[i], now_ms);
    }
}

void spare_workers_recount(struct scoreboard *scoreboard)
{
    int idle = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        idle += atomic_load(&scoreboard_slot(scoreboard, i)->state) == SLOT_IDLE;
    atomic_store(&scoreboard->workers->idle, idle);
}
