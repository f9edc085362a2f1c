#include "manager/announcements.h"

#include "core/clock.h"
#include "core/log.h"
#include "manager/notify_throttle.h"
#include "manager/subscriptions.h"
#include "postgres/database.h"
#include "shared/latch.h"
#include "shared/scoreboard.h"

#include <stdlib.h>
#include <string.h>

enum {
    LAZY_MS = 1000, /* announced messages that nobody waits for are read after this time */
    HASH_DIGITS = 8,
    DEAF_MS = 7500,    /* if no heartbeat has arrived for this long when one is sent, two are missing */
    DELIVERY_MS = 1000 /* how long the delivery of a heartbeat may take */
};

static void set_listen_works(struct announcements *announcements, bool works)
{
    if (atomic_exchange(&announcements->scoreboard->listen_works, works) == works)
        return;
    latch_wake_stats_writer(announcements->scoreboard);
    if (works)
        notify_throttle_hear(announcements->throttle); /* workers rely on the manager from a look on */
}

/* Reads the hash at the beginning of digits. Returns false if there is none. */
static bool read_hash(const char *digits, uint32_t *hash)
{
    *hash = 0;
    for (int i = 0; i < HASH_DIGITS; i++) {
        const char digit = digits[i];

        if (digit >= '0' && digit <= '9')
            *hash = *hash << 4 | (uint32_t)(digit - '0');
        else if (digit >= 'a' && digit <= 'f')
            *hash = *hash << 4 | (uint32_t)(digit - 'a' + 10);
        else
            return false;
    }
    return true;
}

/*
 * Takes the announcement of a batch. payload: the batch's last position, a space, and the hashes of its
 * topics or "*" (sql/functions/assign_batch.sql).
 */
static void take_batch(struct announcements *announcements, const char *payload, int64_t complete_to)
{
    char *rest;
    uint32_t hash;

    notify_throttle_take_batch(announcements->throttle, clock_monotonic_ms());
    if (strtoll(payload, &rest, 10) <= complete_to)
        return;
    if (!announcements->unread)
        announcements->unread_ms = clock_monotonic_ms();
    announcements->unread = true;
    for (rest += *rest == ' '; read_hash(rest, &hash); rest += HASH_DIGITS)
        if (subscriptions_want_hash(announcements->subscriptions, hash))
            announcements->urgent = true;
        else
            announcements->others = true;
    if (*rest)
        announcements->urgent = announcements->others = true;
}

static void take_notification(struct announcements *announcements, const PGnotify *notification,
                              int64_t complete_to)
{
    if (strcmp(notification->relname, announcements->self_channel) == 0) {
        announcements->heard_ms = clock_monotonic_ms();
        set_listen_works(announcements, true);
        if (announcements->is_deaf)
            log_write(LOG_LEVEL_INFO, "LISTEN delivers again");
        announcements->is_deaf = false;
    } else if (*notification->extra) {
        take_batch(announcements, notification->extra, complete_to);
    } else {
        notify_throttle_take_notify(announcements->throttle, clock_monotonic_ms());
    }
}

int64_t announcements_due_ms(const struct announcements *announcements)
{
    return announcements->urgent ? 0 : announcements->unread ? announcements->unread_ms + LAZY_MS : INT64_MAX;
}

void announcements_clear(struct announcements *announcements)
{
    announcements->unread = announcements->urgent = announcements->others = false;
    subscriptions_want_none(announcements->subscriptions);
}

int64_t announcements_deaf_ms(const struct announcements *announcements)
{
    const int64_t sent_ms = atomic_load(&announcements->scoreboard->heartbeat_ms);
    const int64_t silent_since_ms =
        clock_max(announcements->heard_ms, atomic_load(&announcements->scoreboard->heartbeats_since_ms));

    if (sent_ms - silent_since_ms < DEAF_MS)
        return INT64_MAX; /* one heartbeat is missing at most: the one that was sent last */
    return sent_ms + DELIVERY_MS;
}

void announcements_take(struct announcements *announcements, struct database *database, int64_t complete_to)
{
    PGnotify *notification;

    while ((notification = database_notification(database))) {
        take_notification(announcements, notification, complete_to);
        PQfreemem(notification);
    }
}

void announcements_lose(struct announcements *announcements)
{
    set_listen_works(announcements, false);
}

void announcements_set_deaf(struct announcements *announcements)
{
    if (!announcements->is_deaf)
        log_write(LOG_LEVEL_ERROR,
                  "LISTEN delivers nothing: is there a pooler in transaction mode in between?");
    announcements->is_deaf = true;
}
