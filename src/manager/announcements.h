/*
 * What NOTIFY told the manager: which topics have news, up to which position, and whether LISTEN delivers at all. Part of
 * the relay, which creates, releases and drives it.
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
    int64_t *positions; /* that notifications told of and that were not yet read */
    int count, capacity;
    int64_t last; /* the last position of the last batch announced; 0: none since the connection was made */
    char self_channel[SUBSCRIPTIONS_CHANNEL_SIZE]; /* of the manager's heartbeat */
    int64_t heard_ms;                              /* the last heartbeat */
    bool is_deaf; /* LISTEN was seen to deliver nothing, and has not delivered since; this was logged */
};

void announcements_release(struct announcements *announcements);

/*
 * Takes the notifications that the connection has received: notes positions above complete_to, up to which everything was
 * read, marks their topics as having news, tells the throttle of publishers' notifications and hears heartbeats.
 */
void announcements_take(struct announcements *announcements, struct database *database, int64_t complete_to);

/* Sorts the positions. Needed before announcements_told(). */
void announcements_sort(struct announcements *announcements);

/* Whether a notification has told of this position. */
bool announcements_told(const struct announcements *announcements, int64_t position);

/* When a missing heartbeat shows that LISTEN delivers nothing; monotonic ms, INT64_MAX: as far as is known, it delivers. */
int64_t announcements_deaf_ms(const struct announcements *announcements);

/* LISTEN delivers nothing. Logs that, once until it delivers again. */
void announcements_set_deaf(struct announcements *announcements);

/* The connection is closed. */
void announcements_lose(struct announcements *announcements);

#endif
