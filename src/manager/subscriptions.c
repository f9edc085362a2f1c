#include "manager/subscriptions.h"

#include "shared/scoreboard.h"
#include "shared/topic_table.h"
#include "shared/wait_sets.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINGER_MS = 60 * 1000, CROWDED_LINGER_MS = 1000 };

bool subscriptions_init(struct subscriptions *subscriptions, struct scoreboard *scoreboard)
{
    size_t capacity = (size_t)topic_table_size(scoreboard->topics);

    *subscriptions = (struct subscriptions){ .scoreboard = scoreboard };
    subscriptions->by_topic = calloc(capacity, sizeof *subscriptions->by_topic);
    subscriptions->used = calloc(capacity, sizeof *subscriptions->used);
    subscriptions->news = calloc(capacity, sizeof *subscriptions->news);
    subscriptions->channels = lh_kchar_table_new(1024, NULL);
    return subscriptions->by_topic && subscriptions->used && subscriptions->news && subscriptions->channels;
}

void subscriptions_release(struct subscriptions *subscriptions)
{
    for (int i = 0; i < subscriptions->used_count; i++)
        free(subscriptions->by_topic[subscriptions->used[i]].quoted);
    free(subscriptions->by_topic);
    free(subscriptions->used);
    free(subscriptions->news);
    if (subscriptions->channels)
        lh_table_free(subscriptions->channels);
    *subscriptions = (struct subscriptions){ 0 };
}

int subscriptions_add(struct subscriptions *subscriptions, const char *name, size_t length, int64_t now_ms)
{
    int topic = topic_table_add(subscriptions->scoreboard->topics, name, length);
    struct subscription *subscription;
    struct json_object *string;

    if (topic < 0 || subscriptions->by_topic[topic].quoted)
        return topic;
    subscription = &subscriptions->by_topic[topic];
    /*
     * news keeps its value, because the topic that had this number before may still be in the list of topics
     * with news.
     */
    *subscription = (struct subscription){ .used_ms = now_ms,
                                           .news = subscription->news,
                                           .used_index = subscriptions->used_count };
    string = json_object_new_string_len(name, (int)length);
    if (string)
        subscription->quoted = strdup(json_object_to_json_string_ext(string, JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(string);
    if (!subscription->quoted) {
        topic_table_remove(subscriptions->scoreboard->topics, topic);
        return -1;
    }
    subscriptions->used[subscriptions->used_count++] = topic;
    return topic;
}

void subscriptions_remove(struct subscriptions *subscriptions, int topic)
{
    struct subscription *subscription = &subscriptions->by_topic[topic];
    int last = subscriptions->used[--subscriptions->used_count];

    subscriptions->used[subscription->used_index] = last;
    subscriptions->by_topic[last].used_index = subscription->used_index;
    if (subscription->open)
        ring_close(subscriptions->scoreboard->ring, topic);
    /*
     * A worker may have entered the wait set after the topic was found to be unused. Wake it, so that it asks
     * again.
     */
    wait_sets_wake(subscriptions->scoreboard, topic);
    (void)lh_table_delete(subscriptions->channels, subscription->channel);
    topic_table_remove(subscriptions->scoreboard->topics, topic);
    free(subscription->quoted);
    *subscription = (struct subscription){ .news = subscription->news };
}

const char *subscriptions_name(const struct subscriptions *subscriptions, int topic)
{
    return topic_table_name(subscriptions->scoreboard->topics, topic);
}

int64_t subscriptions_newest(const struct subscriptions *subscriptions, int topic)
{
    struct ring_topic_ref ref;
    int64_t newest = 0;

    if (ring_find(subscriptions->scoreboard->ring, topic, &ref))
        (void)ring_newest(subscriptions->scoreboard->ring, ref, &newest);
    return newest;
}

void subscriptions_set_channel(struct subscriptions *subscriptions, int topic, const char *channel)
{
    struct subscription *subscription = &subscriptions->by_topic[topic];

    subscription->listening = true;
    if (*subscription->channel)
        return;
    (void)snprintf(subscription->channel, sizeof subscription->channel, "%s", channel);
    (void)lh_table_insert(subscriptions->channels, subscription->channel, (void *)(intptr_t)(topic + 1));
}

int subscriptions_find(const struct subscriptions *subscriptions, const char *channel)
{
    void *found;

    return lh_table_lookup_ex(subscriptions->channels, channel, &found) ? (int)((intptr_t)found - 1) : -1;
}

void subscriptions_lose(struct subscriptions *subscriptions)
{
    for (int i = 0; i < subscriptions->used_count; i++)
        subscriptions->by_topic[subscriptions->used[i]].listening = false;
}

void subscriptions_have_news(struct subscriptions *subscriptions, int topic)
{
    if (!subscriptions->by_topic[topic].news)
        subscriptions->news[subscriptions->news_count++] = topic;
    subscriptions->by_topic[topic].news = true;
}

void subscriptions_forget_news(struct subscriptions *subscriptions)
{
    for (int i = 0; i < subscriptions->news_count; i++)
        subscriptions->by_topic[subscriptions->news[i]].news = false;
    subscriptions->news_count = 0;
}

int64_t subscriptions_linger_ms(const struct subscriptions *subscriptions)
{
    return subscriptions->used_count < topic_table_size(subscriptions->scoreboard->topics) / 4
               ? LINGER_MS
               : CROWDED_LINGER_MS;
}

void subscriptions_mark_used(struct subscriptions *subscriptions, int64_t now_ms)
{
    for (int i = 0; i < subscriptions->scoreboard->worker_count; i++) {
        const struct slot *slot = scoreboard_slot(subscriptions->scoreboard, i);
        const int count = atomic_load(&slot->state) == SLOT_WAITING
                              ? scoreboard_topic_count(subscriptions->scoreboard, slot)
                              : 0;

        for (int k = 0; k < count; k++) {
            int topic = scoreboard_topic(subscriptions->scoreboard, slot, k);

            if (topic >= 0)
                subscriptions->by_topic[topic].used_ms = now_ms;
        }
    }
}

bool subscriptions_is_unused(const struct subscriptions *subscriptions, int topic, int64_t now_ms)
{
    const struct subscription *subscription = &subscriptions->by_topic[topic];

    return subscription->listening && !subscription->news &&
           now_ms - subscription->used_ms > subscriptions_linger_ms(subscriptions);
}
