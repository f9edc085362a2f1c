#include "manager/spare_workers.h"

#include "shared/latch.h"
#include "shared/scoreboard.h"

#include <stdatomic.h>

enum { DRAIN_AGAIN_MS = 20 }; /* workers whose polls were drained are idle after this time, or soon will be */

void spare_workers_init(struct spare_workers *spare, struct scoreboard *scoreboard)
{
    *spare = (struct spare_workers){ .scoreboard = scoreboard, .drain_ms = INT64_MAX };
}

int64_t spare_workers_due_ms(const struct spare_workers *spare)
{
    return spare->drain_ms;
}

/* The worker whose poll has waited longest and was not drained yet; -1: none has waited long enough. */
static int longest_waiting(const struct scoreboard *scoreboard, int64_t now_ms)
{
    int longest = -1;
    int64_t since_ms = now_ms - SCOREBOARD_SHORTEST_WAIT_MS;

    for (int i = 0; i < scoreboard->worker_count; i++) {
        const struct slot *slot = scoreboard_slot(scoreboard, i);

        if (atomic_load(&slot->state) == SLOT_WAITING && !atomic_load(&slot->drain) &&
            atomic_load(&slot->since_ms) <= since_ms) {
            longest = i;
            since_ms = atomic_load(&slot->since_ms);
        }
    }
    return longest;
}

void spare_workers_keep(struct spare_workers *spare, int64_t now_ms)
{
    struct scoreboard *scoreboard = spare->scoreboard;
    int wanted = scoreboard->reserve - scoreboard_idle(scoreboard), worker;

    if (wanted <= 0)
        spare->drain_ms = INT64_MAX;
    if (wanted <= 0 || (spare->drain_ms != INT64_MAX && now_ms < spare->drain_ms))
        return;
    spare->drain_ms = now_ms + DRAIN_AGAIN_MS;
    while (wanted-- > 0 && (worker = longest_waiting(scoreboard, now_ms)) >= 0)
        latch_drain(scoreboard, worker);
}

void spare_workers_count(struct scoreboard *scoreboard)
{
    int idle = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        idle += atomic_load(&scoreboard_slot(scoreboard, i)->state) == SLOT_IDLE;
    atomic_store(&scoreboard->workers->idle, idle);
}
