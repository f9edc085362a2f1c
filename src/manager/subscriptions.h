/*
 * The topics that this host's polls ask for: each from its first poll until some time after its last one.
 * This module gives each topic its number in the topic table, which the workers share (topic_table.h), opens
 * and closes the topic in the message ring, and finds it by its hash in announcements. Part of the relay,
 * which creates and releases it. Sends no queries itself.
 *
 * In all parameters, topic is a topic's number.
 */
#ifndef PGPOLL_SUBSCRIPTIONS_H
#define PGPOLL_SUBSCRIPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct scoreboard;

enum { SUBSCRIPTIONS_MAX_WANTED = 1000 };

/* What is known about one topic. */
struct subscription {
    char *quoted;    /* the topic's name as a JSON string; NULL: it has not been needed yet */
    int64_t used_ms; /* when the topic was last polled */
    uint64_t cycle;  /* number of the last cycle in which the relay asks for the topic's newest position */
    uint32_t hash;   /* the topic's hash in announcements; set when the topic is opened */
    int next_hashed; /* the next open topic in the same list of subscriptions.hashed; -1: none */
    int used_index;  /* the topic's index in the list of used topics */
    int newest_at;   /* the topic's index in the list of topics that this cycle asks about */
    bool used;       /* a topic has this number */
    bool open;       /* the message ring has the topic: see ring_open() */
    bool wanted;     /* the number is in the list of wanted topics */
    bool wake;       /* the topic got messages, so the relay must wake its waiters */
};

struct subscriptions {
    struct scoreboard *scoreboard;
    struct subscription *by_topic;
    int *used; /* numbers of the topics in use */
    int used_count;
    /* The current search for unused topics looks at all workers first, and then at all topics in use. */
    int mark_next;    /* the next worker that it looks at; 0 if it has looked at all */
    int sweep_left;   /* at how many of used it has not looked yet */
    int64_t sweep_ms; /* when it began */
    /* topics whose messages the next read is to return with their payloads */
    int wanted[SUBSCRIPTIONS_MAX_WANTED];
    int wanted_count;
    int *hashed; /* by the lower bits of a hash: the first open topic; -1: none */
    uint32_t hash_mask;
};

/* scoreboard is borrowed. Returns false if out of memory; call subscriptions_release() even then. */
bool subscriptions_init(struct subscriptions *subscriptions, struct scoreboard *scoreboard);
void subscriptions_release(struct subscriptions *subscriptions);

/*
 * Returns the number of the topic with this name. Gives the topic a number if it has none. If all numbers are
 * taken, first removes topics that no poll waits for and that were not asked about in this cycle of the
 * relay. Returns -1 if there is no room even then.
 */
int subscriptions_add(struct subscriptions *subscriptions, const char *name, size_t length, int64_t now_ms,
                      uint64_t cycle);

/* Returns the number of the open topic with this name, or -1 if there is none. */
int subscriptions_find(const struct subscriptions *subscriptions, const char *name, size_t length);

/*
 * Opens a topic: the message ring will have all its messages after newest. hash: the topic's hash in
 * announcements.
 */
void subscriptions_open(struct subscriptions *subscriptions, int topic, int64_t newest, uint32_t hash);

/* Closes all topics. Wakes their waiters, so that they ask again. */
void subscriptions_close(struct subscriptions *subscriptions);

/* Returns an open topic's newest position in the message ring. */
int64_t subscriptions_newest(const struct subscriptions *subscriptions, int topic);

/* Makes the topic's name available as a JSON string. Returns false if out of memory. */
bool subscriptions_quote(struct subscriptions *subscriptions, int topic, const char *name, size_t length);

/* Adds a topic to the list of wanted topics, if there is room. */
void subscriptions_want(struct subscriptions *subscriptions, int topic);

/*
 * Adds each open topic with this hash to the list of wanted topics, if there is room. Returns whether there
 * is such a topic.
 */
bool subscriptions_want_hash(struct subscriptions *subscriptions, uint32_t hash);

void subscriptions_want_none(struct subscriptions *subscriptions);

/*
 * Returns how many milliseconds a topic is kept after its last poll. The time is shorter if most numbers are
 * taken.
 */
int64_t subscriptions_linger_ms(const struct subscriptions *subscriptions);

/*
 * Searches for topics whose last poll was more than linger_ms ago, and removes them, except those that the
 * relay asks about in this cycle. Wakes workers that are about to wait for a removed topic, so that they ask
 * again. One call does a part of the search, so that messages do not wait for all of it. Returns whether the
 * search has ended; if not, the next call goes on.
 */
bool subscriptions_sweep(struct subscriptions *subscriptions, int64_t now_ms, int64_t linger_ms,
                         uint64_t cycle);

#endif
