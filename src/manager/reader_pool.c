#include "manager/reader_pool.h"

#include "core/clock.h"
#include "core/log.h"
#include "manager/children.h"
#include "postgres/server_memory.h"
#include "shared/read_channel.h"
#include "shared/read_permits.h"
#include "shared/reader_state.h"
#include "shared/scoreboard.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BEGIN_MS = 10 * 1000, /* a reader that waits for no question this long after its start hangs */
    CHECK_MS = 500,       /* time between two looks for readers that hang, while workers read */
    LATE_MS = 3000,       /* a reader that is late by more hangs */
    RELOAD_MS = 10 * 1000 /* time between the start and the first reload, and between two reloads */
};

bool reader_pool_init(struct reader_pool *pool, struct scoreboard *scoreboard)
{
    int ends[2];

    *pool = (struct reader_pool){ .scoreboard = scoreboard,
                                  .queue = -1,
                                  .backoff = BACKOFF_CHILDREN,
                                  .created_ms = clock_monotonic_ms(),
                                  .reload_ms = INT64_MAX };
    pool->readers = calloc((size_t)scoreboard->read_permits, sizeof *pool->readers);
    if (!pool->readers || subprocess_find(&pool->subprocess, "pgpoll-reader") != 0 ||
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
    for (int i = 0; pool->readers && i < pool->scoreboard->read_permits; i++)
        reader_state_free(pool->readers[i].state);
    free(pool->readers);
    pool->readers = NULL;
}

static bool is_shut_down(const struct reader_pool *pool)
{
    return pool->reload_ms != INT64_MAX;
}

/*
 * Returns how many readers to start: none if they would end at once. At least one must run, because if the
 * manager is killed, its workers still need a reader for their last polls.
 */
static int missing(const struct reader_pool *pool)
{
    int wanted = read_permits_taken(pool->scoreboard);

    if (is_shut_down(pool))
        return 0;
    return (wanted < 1 ? 1 : wanted) - atomic_load(&pool->scoreboard->manager->readers);
}

int64_t reader_pool_due_ms(const struct reader_pool *pool)
{
    return clock_min(clock_min(missing(pool) > 0 ? pool->backoff.due_ms : INT64_MAX,
                               read_permits_taken(pool->scoreboard) > 0 ? pool->check_ms : INT64_MAX),
                     pool->reload_ms);
}

static void start(struct reader_pool *pool, const sigset_t *mask, int64_t now_ms)
{
    int fd = -1;
    struct reader_state *state = reader_state_new(&fd);
    pid_t pid = -1;

    pool->started_ms = now_ms;
    if (state) {
        atomic_store(&state->due_ms, now_ms + BEGIN_MS);
        pid = subprocess_start(
            &pool->subprocess,
            (const int[SUBPROCESS_DESCRIPTORS]){ pool->queue, server_memory_descriptor(), fd, -1 },
            SUBPROCESS_WITH_DATABASE, mask);
    }
    if (pid < 0) {
        log_write(LOG_LEVEL_ERROR, "cannot start a reader: %s", strerror(errno));
        backoff_fail(&pool->backoff, now_ms);
        reader_state_free(state);
    } else {
        const int i = atomic_fetch_add(&pool->scoreboard->manager->readers, 1);

        pool->readers[i] = (struct pool_reader){ pid, state };
    }
    if (fd >= 0)
        (void)close(fd);
}

/* Returns how many questions the readers have taken. The number also changes when one of them has ended. */
static uint64_t count_taken(const struct reader_pool *pool)
{
    uint64_t taken = 0;

    for (int i = 0; i < atomic_load(&pool->scoreboard->manager->readers); i++)
        taken += atomic_load(&pool->readers[i].state->taken);
    return taken;
}

/*
 * Whether no reader has taken a question for LATE_MS although there was one. Many looks must have found that,
 * because the manager itself may have slept. That there is a question at each look means nothing: it may be
 * another one each time.
 */
static bool is_queue_stuck(struct reader_pool *pool)
{
    struct pollfd queue = { .fd = pool->queue, .events = POLLIN };
    const bool waits = poll(&queue, 1, 0) > 0 && (queue.revents & POLLIN);
    const uint64_t taken = count_taken(pool);

    pool->unread_checks = waits && taken == pool->taken ? pool->unread_checks + 1 : 0;
    pool->taken = taken;
    return pool->unread_checks > LATE_MS / CHECK_MS;
}

/*
 * Kills readers that have not finished in time, and those that wait for a question and do not take the one
 * that is there.
 */
static void kill_hanging(struct reader_pool *pool, int64_t now_ms)
{
    const bool stuck = is_queue_stuck(pool);

    for (int i = 0; i < atomic_load(&pool->scoreboard->manager->readers); i++) {
        const struct pool_reader *reader = &pool->readers[i];
        const int64_t due_ms = atomic_load(&reader->state->due_ms);

        if (due_ms ? now_ms - due_ms <= LATE_MS : !stuck)
            continue;
        log_write(LOG_LEVEL_WARNING, "reader %d does not answer: killed, starting another one",
                  (int)reader->pid);
        (void)kill(reader->pid, SIGKILL);
        atomic_store(&reader->state->due_ms, now_ms); /* time to die, before it is killed again */
    }
    if (stuck)
        pool->unread_checks = 0; /* time for another reader to take the question */
    pool->check_ms = now_ms + CHECK_MS;
}

void reader_pool_keep(struct reader_pool *pool, const sigset_t *mask)
{
    const int64_t now_ms = clock_monotonic_ms();

    if (now_ms >= pool->check_ms)
        kill_hanging(pool, now_ms);
    if (missing(pool) > 0 && now_ms >= pool->backoff.due_ms)
        start(pool, mask, now_ms);
}

bool reader_pool_wants_reload(struct reader_pool *pool)
{
    const int64_t now_ms = clock_monotonic_ms();

    if (now_ms < pool->reload_ms)
        return false;
    pool->reload_ms = now_ms + RELOAD_MS; /* if the reload fails */
    return true;
}

/* Notes whether the queue is closed, although this process has both of its ends open. */
static void check_queue(struct reader_pool *pool, int64_t now_ms)
{
    if (pool->queue < 0 || is_shut_down(pool) || !read_channel_is_closed(pool->queue))
        return;
    log_write(LOG_LEVEL_ERROR,
              "a worker has shut down the queue to the readers: reloading, to give new workers another one");
    pool->reload_ms = clock_max(now_ms, pool->created_ms + RELOAD_MS);
}

bool reader_pool_forget_process(struct reader_pool *pool, pid_t pid)
{
    struct scoreboard *scoreboard = pool->scoreboard;
    int64_t now_ms = clock_monotonic_ms();

    for (int i = 0; pool->readers && i < atomic_load(&scoreboard->manager->readers); i++)
        if (pool->readers[i].pid == pid) {
            const int last = atomic_fetch_sub(&scoreboard->manager->readers, 1) - 1;

            reader_state_free(pool->readers[i].state);
            pool->readers[i] = pool->readers[last];
            pool->readers[last] = (struct pool_reader){ 0 };
            check_queue(pool, now_ms);
            if (now_ms - pool->started_ms < CHILDREN_QUICK_DEATH_MS)
                backoff_fail(&pool->backoff, now_ms);
            else
                backoff_reset(&pool->backoff);
            return true;
        }
    return false;
}
