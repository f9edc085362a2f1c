/*
 * Reads the manager's notifications: which topics have news, which positions were announced, whether
 * publishers have unnumbered messages, and whether LISTEN delivers at all. For the last, the statistics
 * writer sends a heartbeat, a NOTIFY, every 5 s, which must arrive here. Part of the relay, which creates,
 * drives and releases it.
 */
#ifndef PGPOLL_ANNOUNCEMENTS_H
#define PGPOLL_ANNOUNCEMENTS_H

#include "manager/subscriptions.h"

#include <stdbool.h>
#include <stdint.h>

struct database;
struct notify_throttle;
struct scoreboard;

/* scoreboard, subscriptions and throttle are borrowed and set by the owner; the rest begins as zero. */
struct announcements {
    struct scoreboard *scoreboard;
    struct subscriptions *subscriptions;
    struct notify_throttle *throttle;
    int64_t *positions; /* announced and not read yet */
    int count, capacity;
    int64_t last; /* the last position of the last batch announced; 0: none on this connection */
    char self_channel[SUBSCRIPTIONS_CHANNEL_SIZE]; /* the heartbeat's channel */
    int64_t heard_ms;                              /* when the last heartbeat arrived */
    bool is_deaf; /* LISTEN delivered nothing, and no heartbeat has arrived since; this was logged */
};

void announcements_release(struct announcements *announcements);

/*
 * Takes all notifications that the connection has received. Positions above complete_to, up to which the ring
 * has every message, are noted, and their topics are marked as having news.
 */
void announcements_take(struct announcements *announcements, struct database *database, int64_t complete_to);

/* Sorts the positions, for announcements_has(). */
void announcements_sort(struct announcements *announcements);

/* Whether this position was announced. */
bool announcements_has(const struct announcements *announcements, int64_t position);

/*
 * When a missing heartbeat proves that LISTEN delivers nothing; monotonic ms, INT64_MAX: no heartbeat is
 * missing.
 */
int64_t announcements_deaf_ms(const struct announcements *announcements);

/* Notes and logs that LISTEN delivers nothing; logs it once until a heartbeat arrives. */
void announcements_set_deaf(struct announcements *announcements);

/* Notes that the connection was closed. */
void announcements_lose(struct announcements *announcements);

#endif
