#include "manager/notify_throttle.h"

#include "core/clock.h"

#include <stdlib.h>

enum {
    MUTED_LOOK_MS = 2,  /* time between two looks while publishers are muted */
    INTERVAL_MS = 20,   /* length of the interval in which messages are counted */
    BUSY_MESSAGES = 10, /* publishers are muted after this many messages in one interval: 500 a second */
    MAX_PAUSE_MS = 100, /* longest pause between two looks while unmuting */
    /*
     * How long the leader may take from a NOTIFY to the announcement of a batch: at least and at most, and so
     * many times as long as a look of this manager takes, since the leader may end another one before.
     */
    LEAD_MS = 50,
    MAX_LEAD_MS = 500,
    LEAD_LOOKS = 2,
    /* a follower looks this long after the leader's last announcement, in case a message has no position */
    CONFIRM_MS = 1000,
    DISTRUST_MS = 10000, /* NOTIFYs are not left to a leader for this long after it missed one */
    /*
     * during that time a follower looks after a random time below this, unless another manager has announced
     * a batch before
     */
    TURN_MS = 20
};

void notify_throttle_hear(struct notify_throttle *throttle)
{
    throttle->heard = true;
}

/* Returns how long a follower gives others to announce the batch that a NOTIFY asks for. */
static int64_t patience_ms(const struct notify_throttle *throttle, int64_t now_ms)
{
    return now_ms < throttle->distrust_ms ? random() % TURN_MS : clock_max(throttle->lead_ms, LEAD_MS);
}

void notify_throttle_take_notify(struct notify_throttle *throttle, int64_t now_ms)
{
    const bool is_first = throttle->follow_ms == 0 || throttle->confirmed; /* since the last batch */

    if (!throttle->follows)
        throttle->heard = true;
    else if (is_first)
        throttle->follow_ms = now_ms + patience_ms(throttle, now_ms);
    throttle->confirmed = false;
}

void notify_throttle_take_batch(struct notify_throttle *throttle, int64_t now_ms)
{
    if (throttle->follow_ms == 0)
        return;
    throttle->follow_ms = now_ms + CONFIRM_MS;
    throttle->confirmed = true;
}

int64_t notify_throttle_due_ms(const struct notify_throttle *throttle)
{
    const int64_t look_ms = throttle->muting ? throttle->look_ms : INT64_MAX;

    if (throttle->heard)
        return 0;
    return throttle->follow_ms ? clock_min(throttle->follow_ms, look_ms) : look_ms;
}

enum notify_throttle_action notify_throttle_look(struct notify_throttle *throttle, int64_t now_ms)
{
    throttle->heard = false;
    throttle->looked_ms = now_ms;
    if (throttle->follow_ms && now_ms >= throttle->follow_ms && !throttle->confirmed &&
        now_ms >= throttle->distrust_ms)
        throttle->distrust_ms = now_ms + DISTRUST_MS;
    throttle->follow_ms = 0;
    if (throttle->busy) {
        throttle->muting = true;
        throttle->pause_ms = 0;
        throttle->look_ms = now_ms + MUTED_LOOK_MS;
        if (throttle->muted_until_ms - now_ms > NOTIFY_THROTTLE_MUTE_MS / 2)
            return NOTIFY_THROTTLE_LEAVE;
        throttle->muted_until_ms = now_ms + NOTIFY_THROTTLE_MUTE_MS;
        return NOTIFY_THROTTLE_MUTE;
    }
    return throttle->muting && now_ms >= throttle->look_ms ? NOTIFY_THROTTLE_UNMUTE : NOTIFY_THROTTLE_LEAVE;
}

void notify_throttle_found(struct notify_throttle *throttle, enum notify_throttle_action action,
                           bool all_notify, int64_t messages, int64_t now_ms)
{
    throttle->messages += messages;
    throttle->lead_ms =
        clock_min(clock_max((now_ms - throttle->looked_ms) * LEAD_LOOKS, throttle->lead_ms / 2), MAX_LEAD_MS);
    if (throttle->messages >= BUSY_MESSAGES) {
        throttle->busy = true;
    } else if (now_ms - throttle->since_ms >= INTERVAL_MS) {
        throttle->busy = false;
    }
    if (now_ms - throttle->since_ms >= INTERVAL_MS) {
        throttle->since_ms = now_ms;
        throttle->messages = 0;
    }
    if (action != NOTIFY_THROTTLE_UNMUTE)
        return;
    throttle->muted_until_ms = 0;
    throttle->muting = !all_notify;
    /*
     * A publisher that was muted may still be committing, and nobody knows for how long. So the pause doubles
     * with each look.
     */
    throttle->pause_ms = throttle->pause_ms ? clock_min(throttle->pause_ms * 2, MAX_PAUSE_MS) : 1;
    throttle->look_ms = now_ms + throttle->pause_ms;
}
