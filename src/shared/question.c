#include "shared/question.h"

#include "api/topic.h"
#include "core/utf8.h"
#include "shared/latch.h"

#include <stdlib.h>
#include <string.h>

int question_next_asker(struct scoreboard *scoreboard, int from)
{
    for (int worker = from; worker < scoreboard->worker_count;
         worker = (worker / SCOREBOARD_WORD_BITS + 1) * SCOREBOARD_WORD_BITS) {
        _Atomic uint64_t *word = &scoreboard->askers[worker / SCOREBOARD_WORD_BITS];
        const uint64_t bits = atomic_load(word) & (UINT64_MAX << worker % SCOREBOARD_WORD_BITS);
        const int first = bits ? worker / SCOREBOARD_WORD_BITS * SCOREBOARD_WORD_BITS + __builtin_ctzll(bits)
                               : scoreboard->worker_count;

        if (first < scoreboard->worker_count) {
            (void)atomic_fetch_and(word, ~scoreboard_bit(first));
            return first;
        }
    }
    return -1;
}

/*
 * Copies everything but the names. The number of each topic is set to the offset of its name in the slot's
 * memory for names, until copy_names() has run. *sound: whether a sound worker may have written what was
 * copied. Returns NULL if out of memory or not sound.
 */
static struct question *copy_bounds(const struct scoreboard *scoreboard, const struct slot *slot, bool *sound)
{
    const int count = atomic_load_explicit(&slot->question_count, memory_order_relaxed);
    struct question *question;

    *sound = count > 0 && count <= scoreboard->max_topics;
    if (!*sound)
        return NULL;
    question = calloc(1, sizeof *question + (size_t)count * sizeof *question->topics);
    if (!question)
        return NULL;
    question->authorize = atomic_load_explicit(&slot->authorize, memory_order_relaxed) != 0;
    question->deadline_ms = atomic_load_explicit(&slot->question_deadline_ms, memory_order_relaxed);
    memcpy(question->user, slot->user, sizeof question->user);
    *sound = memchr(question->user, '\0', sizeof question->user) != NULL;
    question->topic_count = count;
    for (int i = 0; i < count; i++) {
        const uint32_t at = atomic_load_explicit(&slot->topics[i].name_at, memory_order_relaxed);
        const uint32_t length = atomic_load_explicit(&slot->topics[i].name_length, memory_order_relaxed);

        *sound = *sound && length <= TOPIC_MAX_BYTES &&
                 at <= scoreboard_names_size(scoreboard->max_topics) - length;
        question->topics[i] = (struct question_topic){ .length = length, .number = (int)at };
    }
    return question;
}

/* Copies the names, and sets the number of each topic to -1. Returns false if out of memory. */
static bool copy_names(const struct scoreboard *scoreboard, struct slot *slot, struct question *question)
{
    const char *names = scoreboard_names(scoreboard, slot);
    size_t size = 1;
    char *text;

    for (int i = 0; i < question->topic_count; i++)
        size += question->topics[i].length + 1;
    text = question->text = calloc(1, size);
    for (int i = 0; text && i < question->topic_count; i++) {
        struct question_topic *topic = &question->topics[i];

        memcpy(text, names + topic->number, topic->length);
        topic->name = text;
        topic->number = -1;
        text += topic->length + 1;
    }
    return text != NULL;
}

/*
 * Whether all names are valid. The database would refuse an invalid name, and the whole batch with the
 * questions of other workers would fail.
 */
static bool are_names_sound(const struct question *question)
{
    for (int i = 0; i < question->topic_count; i++)
        if (utf8_valid_length(question->topics[i].name, question->topics[i].length) !=
                question->topics[i].length ||
            topic_check(question->topics[i].name, question->topics[i].length) != TOPIC_OK)
            return false;
    return true;
}

enum question_taken question_take(struct scoreboard *scoreboard, int worker)
{
    struct slot *slot = scoreboard_slot(scoreboard, worker);
    struct reply *reply = scoreboard_reply(scoreboard, worker);
    const uint32_t asked = atomic_load(&slot->asked);
    struct question *question;
    bool sound, copied;

    if (scoreboard->questions[worker] || asked == atomic_load(&reply->answered))
        return QUESTION_NONE;
    question = copy_bounds(scoreboard, slot, &sound);
    scoreboard->questions[worker] = question;
    copied = question && sound && copy_names(scoreboard, slot, question);
    sound = sound && asked == atomic_load(&reply->answered) + 1 && (!copied || are_names_sound(question));
    if (sound && copied)
        return QUESTION_TAKEN;
    scoreboard_drop_question(scoreboard, worker);
    if (!sound)
        return QUESTION_BROKEN;
    reply->error = ERROR_MEMORY;
    atomic_store(&reply->answered, asked);
    latch_wake(scoreboard, worker);
    return QUESTION_NONE;
}

void question_answer(struct scoreboard *scoreboard, int worker, enum error answer)
{
    struct reply *reply = scoreboard_reply(scoreboard, worker);

    if (!scoreboard->questions[worker])
        return;
    scoreboard_drop_question(scoreboard, worker);
    reply->error = answer;
    (void)atomic_fetch_add(&reply->answered, 1);
    latch_wake(scoreboard, worker);
}
