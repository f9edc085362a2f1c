#include "shared/slot_reset.h"

#include "shared/poll_quota.h"
#include "shared/read_permits.h"
#include "shared/wait_sets.h"

void slot_reset(struct scoreboard *scoreboard, int number)
{
    struct slot *slot = scoreboard_slot(scoreboard, number);

    wait_sets_remove(scoreboard, number);
    (void)atomic_fetch_and(&scoreboard->askers[number / SCOREBOARD_WORD_BITS], ~scoreboard_bit(number));
    poll_quota_return(scoreboard, number);
    read_permits_return(scoreboard, number);
    scoreboard_drop_question(scoreboard, number);
    if (atomic_load(&slot->state) == SLOT_IDLE)
        (void)atomic_fetch_sub(&scoreboard->workers->idle, 1);
    atomic_store(&slot->asked, atomic_load(&scoreboard_reply(scoreboard, number)->answered));
    atomic_store(&slot->state, SLOT_EMPTY);
    atomic_store(&slot->woken, 0);
    atomic_store(&slot->released, 0);
    atomic_store(&slot->topic_count, 0);
    atomic_store(&scoreboard->pids[number], 0);
}
