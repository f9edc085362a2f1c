#include "shared/slot_reset.h"

#include "shared/poll_quota.h"
#include "shared/read_permits.h"
#include "shared/wait_sets.h"

void slot_reset(struct scoreboard *scoreboard, int worker)
{
    struct slot *slot = scoreboard_slot(scoreboard, worker);

    wait_sets_remove(scoreboard, worker);
    (void)atomic_fetch_and(&scoreboard->askers[worker / SCOREBOARD_WORD_BITS], ~scoreboard_bit(worker));
    (void)atomic_fetch_and(&scoreboard->lookers[worker / SCOREBOARD_WORD_BITS], ~scoreboard_bit(worker));
    poll_quota_return(scoreboard, worker);
    read_permits_return(scoreboard, worker);
    scoreboard_drop_question(scoreboard, worker);
    if (atomic_load(&slot->state) == SLOT_IDLE)
        (void)atomic_fetch_sub(&scoreboard->workers->idle, 1);
    atomic_store(&slot->asked, atomic_load(&scoreboard_reply(scoreboard, worker)->answered));
    atomic_store(&slot->state, SLOT_EMPTY);
    atomic_store(&slot->woken, 0);
    atomic_store(&slot->drain, 0);
    atomic_store(&slot->topic_count, 0);
    atomic_store(&scoreboard->pids[worker], 0);
}
