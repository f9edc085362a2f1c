/*
 * The topics that a manager listens to, from their first poll until some time after their last. Part of the relay; beside the
 * names and numbers that it shares with the workers (topic_table.h) it knows their channels and which of them have news. Never
 * speaks to the database itself.
 */
#ifndef PGPOLL_SUBSCRIPTIONS_H
#define PGPOLL_SUBSCRIPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lh_table;
struct scoreboard;

enum { SUBSCRIPTIONS_CHANNEL_SIZE = 64 };

/* What is known of a topic's number. */
struct subscription {
    char channel[SUBSCRIPTIONS_CHANNEL_SIZE]; /* "" until it is LISTENed to */
    char *quoted;                             /* the name as a JSON string; NULL: the number is not in use */
    int64_t used_ms;                          /* when it was polled last */
    bool listening;                           /* on the present connection */
    bool open;                                /* in the message ring */
    bool news;                                /* and so in the list of those that have */
    bool fed;                                 /* messages of it were appended: its waiters are to be woken */
    int place;                                /* in the list of numbers in use */
    uint64_t cycle;                           /* the relay's last one that asks for its newest position */
    int newest_at;                            /* where, in that cycle's list */
};

struct subscriptions {
    struct scoreboard *scoreboard;
    struct subscription *by_number;
    int *used; /* the numbers in use */
    int used_count;
    int *news; /* those with news */
    int news_count;
    struct lh_table *channels; /* channel -> number + 1 */
};

/* scoreboard is borrowed. false: out of memory; release it all the same. */
bool subscriptions_init(struct subscriptions *subscriptions, struct scoreboard *scoreboard);
void subscriptions_release(struct subscriptions *subscriptions);

/* The topic's number, given now if it has none; -1: no room. */
int subscriptions_add(struct subscriptions *subscriptions, const char *name, size_t length, int64_t now_ms);

/* Takes the number back; who waits for it asks anew. */
void subscriptions_remove(struct subscriptions *subscriptions, int number);

const char *subscriptions_name(const struct subscriptions *subscriptions, int number);

/* The topic's newest position in the message ring; 0: it is not there. */
int64_t subscriptions_newest(const struct subscriptions *subscriptions, int number);

/* The topic is LISTENed to. */
void subscriptions_set_channel(struct subscriptions *subscriptions, int number, const char *channel);

/* The number of a channel's topic, -1: none. */
int subscriptions_find(const struct subscriptions *subscriptions, const char *channel);

/* None is LISTENed to any more: the connection was lost. */
void subscriptions_lose(struct subscriptions *subscriptions);

void subscriptions_have_news(struct subscriptions *subscriptions, int number);
void subscriptions_forget_news(struct subscriptions *subscriptions);

/* How long a topic is kept after its last poll: less when there are so many that the room may run out. */
int64_t subscriptions_linger_ms(const struct subscriptions *subscriptions);

/* Waiting polls use their topics all the time. */
void subscriptions_mark_used(struct subscriptions *subscriptions, int64_t now_ms);

/* Whether a topic has had no poll for so long that it need not be kept. */
bool subscriptions_is_unused(const struct subscriptions *subscriptions, int number, int64_t now_ms);

#endif
