#include "shared/wait_sets.h"

#include "shared/latch.h"

static _Atomic uint64_t *wait_set(const struct scoreboard *scoreboard, int topic)
{
    return scoreboard->wait_sets +
           (size_t)((unsigned)topic % SCOREBOARD_BUCKETS) * (size_t)scoreboard->set_words;
}

void wait_sets_enter(struct scoreboard *scoreboard, int worker)
{
    const struct slot *slot = scoreboard_slot(scoreboard, worker);

    for (int i = 0; i < scoreboard_topic_count(scoreboard, slot); i++)
        atomic_fetch_or(
            &wait_set(scoreboard, scoreboard_topic(scoreboard, slot, i))[worker / SCOREBOARD_WORD_BITS],
            scoreboard_bit(worker));
    /* Step 1 of wait_sets.h: the bits are set before the worker looks into the ring. */
    atomic_thread_fence(memory_order_seq_cst);
}

void wait_sets_leave(struct scoreboard *scoreboard, int worker)
{
    const struct slot *slot = scoreboard_slot(scoreboard, worker);

    for (int i = 0; i < scoreboard_topic_count(scoreboard, slot); i++)
        atomic_fetch_and(
            &wait_set(scoreboard, scoreboard_topic(scoreboard, slot, i))[worker / SCOREBOARD_WORD_BITS],
            ~scoreboard_bit(worker));
}

void wait_sets_remove(struct scoreboard *scoreboard, int worker)
{
    for (int i = 0; i < SCOREBOARD_BUCKETS; i++) {
        _Atomic uint64_t *word = &wait_set(scoreboard, i)[worker / SCOREBOARD_WORD_BITS];

        if (atomic_load(word) & scoreboard_bit(worker))
            (void)atomic_fetch_and(word, ~scoreboard_bit(worker));
    }
}

static bool waits_for(const struct scoreboard *scoreboard, const struct slot *slot, int topic)
{
    const int count = scoreboard_topic_count(scoreboard, slot);

    for (int i = 0; i < count; i++)
        if (atomic_load_explicit(&slot->topics[i].topic, memory_order_relaxed) == topic)
            return true;
    return false;
}

void wait_sets_wake(struct scoreboard *scoreboard, int topic)
{
    _Atomic uint64_t *set = wait_set(scoreboard, topic);

    /* Step 2 of wait_sets.h: the message is in the ring before the manager looks into the set. */
    atomic_thread_fence(memory_order_seq_cst);
    for (int word = 0; word < scoreboard->set_words; word++)
        for (uint64_t bits = atomic_load(&set[word]); bits; bits &= bits - 1) {
            int worker = word * SCOREBOARD_WORD_BITS + __builtin_ctzll(bits);

            if (worker < scoreboard->worker_count &&
                waits_for(scoreboard, scoreboard_slot(scoreboard, worker), topic))
                latch_wake(scoreboard, worker);
        }
}

void wait_sets_wake_all(struct scoreboard *scoreboard)
{
    /*
     * As in wait_sets_wake(). A worker is no longer idle when it executes its fence, so one that is idle here
     * enters its sets later, and then sees what was done before this fence.
     */
    atomic_thread_fence(memory_order_seq_cst);
    for (int worker = 0; worker < scoreboard->worker_count; worker++)
        if (atomic_load(&scoreboard_slot(scoreboard, worker)->state) > SLOT_IDLE)
            latch_wake(scoreboard, worker);
}
