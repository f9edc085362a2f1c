/*
 * The topics that the manager LISTENs to, from their first poll until some time after their last. It gives
 * each topic its number in the topic table, which the workers share (topic_table.h), and keeps its channel
 * and whether it has news. Part of the relay, which creates and releases it. Sends no queries itself.
 *
 * In all parameters, topic is a topic's number.
 */
#ifndef PGPOLL_SUBSCRIPTIONS_H
#define PGPOLL_SUBSCRIPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lh_table;
struct scoreboard;

enum { SUBSCRIPTIONS_CHANNEL_SIZE = 64 };

/* One topic, by its number. */
struct subscription {
    char channel[SUBSCRIPTIONS_CHANNEL_SIZE]; /* "": unknown until the first LISTEN */
    char *quoted;                             /* the name as a JSON string; NULL: the number is unused */
    int64_t used_ms;                          /* when it was last polled */
    bool listening;                           /* LISTENed to, on the current connection */
    bool open;                                /* the message ring has it */
    bool news;      /* messages were announced and not read yet; in the list of such topics */
    bool wake;      /* got messages: the relay wakes its waiters */
    int used_index; /* its index in the list of used topics */
    uint64_t cycle; /* the relay's last cycle that asks for its newest position */
    int newest_at;  /* its index in that cycle's list */
};

struct subscriptions {
    struct scoreboard *scoreboard;
    struct subscription *by_topic;
    int *used; /* topics in use */
    int used_count;
    int *news; /* topics with news */
    int news_count;
    struct lh_table *channels; /* channel -> topic + 1 */
};

/* scoreboard is borrowed. false: out of memory; call subscriptions_release() all the same. */
bool subscriptions_init(struct subscriptions *subscriptions, struct scoreboard *scoreboard);
void subscriptions_release(struct subscriptions *subscriptions);

/*
 * Returns the number of the topic with this name, and gives it one if it has none; -1: no room or no memory.
 */
int subscriptions_add(struct subscriptions *subscriptions, const char *name, size_t length, int64_t now_ms);

/* Removes a topic and frees its number. Its waiters are woken, and ask again. */
void subscriptions_remove(struct subscriptions *subscriptions, int topic);

const char *subscriptions_name(const struct subscriptions *subscriptions, int topic);

/* The topic's newest position in the message ring; 0: the ring does not have the topic. */
int64_t subscriptions_newest(const struct subscriptions *subscriptions, int topic);

/* Notes that the topic is LISTENed to, on this channel. */
void subscriptions_set_channel(struct subscriptions *subscriptions, int topic, const char *channel);

/* The topic of a channel; -1: none. */
int subscriptions_find(const struct subscriptions *subscriptions, const char *channel);

/* Notes that the connection was lost: no topic is LISTENed to any more. */
void subscriptions_lose(struct subscriptions *subscriptions);

void subscriptions_have_news(struct subscriptions *subscriptions, int topic);
void subscriptions_forget_news(struct subscriptions *subscriptions);

/* How long a topic is kept after its last poll; less if so many are used that room may run out. */
int64_t subscriptions_linger_ms(const struct subscriptions *subscriptions);

/* Notes the topics of all waiting polls as polled now. */
void subscriptions_mark_used(struct subscriptions *subscriptions, int64_t now_ms);

/* Whether the last poll of a topic is so long ago that the topic can be removed. */
bool subscriptions_is_unused(const struct subscriptions *subscriptions, int topic, int64_t now_ms);

#endif
