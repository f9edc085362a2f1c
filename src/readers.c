#include "readers.h"

#include "clock.h"
#include "log.h"
#include "reading.h"
#include "scoreboard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One that dies sooner is followed by the next one only after so long. */
enum { QUICK_DEATH_MS = 1000 };

bool readers_init(struct readers *readers, struct scoreboard *scoreboard)
{
    int ends[2];

    *readers = (struct readers){ .scoreboard = scoreboard, .queue = -1 };
    readers->pids = calloc((size_t)scoreboard->most_reads, sizeof *readers->pids);
    if (!readers->pids || child_find(&readers->child, "pgpoll-reader") != 0 || !reading_new_queue(ends))
        return false;
    scoreboard->read_queue = ends[0];
    readers->queue = ends[1];
    return true;
}

void readers_close(struct readers *readers)
{
    if (readers->queue < 0)
        return;
    (void)close(readers->queue);
    (void)close(readers->scoreboard->read_queue);
    readers->queue = -1;
}

void readers_release(struct readers *readers)
{
    readers_close(readers);
    free(readers->pids);
    readers->pids = NULL;
}

/* One is always there: should the manager be killed, the workers' last reads have somebody to go to. */
static int missing(const struct readers *readers)
{
    int wanted = scoreboard_reads(readers->scoreboard);

    return (wanted < 1 ? 1 : wanted) - atomic_load(&readers->scoreboard->manager->readers);
}

int64_t readers_due_ms(const struct readers *readers)
{
    return missing(readers) > 0 ? readers->pause_ms : INT64_MAX;
}

void readers_keep(struct readers *readers, const sigset_t *mask)
{
    struct scoreboard *scoreboard = readers->scoreboard;
    int64_t now_ms = clock_monotonic_ms();

    for (int left = missing(readers); left > 0 && now_ms >= readers->pause_ms; left--) {
        pid_t pid = child_start(&readers->child, (const int[CHILD_DESCRIPTORS]){ readers->queue, -1 },
                                CHILD_WITH_DATABASE, mask);

        readers->started_ms = now_ms;
        if (pid < 0) {
            log_write(LOG_LEVEL_ERROR, "cannot start a reader: %s", strerror(errno));
            readers->pause_ms = now_ms + QUICK_DEATH_MS;
        } else {
            readers->pids[atomic_fetch_add(&scoreboard->manager->readers, 1)] = pid;
        }
    }
}

bool readers_had(struct readers *readers, pid_t pid)
{
    struct scoreboard *scoreboard = readers->scoreboard;
    int64_t now_ms = clock_monotonic_ms();

    for (int i = 0; readers->pids && i < atomic_load(&scoreboard->manager->readers); i++)
        if (readers->pids[i] == pid) {
            readers->pids[i] = readers->pids[atomic_fetch_sub(&scoreboard->manager->readers, 1) - 1];
            if (now_ms - readers->started_ms < QUICK_DEATH_MS)
                readers->pause_ms = now_ms + QUICK_DEATH_MS;
            return true;
        }
    return false;
}
