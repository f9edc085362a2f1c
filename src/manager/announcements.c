#include "manager/announcements.h"

#include "core/clock.h"
#include "core/log.h"
#include "manager/notify_throttle.h"
#include "postgres/database.h"
#include "shared/latch.h"
#include "shared/scoreboard.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEAF_MS = 7500, /* if no heartbeat arrives for this long before the last one was sent, two are missing */
    DELIVERY_MS = 1000 /* how long the delivery of a heartbeat may take */
};

void announcements_release(struct announcements *announcements)
{
    free(announcements->positions);
    *announcements = (struct announcements){ 0 };
}

static void add_position(struct announcements *announcements, int64_t position)
{
    if (announcements->count == announcements->capacity) {
        int capacity = announcements->capacity ? announcements->capacity * 2 : 256;
        int64_t *positions = realloc(announcements->positions, (size_t)capacity * sizeof *positions);

        if (!positions)
            return; /* the next full read finds the message */
        announcements->positions = positions;
        announcements->capacity = capacity;
    }
    announcements->positions[announcements->count++] = position;
}

static void set_listen_works(struct announcements *announcements, bool works)
{
    if (atomic_exchange(&announcements->scoreboard->listen_works, works) != works)
        latch_wake_stats_writer(announcements->scoreboard);
}

static void take_notification(struct announcements *announcements, const PGnotify *notification,
                              int64_t complete_to)
{
    int64_t position = strtoll(notification->extra, NULL, 10);
    int topic;

    if (strcmp(notification->relname, announcements->self_channel) == 0) {
        announcements->heard_ms = clock_monotonic_ms();
        set_listen_works(announcements, true);
        if (announcements->is_deaf)
            log_write(LOG_LEVEL_INFO, "LISTEN delivers again");
        announcements->is_deaf = false;
    } else if (strcmp(notification->relname, "pgpoll") == 0) {
        if (*notification->extra)
            announcements->last = position;
        else
            notify_throttle_hear(announcements->throttle);
    } else if (position > complete_to) { /* a publisher's own NOTIFY carries no position: 0 */
        topic = subscriptions_find(announcements->subscriptions, notification->relname);
        if (topic >= 0) {
            subscriptions_have_news(announcements->subscriptions, topic);
            add_position(announcements, position);
        }
    }
}

int64_t announcements_deaf_ms(const struct announcements *announcements)
{
    const int64_t sent_ms = atomic_load(&announcements->scoreboard->heartbeat_ms);
    const int64_t since_ms = atomic_load(&announcements->scoreboard->heartbeats_since_ms);

    return sent_ms - clock_max(announcements->heard_ms, since_ms) < DEAF_MS ? INT64_MAX
                                                                            : sent_ms + DELIVERY_MS;
}

void announcements_take(struct announcements *announcements, struct database *database, int64_t complete_to)
{
    PGnotify *notification;

    while ((notification = database_notification(database))) {
        take_notification(announcements, notification, complete_to);
        PQfreemem(notification);
    }
}

static int compare_positions(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

void announcements_sort(struct announcements *announcements)
{
    if (announcements->count > 0)
        qsort(announcements->positions, (size_t)announcements->count, sizeof *announcements->positions,
              compare_positions);
}

bool announcements_has(const struct announcements *announcements, int64_t position)
{
    return announcements->count > 0 &&
           bsearch(&position, announcements->positions, (size_t)announcements->count,
                   sizeof *announcements->positions, compare_positions);
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
