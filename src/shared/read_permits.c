#include "shared/read_permits.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 * reads_left counts like a semaphore. It is no sem_t: glibc makes one of a sem_t's words a part of the operation that it asks
 * futex(2) for, so a broken worker could have the manager wait there.
 */
static void futex(_Atomic int *word, int operation, int value, const struct timespec *until)
{
    (void)syscall(SYS_futex, word, operation, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

static void give_reads(struct scoreboard *scoreboard, int count)
{
    (void)atomic_fetch_add(&scoreboard->workers->reads_left, count);
    if (count > 0)
        futex(&scoreboard->workers->reads_left, FUTEX_WAKE, count, NULL);
}

/* How many are taken: as many as may be, at most. */
static int bounded(const struct scoreboard *scoreboard, int count, int least)
{
    return count < least ? least : count > scoreboard->most_reads ? scoreboard->most_reads : count;
}

int read_permits_taken(const struct scoreboard *scoreboard)
{
    const int left = bounded(scoreboard, atomic_load(&scoreboard->workers->reads_left), 0);

    return scoreboard->most_reads - left;
}

bool read_permits_take(struct scoreboard *scoreboard, int number, int64_t give_up_ms)
{
    const struct timespec until = { give_up_ms / 1000, give_up_ms % 1000 * 1000000 };
    _Atomic int *left = &scoreboard->workers->reads_left;
    struct timespec now;
    int seen = atomic_load(left);

    for (;;) {
        while (seen > 0)
            if (atomic_compare_exchange_weak(left, &seen, seen - 1)) {
                atomic_store(&scoreboard_slot(scoreboard, number)->reading, 1);
                return true;
            }
        if (clock_gettime(CLOCK_MONOTONIC, &now) != 0 || now.tv_sec > until.tv_sec ||
            (now.tv_sec == until.tv_sec && now.tv_nsec >= until.tv_nsec))
            return false;
        /* Returns at once when it is not what was seen. */
        futex(left, FUTEX_WAIT_BITSET, seen, &until);
        seen = atomic_load(left);
    }
}

void read_permits_return(struct scoreboard *scoreboard, int number)
{
    if (atomic_exchange(&scoreboard_slot(scoreboard, number)->reading, 0))
        give_reads(scoreboard, 1);
}

void read_permits_mend(struct scoreboard *scoreboard)
{
    const int64_t before = scoreboard->astray_reads;
    int64_t astray = (int64_t)scoreboard->most_reads - atomic_load(&scoreboard->workers->reads_left),
            mended = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        astray -= atomic_load(&scoreboard_slot(scoreboard, i)->reading) != 0;
    if (astray > 0 && before > 0)
        mended = astray < before ? astray : before;
    else if (astray < 0 && before < 0)
        mended = astray > before ? astray : before;
    /* Out of bounds is only what a broken worker wrote; then the next two looks mend the rest. */
    mended = mended > INT_MAX ? INT_MAX : mended < -INT_MAX ? -INT_MAX : mended;
    if (mended)
        give_reads(scoreboard, (int)mended);
    scoreboard->astray_reads = astray - mended;
}
