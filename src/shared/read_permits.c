#include "shared/read_permits.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 * read_permits_left is a semaphore, but not a sem_t: glibc passes one of a sem_t's words to futex(2) as part
 * of the operation, so a broken worker could make the manager wait there.
 */
static void futex(_Atomic int *word, int operation, int value, const struct timespec *until)
{
    (void)syscall(SYS_futex, word, operation, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void add_permits(struct scoreboard *scoreboard, int count)
{
    (void)atomic_fetch_add(&scoreboard->workers->read_permits_left, count);
    if (count > 0)
        futex(&scoreboard->workers->read_permits_left, FUTEX_WAKE, count, NULL);
}

static int bounded(const struct scoreboard *scoreboard, int count, int least)
{
    return count < least ? least : count > scoreboard->read_permits ? scoreboard->read_permits : count;
}

int read_permits_taken(const struct scoreboard *scoreboard)
{
    const int left = bounded(scoreboard, atomic_load(&scoreboard->workers->read_permits_left), 0);

    return scoreboard->read_permits - left;
}

bool read_permits_take(struct scoreboard *scoreboard, int worker, int64_t deadline_ms)
{
    const struct timespec until = { deadline_ms / 1000, deadline_ms % 1000 * 1000000 };
    _Atomic int *left = &scoreboard->workers->read_permits_left;
    struct timespec now;
    int seen = atomic_load(left);

    for (;;) {
        while (seen > 0)
            if (atomic_compare_exchange_weak(left, &seen, seen - 1)) {
                atomic_store(&scoreboard_slot(scoreboard, worker)->has_read_permit, 1);
                return true;
            }
        if (clock_gettime(CLOCK_MONOTONIC, &now) != 0 || now.tv_sec > until.tv_sec ||
            (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec))
            return false;
        /* futex() returns at once if *left no longer equals seen. */
        futex(left, FUTEX_WAIT_BITSET, seen, &until);
        seen = atomic_load(left);
    }
}

void read_permits_return(struct scoreboard *scoreboard, int worker)
{
    if (atomic_exchange(&scoreboard_slot(scoreboard, worker)->has_read_permit, 0))
        add_permits(scoreboard, 1);
}

void read_permits_mend(struct scoreboard *scoreboard)
{
    const int64_t missing_before = scoreboard->missing_permits;
    int64_t missing =
                (int64_t)scoreboard->read_permits - atomic_load(&scoreboard->workers->read_permits_left),
            added = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        missing -= atomic_load(&scoreboard_slot(scoreboard, i)->has_read_permit) != 0;
    if (missing > 0 && missing_before > 0)
        added = missing < missing_before ? missing : missing_before;
    else if (missing < 0 && missing_before < 0)
        added = missing > missing_before ? missing : missing_before;
    /*
     * added exceeds an int only if a broken worker wrote wrong values. Then the next two calls correct the
     * rest.
     */
    added = added > INT_MAX ? INT_MAX : added < -INT_MAX ? -INT_MAX : added;
    if (added)
        add_permits(scoreboard, (int)added);
    scoreboard->missing_permits = missing - added;
}
