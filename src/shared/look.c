#include "shared/look.h"

#include "shared/latch.h"

uint64_t look_ask(struct scoreboard *scoreboard, int worker)
{
    const uint64_t number = atomic_load(&scoreboard->manager->looks_begun) + 1;

    atomic_store(&scoreboard_slot(scoreboard, worker)->look, number);
    (void)atomic_fetch_or(&scoreboard->lookers[worker / SCOREBOARD_WORD_BITS], scoreboard_bit(worker));
    if (!atomic_load(&scoreboard->manager->looks_watched))
        latch_set(scoreboard);
    return number;
}

enum look_state look_state(const struct scoreboard *scoreboard, uint64_t number)
{
    if (atomic_load(&scoreboard->manager->looks_done) >= number)
        return LOOK_DONE;
    return atomic_load(&scoreboard->manager->looks_refused) >= number ? LOOK_REFUSED : LOOK_PENDING;
}

bool look_is_wanted(const struct scoreboard *scoreboard)
{
    for (int word = 0; word < scoreboard->set_words; word++)
        if (atomic_load(&scoreboard->lookers[word]))
            return true;
    return false;
}

void look_begin(struct scoreboard *scoreboard)
{
    (void)atomic_fetch_add(&scoreboard->manager->looks_begun, 1);
}

/*
 * Takes a worker out of lookers and wakes it, unless it has asked since look_begin() and so waits for the
 * look after this one. It may ask at this very moment, and writes its number before it sets its bit. So the
 * bit is cleared first, and the number is read after that.
 */
static void end_wait(struct scoreboard *scoreboard, int worker, uint64_t ended)
{
    _Atomic uint64_t *word = &scoreboard->lookers[worker / SCOREBOARD_WORD_BITS];

    (void)atomic_fetch_and(word, ~scoreboard_bit(worker));
    if (worker >= scoreboard->worker_count) /* a broken worker has set the bit */
        return;
    if (atomic_load(&scoreboard_slot(scoreboard, worker)->look) == ended + 1)
        (void)atomic_fetch_or(word, scoreboard_bit(worker));
    else
        latch_wake(scoreboard, worker);
}

void look_end(struct scoreboard *scoreboard, enum look_state state)
{
    struct manager_memory *manager = scoreboard->manager;
    const uint64_t number = atomic_load(&manager->looks_begun);

    atomic_store(state == LOOK_DONE ? &manager->looks_done : &manager->looks_refused, number);
    for (int word = 0; word < scoreboard->set_words; word++)
        for (uint64_t bits = atomic_load(&scoreboard->lookers[word]); bits; bits &= bits - 1)
            end_wait(scoreboard, word * SCOREBOARD_WORD_BITS + __builtin_ctzll(bits), number);
}

void look_watch(struct scoreboard *scoreboard, bool watches)
{
    atomic_store(&scoreboard->manager->looks_watched, watches);
}
