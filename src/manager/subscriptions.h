/*
 * The topics that this host's polls ask for, from their first poll until some time after their last. It gives
 * each topic its number in the topic table, which the workers share (topic_table.h), opens and closes it in
 * the message ring, and finds it by its hash in announcements. Part of the relay, which creates and releases
 * it. Sends no queries itself.
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
    char *quoted;    /* the name as a JSON string; NULL: not needed yet */
    int64_t used_ms; /* when it was last polled */
    uint64_t cycle;  /* the relay's last cycle that asks for its newest position */
    uint32_t hash;   /* its hash in announcements, once it is open */
    int next_hashed; /* the next open topic in the same list of subscriptions.hashed; -1: none */
    int used_index;  /* its index in the list of used topics */
    int newest_at;   /* its index in the list of the cycle that asks for its newest position */
    bool used;       /* the number is a topic's */
    bool open;       /* the message ring has it */
    bool wanted;     /* in the list of wanted topics */
    bool wake;       /* got messages: the relay wakes its waiters */
};

struct subscriptions {
    struct scoreboard *scoreboard;
    struct subscription *by_topic;
    int *used; /* numbers of the topics in use */
    int used_count;
    int wanted[SUBSCRIPTIONS_MAX_WANTED]; /* topics whose messages the next read is to return */
    int wanted_count;
    int *hashed; /* by the lower bits of the hash: the first open topic; -1: none */
    uint32_t hash_mask;
};

/* scoreboard is borrowed. Returns false if out of memory; call subscriptions_release() even then. */
bool subscriptions_init(struct subscriptions *subscriptions, struct scoreboard *scoreboard);
void subscriptions_release(struct subscriptions *subscriptions);

/*
 * Returns the number of the topic with this name, and gives it one if it has none. If all numbers are taken,
 * topics are removed that no poll waits for and that were not asked about in this cycle of the relay.
 */
int subscriptions_add(struct subscriptions *subscriptions, const char *name, size_t length, int64_t now_ms,
                      uint64_t cycle);

/* The number of the open topic with this name; -1: there is none. */
int subscriptions_find(const struct subscriptions *subscriptions, const char *name, size_t length);

/* Opens a topic: the message ring has all of it after this position. hash: its hash in announcements. */
void subscriptions_open(struct subscriptions *subscriptions, int topic, int64_t newest, uint32_t hash);

/* Closes all topics. Their waiters are woken, and ask again. */
void subscriptions_close(struct subscriptions *subscriptions);

/* An open topic's newest position in the message ring. */
int64_t subscriptions_newest(const struct subscriptions *subscriptions, int topic);

/* Makes sure that the topic's name is there as a JSON string. false: out of memory. */
bool subscriptions_quote(struct subscriptions *subscriptions, int topic, const char *name, size_t length);

/* Adds a topic to the list of wanted ones, if there is room. */
void subscriptions_want(struct subscriptions *subscriptions, int topic);

/* The same for each open topic with this hash. Returns whether there is one. */
bool subscriptions_want_hash(struct subscriptions *subscriptions, uint32_t hash);

void subscriptions_want_none(struct subscriptions *subscriptions);

/* How long a topic is kept after its last poll; less if most numbers are used. */
int64_t subscriptions_linger_ms(const struct subscriptions *subscriptions);

/*
 * Removes the topics whose last poll is longer ago than this, except those that the relay asks about in this
 * cycle. A worker that is about to wait for one is woken, and asks again.
 */
void subscriptions_sweep(struct subscriptions *subscriptions, int64_t now_ms, int64_t linger_ms,
                         uint64_t cycle);

#endif
