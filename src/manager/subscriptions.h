/*
 * The topics that the manager LISTENs to: each from its first poll until some time after its last one. This
 * module gives each topic its number in the topic table, which the workers share (topic_table.h). It keeps
 * the topic's channel, and notes whether the topic has news: messages that were announced and that the relay
 * has not read yet. Part of the relay, which creates and releases it. Sends no queries itself.
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

/* What is known about one topic. */
struct subscription {
    char channel[SUBSCRIPTIONS_CHANNEL_SIZE]; /* "": unknown until the first LISTEN */
    char *quoted;    /* the topic's name as a JSON string; NULL: no topic has this number */
    int64_t used_ms; /* when the topic was last polled */
    bool listening;  /* the current connection LISTENs to the topic's channel */
    bool open;       /* the message ring has the topic: see ring_open() */
    bool news; /* the topic has news, or had when its number was freed: it is in the list of such topics */
    bool wake; /* the topic got messages, so the relay must wake its waiters */
    int used_index; /* the topic's index in the list of used topics */
    uint64_t cycle; /* number of the last cycle in which the relay asks for the topic's newest position */
    int newest_at;  /* the topic's index in that cycle's list of positions */
};

struct subscriptions {
    struct scoreboard *scoreboard;
    struct subscription *by_topic;
    int *used; /* numbers of the topics in use */
    int used_count;
    int *news; /* numbers of the topics with news */
    int news_count;
    struct lh_table *channels; /* maps a channel's name to its topic's number plus 1 */
};

/* scoreboard is borrowed. Returns false if out of memory; call subscriptions_release() even then. */
bool subscriptions_init(struct subscriptions *subscriptions, struct scoreboard *scoreboard);
void subscriptions_release(struct subscriptions *subscriptions);

/*
 * Returns the number of the topic with this name. Gives the topic a number if it has none. Returns -1 if
 * there is no room or no memory.
 */
int subscriptions_add(struct subscriptions *subscriptions, const char *name, size_t length, int64_t now_ms);

/* Removes a topic and frees its number. Wakes the topic's waiters, so that they ask again. */
void subscriptions_remove(struct subscriptions *subscriptions, int topic);

const char *subscriptions_name(const struct subscriptions *subscriptions, int topic);

/* Returns the topic's newest position in the message ring, or 0 if the ring does not have the topic. */
int64_t subscriptions_newest(const struct subscriptions *subscriptions, int topic);

/* Notes that the current connection LISTENs to the topic, on this channel. */
void subscriptions_set_channel(struct subscriptions *subscriptions, int topic, const char *channel);

/* Returns the topic that has this channel, or -1 if there is none. */
int subscriptions_find(const struct subscriptions *subscriptions, const char *channel);

/* Notes that the connection was lost, so that no topic is LISTENed to any more. */
void subscriptions_lose(struct subscriptions *subscriptions);

void subscriptions_have_news(struct subscriptions *subscriptions, int topic);
void subscriptions_forget_news(struct subscriptions *subscriptions);

/*
 * Returns how many milliseconds a topic is kept after its last poll. If so many topics are in use that room
 * may run out, the time is shorter.
 */
int64_t subscriptions_linger_ms(const struct subscriptions *subscriptions);

/* Notes that the topics of all waiting polls are being polled now. */
void subscriptions_mark_used(struct subscriptions *subscriptions, int64_t now_ms);

/* Whether the topic's last poll is so long ago that the topic can be removed. */
bool subscriptions_is_unused(const struct subscriptions *subscriptions, int topic, int64_t now_ms);

#endif
