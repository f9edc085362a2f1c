#include "manager/subscriptions.h"

#include "shared/scoreboard.h"
#include "shared/topic_table.h"
#include "shared/wait_sets.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

enum { LINGER_MS = 60 * 1000, CROWDED_LINGER_MS = 1000, MIN_LISTS = 1024 };

/* How many topics one call of subscriptions_sweep() looks at, and removes, at most. */
enum { SWEEP_LOOKS = 32768, SWEEP_REMOVALS = 2048 };

bool subscriptions_init(struct subscriptions *subscriptions, struct scoreboard *scoreboard)
{
    const size_t capacity = (size_t)topic_table_size(scoreboard->topics);
    size_t lists = MIN_LISTS;

    while (lists < capacity / 4)
        lists *= 2;
    *subscriptions = (struct subscriptions){ .scoreboard = scoreboard, .hash_mask = (uint32_t)lists - 1 };
    subscriptions->by_topic = calloc(capacity, sizeof *subscriptions->by_topic);
    subscriptions->used = calloc(capacity, sizeof *subscriptions->used);
    subscriptions->hashed = calloc(lists, sizeof *subscriptions->hashed);
    if (!subscriptions->by_topic || !subscriptions->used || !subscriptions->hashed)
        return false;
    for (size_t i = 0; i < lists; i++)
        subscriptions->hashed[i] = -1;
    return true;
}

void subscriptions_release(struct subscriptions *subscriptions)
{
    for (int i = 0; i < subscriptions->used_count; i++)
        free(subscriptions->by_topic[subscriptions->used[i]].quoted);
    free(subscriptions->by_topic);
    free(subscriptions->used);
    free(subscriptions->hashed);
    *subscriptions = (struct subscriptions){ 0 };
}

int subscriptions_add(struct subscriptions *subscriptions, const char *name, size_t length, int64_t now_ms,
                      uint64_t cycle)
{
    struct topic_table *topics = subscriptions->scoreboard->topics;
    int topic = topic_table_add(topics, name, length);

    /*
     * If no number is free, search for topics to remove, twice at most: the first search may be one that an
     * earlier call began, when other topics were in use.
     */
    for (int searches = 0; topic < 0 && searches < 2; topic = topic_table_add(topics, name, length))
        searches += subscriptions_sweep(subscriptions, now_ms, 0, cycle);
    if (topic < 0 || subscriptions->by_topic[topic].used)
        return topic;
    /*
     * wanted keeps its value, because the topic that had this number before may still be in the list of
     * wanted topics.
     */
    subscriptions->by_topic[topic] = (struct subscription){ .used = true,
                                                            .wanted = subscriptions->by_topic[topic].wanted,
                                                            .used_ms = now_ms,
                                                            .used_index = subscriptions->used_count };
    subscriptions->used[subscriptions->used_count++] = topic;
    return topic;
}

int subscriptions_find(const struct subscriptions *subscriptions, const char *name, size_t length)
{
    const int topic = topic_table_number(subscriptions->scoreboard->topics, name, length);

    return topic >= 0 && subscriptions->by_topic[topic].open ? topic : -1;
}

void subscriptions_open(struct subscriptions *subscriptions, int topic, int64_t newest, uint32_t hash)
{
    struct subscription *subscription = &subscriptions->by_topic[topic];
    int *first = &subscriptions->hashed[hash & subscriptions->hash_mask];

    ring_open(subscriptions->scoreboard->ring, topic, newest);
    subscription->open = true;
    subscription->hash = hash;
    subscription->next_hashed = *first;
    *first = topic;
}

static void close_topic(struct subscriptions *subscriptions, int topic)
{
    struct subscription *subscription = &subscriptions->by_topic[topic];
    int *link = &subscriptions->hashed[subscription->hash & subscriptions->hash_mask];

    if (!subscription->open)
        return;
    while (*link != topic)
        link = &subscriptions->by_topic[*link].next_hashed;
    *link = subscription->next_hashed;
    ring_close(subscriptions->scoreboard->ring, topic);
    subscription->open = false;
}

static void remove_topic(struct subscriptions *subscriptions, int topic)
{
    struct subscription *subscription = &subscriptions->by_topic[topic];
    const int last = subscriptions->used[--subscriptions->used_count];

    close_topic(subscriptions, topic);
    /*
     * A worker may have entered the wait set after the topic was found to be unused. Wake it, so that it asks
     * again.
     */
    wait_sets_wake(subscriptions->scoreboard, topic);
    subscriptions->used[subscription->used_index] = last;
    subscriptions->by_topic[last].used_index = subscription->used_index;
    topic_table_remove(subscriptions->scoreboard->topics, topic);
    free(subscription->quoted);
    *subscription = (struct subscription){ .wanted = subscription->wanted };
}

void subscriptions_close(struct subscriptions *subscriptions)
{
    for (int i = 0; i < subscriptions->used_count; i++)
        close_topic(subscriptions, subscriptions->used[i]);
    /*
     * In one pass over the workers. To wake the waiters of one topic after the other would take seconds:
     * there may be a million topics, and hundreds of workers in the wait set of each.
     */
    wait_sets_wake_all(subscriptions->scoreboard);
}

int64_t subscriptions_newest(const struct subscriptions *subscriptions, int topic)
{
    struct ring_topic_ref ref;
    int64_t newest = 0;

    if (ring_find(subscriptions->scoreboard->ring, topic, &ref))
        (void)ring_newest(subscriptions->scoreboard->ring, ref, &newest);
    return newest;
}

/* Returns the length of a topic's name as a JSON string. A name has no control characters. */
static size_t quoted_length(const char *name, size_t length)
{
    size_t quoted = length + 2;

    for (size_t i = 0; i < length; i++)
        quoted += name[i] == '"' || name[i] == '\\';
    return quoted;
}

bool subscriptions_quote(struct subscriptions *subscriptions, int topic, const char *name, size_t length)
{
    struct subscription *subscription = &subscriptions->by_topic[topic];
    struct json_object *string = subscription->quoted ? NULL : json_object_new_string_len(name, (int)length);
    const char *text = NULL;
    size_t size = 0;

    if (string)
        text = json_object_to_json_string_length(string, JSON_C_TO_STRING_NOSLASHESCAPE, &size);
    /* json-c leaves out what it has no memory for. */
    if (text && size == quoted_length(name, length))
        subscription->quoted = strdup(text);
    json_object_put(string);
    return subscription->quoted != NULL;
}

void subscriptions_want(struct subscriptions *subscriptions, int topic)
{
    if (subscriptions->by_topic[topic].wanted || subscriptions->wanted_count == SUBSCRIPTIONS_MAX_WANTED)
        return;
    subscriptions->by_topic[topic].wanted = true;
    subscriptions->wanted[subscriptions->wanted_count++] = topic;
}

bool subscriptions_want_hash(struct subscriptions *subscriptions, uint32_t hash)
{
    bool found = false;

    for (int topic = subscriptions->hashed[hash & subscriptions->hash_mask]; topic >= 0;
         topic = subscriptions->by_topic[topic].next_hashed)
        if (subscriptions->by_topic[topic].hash == hash) {
            subscriptions_want(subscriptions, topic);
            found = true;
        }
    return found;
}

void subscriptions_want_none(struct subscriptions *subscriptions)
{
    for (int i = 0; i < subscriptions->wanted_count; i++)
        subscriptions->by_topic[subscriptions->wanted[i]].wanted = false;
    subscriptions->wanted_count = 0;
}

int64_t subscriptions_linger_ms(const struct subscriptions *subscriptions)
{
    return subscriptions->used_count < topic_table_size(subscriptions->scoreboard->topics) / 4 * 3
               ? LINGER_MS
               : CROWDED_LINGER_MS;
}

/* Notes that the topics of the worker's poll, if it waits, are being polled now. Returns how many it has. */
static int mark_topics(struct subscriptions *subscriptions, int worker, int64_t now_ms)
{
    const struct slot *slot = scoreboard_slot(subscriptions->scoreboard, worker);
    const int count = atomic_load(&slot->state) == SLOT_WAITING
                          ? scoreboard_topic_count(subscriptions->scoreboard, slot)
                          : 0;

    for (int i = 0; i < count; i++) {
        const int topic = scoreboard_topic(subscriptions->scoreboard, slot, i);

        if (topic >= 0)
            subscriptions->by_topic[topic].used_ms = now_ms;
    }
    return count;
}

/* Notes that the topics of waiting polls are being polled now. Returns whether this is done for all polls. */
static bool mark_used(struct subscriptions *subscriptions, int64_t now_ms)
{
    for (int looks = 0; looks < SWEEP_LOOKS; looks++) {
        looks += mark_topics(subscriptions, subscriptions->mark_next++, now_ms);
        if (subscriptions->mark_next == subscriptions->scoreboard->worker_count) {
            subscriptions->mark_next = 0;
            return true;
        }
    }
    return false;
}

/*
 * Removes topics that were last polled more than linger_ms before the search began. Looks at the list of used
 * topics from its end to its beginning, because remove_topic() moves the last one to the place of the removed
 * one. Returns whether it has looked at all of them.
 */
static bool remove_unused(struct subscriptions *subscriptions, int64_t linger_ms, uint64_t cycle)
{
    int removed = 0;

    for (int looks = 0; subscriptions->sweep_left > 0 && looks < SWEEP_LOOKS && removed < SWEEP_REMOVALS;
         looks++) {
        const int topic = subscriptions->used[--subscriptions->sweep_left];
        const struct subscription *subscription = &subscriptions->by_topic[topic];

        if (subscriptions->sweep_ms - subscription->used_ms > linger_ms && subscription->cycle != cycle) {
            remove_topic(subscriptions, topic);
            removed++;
        }
    }
    return subscriptions->sweep_left == 0;
}

bool subscriptions_sweep(struct subscriptions *subscriptions, int64_t now_ms, int64_t linger_ms,
                         uint64_t cycle)
{
    if (subscriptions->sweep_left == 0) { /* the search begins, or has not looked at all workers */
        if (subscriptions->mark_next == 0)
            subscriptions->sweep_ms = now_ms;
        if (!mark_used(subscriptions, now_ms))
            return false;
        subscriptions->sweep_left = subscriptions->used_count;
    }
    return remove_unused(subscriptions, linger_ms, cycle);
}
