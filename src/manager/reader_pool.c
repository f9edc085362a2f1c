#include "manager/reader_pool.h"

#include "core/clock.h"
#include "core/log.h"
#include "manager/children.h"
#include "postgres/server_memory.h"
#include "shared/read_channel.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool reader_pool_init(struct reader_pool *pool, struct scoreboard *scoreboard)
{
    int ends[2];

    *pool = (struct reader_pool){ .scoreboard = scoreboard, .queue = -1, .backoff = BACKOFF_CHILDREN };
    pool->pids = calloc((size_t)scoreboard->read_permits, sizeof *pool->pids);
    if (!pool->pids || subprocess_find(&pool->subprocess, "pgpoll-reader") != 0 ||
        !read_channel_new_queue(ends))
        return false;
    scoreboard->read_queue = ends[0];
    pool->queue = ends[1];
    return true;
}

void reader_pool_close(struct reader_pool *pool)
{
    if (pool->queue < 0)
        return;
    (void)close(pool->queue);
    (void)close(pool->scoreboard->read_queue);
    pool->queue = -1;
}

void reader_pool_release(struct reader_pool *pool)
{
    reader_pool_close(pool);
    free(pool->pids);
    pool->pids = NULL;
}

/*
 * Returns how many readers to start. At least one must run, because if the manager is killed, its workers
 * still need a reader for their last polls.
 */
static int missing(const struct reader_pool *pool)
{
    int wanted = read_permits_taken(pool->scoreboard);

    return (wanted < 1 ? 1 : wanted) - atomic_load(&pool->scoreboard->manager->readers);
}

int64_t reader_pool_due_ms(const struct reader_pool *pool)
{
    return missing(pool) > 0 ? pool->backoff.due_ms : INT64_MAX;
}

void reader_pool_keep(struct reader_pool *pool, const sigset_t *mask)
{
    struct scoreboard *scoreboard = pool->scoreboard;
    int64_t now_ms = clock_monotonic_ms();

    for (int left = missing(pool); left > 0 && now_ms >= pool->backoff.due_ms; left--) {
        pid_t pid = subprocess_start(
            &pool->subprocess,
            (const int[SUBPROCESS_DESCRIPTORS]){ pool->queue, server_memory_descriptor(), -1 },
            SUBPROCESS_WITH_DATABASE, mask);

        pool->started_ms = now_ms;
        if (pid < 0) {
            log_write(LOG_LEVEL_ERROR, "cannot start a reader: %s", strerror(errno));
            backoff_fail(&pool->backoff, now_ms);
        } else {
            pool->pids[atomic_fetch_add(&scoreboard->manager->readers, 1)] = pid;
        }
    }
}

bool reader_pool_forget_process(struct reader_pool *pool, pid_t pid)
{
    struct scoreboard *scoreboard = pool->scoreboard;
    int64_t now_ms = clock_monotonic_ms();

    for (int i = 0; pool->pids && i < atomic_load(&scoreboard->manager->readers); i++)
        if (pool->pids[i] == pid) {
            pool->pids[i] = pool->pids[atomic_fetch_sub(&scoreboard->manager->readers, 1) - 1];
            if (now_ms - pool->started_ms < CHILDREN_QUICK_DEATH_MS)
                backoff_fail(&pool->backoff, now_ms);
            else
                backoff_reset(&pool->backoff);
            return true;
        }
    return false;
}
