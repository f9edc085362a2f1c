#include "manager/notify_throttle.h"

#include "core/clock.h"

enum {
    LOOK_MS = 2, /* between looks while muted */
    INTERVAL_MS = 20,
    BUSY_MESSAGES = 10, /* in an interval: from 500 a second on */
    LAST_PAUSE_MS = 100
};

void doorbell_ring(struct notify_throttle *doorbell)
{
    doorbell->rung = true;
}

int64_t doorbell_due_ms(const struct notify_throttle *doorbell)
{
    return doorbell->rung ? 0 : doorbell->muting ? doorbell->look_ms : INT64_MAX;
}

enum doorbell_action doorbell_look(struct notify_throttle *doorbell, int64_t now_ms)
{
    doorbell->rung = false;
    if (doorbell->busy) {
        doorbell->muting = true;
        doorbell->pause_ms = 0;
        doorbell->look_ms = now_ms + LOOK_MS;
        if (doorbell->muted_until_ms - now_ms > NOTIFY_THROTTLE_MUTE_MS / 2)
            return NOTIFY_THROTTLE_LEAVE;
        doorbell->muted_until_ms = now_ms + NOTIFY_THROTTLE_MUTE_MS;
        return NOTIFY_THROTTLE_MUTE;
    }
    return doorbell->muting && now_ms >= doorbell->look_ms ? NOTIFY_THROTTLE_UNMUTE : NOTIFY_THROTTLE_LEAVE;
}

void doorbell_found(struct notify_throttle *doorbell, enum doorbell_action action, bool all_ring,
                    int64_t messages, int64_t now_ms)
{
    doorbell->messages += messages;
    if (doorbell->messages >= BUSY_MESSAGES) {
        doorbell->busy = true;
    } else if (now_ms - doorbell->since_ms >= INTERVAL_MS) {
        doorbell->busy = false;
    }
    if (now_ms - doorbell->since_ms >= INTERVAL_MS) {
        doorbell->since_ms = now_ms;
        doorbell->messages = 0;
    }
    if (action != NOTIFY_THROTTLE_UNMUTE)
        return;
    doorbell->muted_until_ms = 0;
    doorbell->muting = !all_ring;
    /* In a long commit it takes long: the delay is in proportion. */
    doorbell->pause_ms = doorbell->pause_ms ? clock_min(doorbell->pause_ms * 2, LAST_PAUSE_MS) : 1;
    doorbell->look_ms = now_ms + doorbell->pause_ms;
}
