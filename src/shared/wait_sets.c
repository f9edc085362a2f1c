#include "shared/wait_sets.h"

#include "shared/latch.h"

static _Atomic uint64_t *wait_set(const struct scoreboard *scoreboard, int topic)
{
    return scoreboard->waiting[(unsigned)topic % SCOREBOARD_BUCKETS];
}

void wait_sets_enter(struct scoreboard *scoreboard, int number)
{
    const struct slot *slot = scoreboard_slot(scoreboard, number);

    for (int i = 0; i < scoreboard_topic_count(scoreboard, slot); i++)
        atomic_fetch_or(
            &wait_set(scoreboard, scoreboard_topic(scoreboard, slot, i))[number / SCOREBOARD_WORD_BITS],
            scoreboard_bit(number));
    atomic_thread_fence(memory_order_seq_cst); /* who waits, before what was appended is looked for */
}

void wait_sets_leave(struct scoreboard *scoreboard, int number)
{
    const struct slot *slot = scoreboard_slot(scoreboard, number);

    for (int i = 0; i < scoreboard_topic_count(scoreboard, slot); i++)
        atomic_fetch_and(
            &wait_set(scoreboard, scoreboard_topic(scoreboard, slot, i))[number / SCOREBOARD_WORD_BITS],
            ~scoreboard_bit(number));
}

void wait_sets_remove(struct scoreboard *scoreboard, int number)
{
    /* Whatever topics its slot says: it may be broken. */
    for (int i = 0; i < SCOREBOARD_BUCKETS; i++)
        (void)atomic_fetch_and(&scoreboard->waiting[i][number / SCOREBOARD_WORD_BITS],
                               ~scoreboard_bit(number));
}

static bool waits_for(const struct scoreboard *scoreboard, const struct slot *slot, int topic)
{
    const int count = scoreboard_topic_count(scoreboard, slot);

    for (int i = 0; i < count; i++)
        if (atomic_load_explicit(&slot->topics[i].number, memory_order_relaxed) == topic)
            return true;
    return false;
}

void wait_sets_wake(struct scoreboard *scoreboard, int topic)
{
    _Atomic uint64_t *set = wait_set(scoreboard, topic);

    atomic_thread_fence(memory_order_seq_cst); /* what was appended, before who is looked for */
    for (int word = 0; word < scoreboard->words; word++)
        for (uint64_t bits = atomic_load(&set[word]); bits; bits &= bits - 1) {
            int number = word * SCOREBOARD_WORD_BITS + __builtin_ctzll(bits);

            if (number < scoreboard->worker_count &&
                waits_for(scoreboard, scoreboard_slot(scoreboard, number), topic))
                latch_wake(scoreboard, number);
        }
}
