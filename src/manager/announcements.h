/*
 * Reads the manager's notifications: whether positions were given that the message ring does not have yet, in
 * which topics, whether publishers have unnumbered messages, and whether LISTEN delivers at all. For the
 * last, the statistics writer sends a heartbeat, a NOTIFY, every 5 s, which must arrive here. Part of the
 * relay, which creates and drives it. Holds no resources.
 *
 * Anybody may send a notification, and any may be lost. So nothing here decides what is delivered, or in
 * which order: it only says when to read.
 */
#ifndef PGPOLL_ANNOUNCEMENTS_H
#define PGPOLL_ANNOUNCEMENTS_H

#include <stdbool.h>
#include <stdint.h>

struct database;
struct notify_throttle;
struct scoreboard;
struct subscriptions;

enum { ANNOUNCEMENTS_CHANNEL_SIZE = 64 };

/* scoreboard, subscriptions and throttle are borrowed and set by the owner; the rest begins as zero. */
struct announcements {
    struct scoreboard *scoreboard;
    struct subscriptions *subscriptions;
    struct notify_throttle *throttle;
    bool unread;       /* positions were given that have not been read */
    int64_t unread_ms; /* when the first of them was announced */
    bool urgent;       /* some of them are of topics that polls wait for, or that is unknown */
    char self_channel[ANNOUNCEMENTS_CHANNEL_SIZE]; /* the heartbeat's channel */
    int64_t heard_ms;                              /* when the last heartbeat arrived */
    bool is_deaf; /* LISTEN delivered nothing, and no heartbeat has arrived since; this was logged */
};

/*
 * Takes all notifications that the connection has received. Those of positions up to complete_to, which the
 * ring has, are ignored. Topics that polls ask for become wanted in the subscriptions.
 */
void announcements_take(struct announcements *announcements, struct database *database, int64_t complete_to);

/*
 * When to read what was announced; 0: at once; INT64_MAX: there is nothing. If nobody waits for it, it is
 * read with what others come within a second.
 */
int64_t announcements_due_ms(const struct announcements *announcements);

/* Notes that everything announced so far was read. */
void announcements_clear(struct announcements *announcements);

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
