#include "manager/reader_pool.h"

#include "core/clock.h"
#include "core/log.h"
#include "shared/read_channel.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One that dies sooner is followed by the next one only after so long. */
enum { QUICK_DEATH_MS = 1000 };

bool readers_init(struct reader_pool *readers, struct scoreboard *scoreboard)
{
    int ends[2];

    *readers = (struct reader_pool){ .scoreboard = scoreboard, .queue = -1 };
    readers->pids = calloc((size_t)scoreboard->read_permits, sizeof *readers->pids);
    if (!readers->pids || subprocess_find(&readers->subprocess, "pgpoll-reader") != 0 ||
        !read_channel_new_queue(ends))
        return false;
    scoreboard->read_queue = ends[0];
    readers->queue = ends[1];
    return true;
}

void readers_close(struct reader_pool *readers)
{
    if (readers->queue < 0)
        return;
    (void)close(readers->queue);
    (void)close(readers->scoreboard->read_queue);
    readers->queue = -1;
}

void readers_release(struct reader_pool *readers)
{
    readers_close(readers);
    free(readers->pids);
    readers->pids = NULL;
}

/* One is always there: should the manager be killed, the workers' last reads have somebody to go to. */
static int missing(const struct reader_pool *readers)
{
    int wanted = read_permits_taken(readers->scoreboard);

    return (wanted < 1 ? 1 : wanted) - atomic_load(&readers->scoreboard->manager->readers);
}

int64_t readers_due_ms(const struct reader_pool *readers)
{
    return missing(readers) > 0 ? readers->pause_ms : INT64_MAX;
}

void readers_keep(struct reader_pool *readers, const sigset_t *mask)
{
    struct scoreboard *scoreboard = readers->scoreboard;
    int64_t now_ms = clock_monotonic_ms();

    for (int left = missing(readers); left > 0 && now_ms >= readers->pause_ms; left--) {
        pid_t pid =
            subprocess_start(&readers->subprocess, (const int[SUBPROCESS_DESCRIPTORS]){ readers->queue, -1 },
                             SUBPROCESS_WITH_DATABASE, mask);

        readers->started_ms = now_ms;
        if (pid < 0) {
            log_write(LOG_LEVEL_ERROR, "cannot start a reader: %s", strerror(errno));
            readers->pause_ms = now_ms + QUICK_DEATH_MS;
        } else {
            readers->pids[atomic_fetch_add(&scoreboard->manager->readers, 1)] = pid;
        }
    }
}

bool readers_had(struct reader_pool *readers, pid_t pid)
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
