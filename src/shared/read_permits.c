#include "shared/read_permits.h"

#include "core/clock.h"
#include "core/wait.h"

#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 * read_permits_left is a semaphore, but not a sem_t: glibc passes one of a sem_t's words to futex(2) as part
 * of the operation, so a broken worker could make the manager wait there. It also goes below 0, if the
 * manager lowers how many permits may be taken while more are taken.
 */
static void futex(_Atomic int *word, int operation, int value, const struct timespec *until)
{
    (void)syscall(SYS_futex, word, operation, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

/* Wakes at most so many workers that wait for a permit. */
static void wake(struct scoreboard *scoreboard, int64_t count)
{
    if (count > 0)
        futex(&scoreboard->workers->read_permits_left, FUTEX_WAKE, (int)count, NULL);
}

/*
 * Adds free permits, or takes some away if count is below 0. Wakes as many workers as there are new permits
 * that a worker may take.
 */
static void add_permits(struct scoreboard *scoreboard, int count)
{
    const int64_t left = (int64_t)atomic_fetch_add(&scoreboard->workers->read_permits_left, count) + count;

    wake(scoreboard, clock_min(left, count));
}

/* Returns how many more permits are allowed than are free: those that are taken. */
static int64_t missing_permits(const struct scoreboard *scoreboard)
{
    const int64_t left = atomic_load(&scoreboard->workers->read_permits_left);

    return atomic_load(&scoreboard->manager->read_permits_allowed) - left;
}

int read_permits_taken(const struct scoreboard *scoreboard)
{
    const int64_t taken = missing_permits(scoreboard);

    return taken < 0 ? 0 : taken > scoreboard->read_permits ? scoreboard->read_permits : (int)taken;
}

/* When the number grows it is stored first, and else last, so that workers never see too few taken. */
void read_permits_allow(struct scoreboard *scoreboard, int count)
{
    _Atomic int *allowed = &scoreboard->manager->read_permits_allowed;
    const int change = count - atomic_load(allowed);

    if (change > 0)
        atomic_store(allowed, count);
    if (change != 0)
        add_permits(scoreboard, change);
    atomic_store(allowed, count);
}

/*
 * Sleeps until *left is not seen, a permit was returned, the time is over or a signal came. A signal that
 * comes between the look at drain and the sleep does not end it. That does no harm: when workers are drained,
 * all that wait leave but those that missed the signal, for whom a permit is free soon.
 */
static void sleep_until(_Atomic int *left, int seen, const struct timespec *until,
                        const struct interrupts *interrupts)
{
    sigset_t mask;

    if (!interrupts) {
        futex(left, FUTEX_WAIT_BITSET, seen, until);
        return;
    }
    (void)sigprocmask(SIG_SETMASK, interrupts->sleep_mask, &mask);
    if (!*interrupts->drain)
        futex(left, FUTEX_WAIT_BITSET, seen, until);
    (void)sigprocmask(SIG_SETMASK, &mask, NULL);
}

bool read_permits_take(struct scoreboard *scoreboard, int worker, int64_t deadline_ms,
                       const struct interrupts *interrupts)
{
    const struct timespec until = { deadline_ms / 1000, deadline_ms % 1000 * 1000000 };
    _Atomic int *left = &scoreboard->workers->read_permits_left;
    int seen = atomic_load(left);

    for (;;) {
        while (seen > 0)
            if (atomic_compare_exchange_weak(left, &seen, seen - 1)) {
                atomic_store(&scoreboard_slot(scoreboard, worker)->has_read_permit, 1);
                return true;
            }
        if (clock_monotonic_ms() >= deadline_ms || (interrupts && *interrupts->drain))
            return false;
        sleep_until(left, seen, &until, interrupts);
        seen = atomic_load(left);
    }
}

void read_permits_return(struct scoreboard *scoreboard, int worker)
{
    if (atomic_exchange(&scoreboard_slot(scoreboard, worker)->has_read_permit, 0))
        add_permits(scoreboard, 1);
}

bool read_permits_mend(struct scoreboard *scoreboard)
{
    const int64_t missing_before = scoreboard->missing_permits;
    int64_t missing = missing_permits(scoreboard), added = 0;

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
    /* A worker may have been killed after it was woken or before it woke another one. */
    wake(scoreboard, atomic_load(&scoreboard->workers->read_permits_left));
    return scoreboard->missing_permits == 0;
}
