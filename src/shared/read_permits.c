#include "shared/read_permits.h"

#include "shared/latch.h"

#include <limits.h>

enum {
    /* The values of scoreboard->read_turns below the first ticket. */
    NO_TURN = 0,
    HAS_PERMIT = 1,
    FIRST_TICKET = 2,
    /* Each attempt to hand out a permit fails only because others do the same, or a worker is broken. */
    MOST_ATTEMPTS = 200
};

/*
 * Returns the worker that has waited longest for a permit, or -1 if none waits. Sets *ticket to its ticket,
 * and *alone to whether no other worker waits.
 */
static int find_longest(const struct scoreboard *scoreboard, uint64_t *ticket, bool *alone)
{
    uint64_t lowest = UINT64_MAX;
    int longest = -1, waiting = 0;

    for (int i = 0; i < scoreboard->worker_count; i++) {
        const uint64_t turn = atomic_load(&scoreboard->read_turns[i]);

        waiting += turn >= FIRST_TICKET;
        if (turn >= FIRST_TICKET && turn < lowest) {
            lowest = turn;
            longest = i;
        }
    }
    *ticket = lowest;
    *alone = waiting == 1;
    return longest;
}

/*
 * Gives free permits to the workers that have waited longest, one for each pass over the workers. Every
 * process that enters a worker into the queue calls this afterwards, and so does one that adds permits when
 * none was free: of two that do so at the same time, one sees the other.
 */
static void hand_out(struct scoreboard *scoreboard)
{
    _Atomic int *left = &scoreboard->workers->read_permits_left;

    for (int i = 0; i < MOST_ATTEMPTS && atomic_load(left) > 0; i++) {
        uint64_t ticket;
        bool alone;
        const int worker = find_longest(scoreboard, &ticket, &alone);

        if (worker < 0)
            return;
        if (atomic_fetch_sub(left, 1) <= 0 ||
            !atomic_compare_exchange_strong(&scoreboard->read_turns[worker], &ticket, HAS_PERMIT)) {
            (void)atomic_fetch_add(left, 1); /* another process took the last one, or the worker has left */
            continue;
        }
        latch_wake(scoreboard, worker);
        if (alone)
            return;
    }
}

/*
 * Adds free permits, or takes some away if count is below 0. If some were free before, no worker waits, or a
 * process still hands those out, and then hands these out, too. If it is killed meanwhile, the next worker
 * that enters the queue or looks does.
 */
static void add_permits(struct scoreboard *scoreboard, int count)
{
    if (atomic_fetch_add(&scoreboard->workers->read_permits_left, count) <= 0)
        hand_out(scoreboard);
}

/*
 * Returns how many permits are taken: those that are allowed and not free. If a broken worker has written how
 * many are free, this may be any number.
 */
static int64_t count_taken(const struct scoreboard *scoreboard)
{
    const int64_t left = atomic_load(&scoreboard->workers->read_permits_left);

    return atomic_load(&scoreboard->manager->read_permits_allowed) - left;
}

int read_permits_taken(const struct scoreboard *scoreboard)
{
    const int64_t taken = count_taken(scoreboard);

    return taken < 0 ? 0 : taken > scoreboard->read_permits ? scoreboard->read_permits : (int)taken;
}

/*
 * Workers compute how many permits are taken as those allowed minus those free, and must not get too few. So
 * a larger number is stored before the free permits are added, a smaller one after they are removed.
 */
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

bool read_permits_has(const struct scoreboard *scoreboard, int worker)
{
    return atomic_load(&scoreboard->read_turns[worker]) == HAS_PERMIT;
}

/* No more tickets are given, even if a broken worker has written how many there are. */
static const uint64_t MAX_TICKETS = (uint64_t)1 << 62;

/* Whether the turn is a ticket that was given. */
static bool is_ticket(const struct scoreboard *scoreboard, uint64_t turn)
{
    return turn >= FIRST_TICKET &&
           turn < FIRST_TICKET + atomic_load(&scoreboard->workers->read_tickets) % MAX_TICKETS;
}

/* Sets the worker's turn to a ticket, unless it has a permit or waits already. */
static void enter_queue(struct scoreboard *scoreboard, int worker)
{
    _Atomic uint64_t *turn = &scoreboard->read_turns[worker];
    uint64_t seen = atomic_load(turn);

    if (seen == HAS_PERMIT || is_ticket(scoreboard, seen))
        return;
    /* This worker looks by itself afterwards, so hand_out() need not send it a signal. */
    atomic_store(&scoreboard_slot(scoreboard, worker)->woken, 1);
    (void)atomic_compare_exchange_strong(
        turn, &seen, FIRST_TICKET + atomic_fetch_add(&scoreboard->workers->read_tickets, 1) % MAX_TICKETS);
}

bool read_permits_take(struct scoreboard *scoreboard, int worker)
{
    enter_queue(scoreboard, worker);
    hand_out(scoreboard);
    /* Acquires what the waker wrote. */
    (void)atomic_exchange(&scoreboard_slot(scoreboard, worker)->woken, 0);
    return read_permits_has(scoreboard, worker);
}

void read_permits_return(struct scoreboard *scoreboard, int worker)
{
    if (atomic_exchange(&scoreboard->read_turns[worker], NO_TURN) == HAS_PERMIT)
        add_permits(scoreboard, 1);
}

/*
 * An idle worker has no turn, unless a broken one has written it. Then it would keep others from theirs. The
 * state may be written, too: a worker that waits is woken, and enters the queue again. One whose poll waits
 * is woken to look itself: it may be reading again.
 */
static void remove_wrong_turn(struct scoreboard *scoreboard, int worker)
{
    _Atomic uint64_t *turn = &scoreboard->read_turns[worker];
    const int state = atomic_load(&scoreboard_slot(scoreboard, worker)->state);
    uint64_t seen = atomic_load(turn);

    if (seen == HAS_PERMIT && state == SLOT_WAITING)
        latch_wake(scoreboard, worker);
    if (seen == NO_TURN || state != SLOT_IDLE || !atomic_compare_exchange_strong(turn, &seen, NO_TURN))
        return;
    if (seen == HAS_PERMIT)
        (void)atomic_fetch_add(&scoreboard->workers->read_permits_left, 1);
    latch_wake(scoreboard, worker);
}

bool read_permits_mend(struct scoreboard *scoreboard)
{
    const int64_t missing_before = scoreboard->missing_permits;
    int64_t missing, added = 0;

    for (int i = 0; i < scoreboard->worker_count; i++)
        remove_wrong_turn(scoreboard, i);
    missing = count_taken(scoreboard);
    for (int i = 0; i < scoreboard->worker_count; i++)
        missing -= read_permits_has(scoreboard, i);
    if (missing > 0 && missing_before > 0)
        added = missing < missing_before ? missing : missing_before;
    else if (missing < 0 && missing_before < 0)
        added = missing > missing_before ? missing : missing_before;
    /*
     * added exceeds an int only if a broken worker wrote wrong values. Then the next two calls correct the
     * rest.
     */
    added = added > INT_MAX ? INT_MAX : added < -INT_MAX ? -INT_MAX : added;
    add_permits(scoreboard, (int)added);
    hand_out(scoreboard); /* a worker may have been killed before it did */
    scoreboard->missing_permits = missing - added;
    return scoreboard->missing_permits == 0;
}
