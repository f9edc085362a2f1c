#include "manager/inspection.h"

#include "core/log.h"
#include "manager/children.h"
#include "manager/spare_workers.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"

#include <signal.h>

enum {
    PAUSE_MS = 1000,     /* time between the beginnings of two inspections */
    PART_LOOKS = 50000,  /* a part of an inspection ends when it has looked at so many workers and topics */
    BEGIN_MS = 10 * 1000 /* a worker that has not begun this long after its fork is broken */
};

void inspection_init(struct inspection *inspection, struct scoreboard *scoreboard, const int64_t *spawned_ms)
{
    *inspection = (struct inspection){ .scoreboard = scoreboard, .spawned_ms = spawned_ms };
}

void inspection_request(struct inspection *inspection)
{
    inspection->requested = true;
}

int64_t inspection_due_ms(const struct inspection *inspection)
{
    const bool due = inspection->requested || read_permits_taken(inspection->scoreboard) > 0 ||
                     atomic_load(&inspection->scoreboard->workers->polls) != inspection->polls;

    if (inspection->next > 0)
        return 0;
    return due ? inspection->begin_ms : INT64_MAX;
}

void inspection_kill_broken(const struct scoreboard *scoreboard, int worker)
{
    const int pid = scoreboard_pid(scoreboard, worker);

    if (pid <= 0 || children_find_state(pid) == CHILDREN_DEAD)
        return;
    log_write(LOG_LEVEL_ERROR, "worker %d has damaged its shared memory: killed", pid);
    (void)kill(pid, SIGKILL);
}

/* Whether a worker's slot still says, BEGIN_MS after the fork, that the worker has not begun. */
static bool has_not_begun(const struct inspection *inspection, int worker, int64_t now_ms)
{
    return atomic_load(&scoreboard_slot(inspection->scoreboard, worker)->state) == SLOT_EMPTY &&
           now_ms - inspection->spawned_ms[worker] > BEGIN_MS;
}

/*
 * A stopped worker would keep its permit to read as long as it is stopped, and others would wait for it. So
 * would a dead one in an old manager, whose workers are the new manager's children: nobody tells it of their
 * deaths, and their slots are not reset.
 */
static void free_permit(struct scoreboard *scoreboard, int worker)
{
    const pid_t pid = scoreboard_pid(scoreboard, worker);
    enum children_state state;

    if (pid <= 0 || !read_permits_has(scoreboard, worker))
        return;
    state = children_find_state(pid);
    if (state == CHILDREN_RUNS)
        return;
    if (state == CHILDREN_STOPPED)
        log_write(LOG_LEVEL_WARNING,
                  "worker %d is stopped: another one may read the table in its place; continue or kill it",
                  (int)pid);
    read_permits_return(scoreboard, worker);
}

/*
 * Kills broken workers, and frees the permits of those that are stopped or dead. Returns whether it has
 * looked at all workers.
 */
static bool inspect_part(struct inspection *inspection, int64_t now_ms)
{
    struct scoreboard *scoreboard = inspection->scoreboard;

    for (int looks = 0; looks < PART_LOOKS && inspection->next < scoreboard->worker_count; looks++) {
        const int worker = inspection->next++;

        looks += scoreboard_topic_count(scoreboard, scoreboard_slot(scoreboard, worker));
        if (!scoreboard_is_sound(scoreboard, worker) || has_not_begun(inspection, worker, now_ms))
            inspection_kill_broken(scoreboard, worker);
        free_permit(scoreboard, worker);
    }
    return inspection->next == scoreboard->worker_count;
}

void inspection_step(struct inspection *inspection, int64_t now_ms)
{
    if (now_ms < inspection_due_ms(inspection))
        return;
    if (inspection->next == 0) {
        inspection->begin_ms = now_ms + PAUSE_MS;
        inspection->requested = false;
        inspection->polls = atomic_load(&inspection->scoreboard->workers->polls);
    }
    if (!inspect_part(inspection, now_ms))
        return;
    inspection->next = 0;
    spare_workers_recount(inspection->scoreboard);
    if (!read_permits_mend(inspection->scoreboard))
        inspection_request(inspection);
}
