/*
 * Reads the notifications that the manager's connection receives. They tell whether positions were given that
 * the message ring does not have yet, and in which topics; whether publishers have messages without a
 * position; and whether LISTEN delivers at all. To find out the last, the statistics writer sends a
 * heartbeat, a NOTIFY, every 5 s, which must arrive here. Part of the relay, which creates and drives it.
 * Holds no resources.
 *
 * Anybody may send a notification, and any notification may be lost. So nothing here decides what is
 * delivered, or in which order. Announcements only say when to read.
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

/* scoreboard, subscriptions and throttle are borrowed and set by the owner. The rest begins as zero. */
struct announcements {
    struct scoreboard *scoreboard;
    struct subscriptions *subscriptions;
    struct notify_throttle *throttle;
    bool unread;       /* positions were announced that the relay has not read yet */
    int64_t unread_ms; /* when the first of these was announced */
    bool urgent;       /* some of these are in topics that polls wait for, or their topics are unknown */
    bool others;       /* some are in topics that nobody waits for here, or their topics are unknown */
    char self_channel[ANNOUNCEMENTS_CHANNEL_SIZE]; /* the channel of the heartbeat */
    int64_t heard_ms;                              /* when the last heartbeat arrived */
    bool is_deaf; /* LISTEN delivered nothing, and no heartbeat has arrived since; this was logged */
};

/*
 * Takes all notifications that the connection has received. Ignores announcements of positions up to
 * complete_to, because the ring has these. Topics that were announced and that polls ask for become wanted in
 * the subscriptions.
 */
void announcements_take(struct announcements *announcements, struct database *database, int64_t complete_to);

/*
 * Returns when to read what was announced, or INT64_MAX if nothing was. The time is 0, which means at once,
 * if polls wait for it. Otherwise it is a second after the first announcement, so that one read serves many
 * announcements.
 */
int64_t announcements_due_ms(const struct announcements *announcements);

/* Notes that everything announced so far was read. */
void announcements_clear(struct announcements *announcements);

/*
 * Returns when a missing heartbeat proves that LISTEN delivers nothing (monotonic ms), or INT64_MAX if no
 * heartbeat is missing.
 */
int64_t announcements_deaf_ms(const struct announcements *announcements);

/* Notes and logs that LISTEN delivers nothing. Logs it only once until a heartbeat arrives. */
void announcements_set_deaf(struct announcements *announcements);

/* Notes that the connection was closed. */
void announcements_lose(struct announcements *announcements);

#endif
