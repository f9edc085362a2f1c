#include "shared/question.h"

#include "api/topic.h"
#include "core/clock.h"
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
 * Copies everything but the names or the token, and where these are. Reads each value once, because a broken
 * worker may change it between its check and its use. *sound: whether a sound worker may have written what
 * was copied. Returns NULL if out of memory or not sound.
 */
static struct question *copy_bounds(const struct scoreboard *scoreboard, const struct slot *slot, bool *sound)
{
    const int kind = atomic_load_explicit(&slot->question_kind, memory_order_relaxed);
    const bool about_topics = kind != QUESTION_AUTHENTICATE;
    const int count = about_topics ? atomic_load_explicit(&slot->question_count, memory_order_relaxed) : 0;
    const uint32_t token_length =
        about_topics ? 0 : atomic_load_explicit(&slot->token_length, memory_order_relaxed);
    struct question *question;

    *sound = kind >= 0 && kind < QUESTION_KINDS && count >= about_topics && count <= scoreboard->max_topics &&
             token_length <= ACCESS_TOKEN_MAX_BYTES;
    if (!*sound)
        return NULL;
    question = calloc(1, sizeof *question + (size_t)count * sizeof *question->topics);
    if (!question)
        return NULL;
    question->kind = (enum question_kind)kind;
    question->only_refresh = atomic_load_explicit(&slot->only_refresh, memory_order_relaxed) != 0;
    question->taken_ms = clock_monotonic_ms();
    question->deadline_ms = atomic_load_explicit(&slot->question_deadline_ms, memory_order_relaxed);
    question->text_size = token_length;
    memcpy(question->user, slot->user, sizeof question->user);
    *sound = memchr(question->user, '\0', sizeof question->user) != NULL;
    question->topic_count = count;
    for (int i = 0; i < count; i++) {
        const uint32_t at = atomic_load_explicit(&slot->topics[i].name_at, memory_order_relaxed);
        const uint32_t length = atomic_load_explicit(&slot->topics[i].name_length, memory_order_relaxed);

        *sound = *sound && length <= TOPIC_MAX_BYTES &&
                 at <= scoreboard_names_size(scoreboard->max_topics) - length;
        question->topics[i] = (struct question_topic){ .length = length, .name_at = at, .number = -1 };
    }
    return question;
}

/* Copies the names. Returns false if out of memory. */
static bool copy_names(const struct scoreboard *scoreboard, struct slot *slot, struct question *question)
{
    const char *names = scoreboard_names(scoreboard, slot);
    char *text;

    question->text_size = 1;
    for (int i = 0; i < question->topic_count; i++)
        question->text_size += question->topics[i].length + 1;
    text = question->text = calloc(1, question->text_size);
    for (int i = 0; text && i < question->topic_count; i++) {
        struct question_topic *topic = &question->topics[i];

        memcpy(text, names + topic->name_at, topic->length);
        topic->name = text;
        text += topic->length + 1;
    }
    return text != NULL;
}

/*
 * Moves the token out of the shared memory: copies it and erases the original. Returns false if out of
 * memory.
 */
static bool move_token(const struct scoreboard *scoreboard, struct slot *slot, struct question *question)
{
    const size_t length = question->text_size;

    question->text = calloc(1, ++question->text_size);
    if (question->text)
        memcpy(question->text, scoreboard_names(scoreboard, slot), length);
    explicit_bzero(scoreboard_names(scoreboard, slot), length);
    return question->text != NULL;
}

static bool copy_text(const struct scoreboard *scoreboard, struct slot *slot, struct question *question)
{
    return question->kind == QUESTION_AUTHENTICATE ? move_token(scoreboard, slot, question)
                                                   : copy_names(scoreboard, slot, question);
}

/*
 * Whether the token or all names are valid. Invalid text would make the query fail, and the relay sends the
 * questions of many workers in one batch.
 */
static bool is_text_sound(const struct question *question)
{
    if (question->kind == QUESTION_AUTHENTICATE)
        return strlen(question->text) + 1 == question->text_size &&
               utf8_valid_length(question->text, question->text_size - 1) == question->text_size - 1;
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
    copied = question && sound && copy_text(scoreboard, slot, question);
    sound = sound && asked == atomic_load(&reply->answered) + 1 && (!copied || is_text_sound(question));
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

struct question *question_take_over(struct scoreboard *scoreboard, int worker)
{
    struct question *question = scoreboard_release_question(scoreboard, worker);

    (void)atomic_fetch_add(&scoreboard_reply(scoreboard, worker)->answered, 1);
    latch_wake(scoreboard, worker); /* the worker may be waiting to ask another question */
    return question;
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
