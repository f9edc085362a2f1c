/*
 * When the manager looks for messages that have no position yet: when a publisher rings, or by itself, with the latch muted, while
 * so much is published that ringing would slow the publishers down (sql/functions/ring_doorbell.sql says how that is safe).
 * Part of the relay, which does what this decides; holds no resources, asks nobody.
 */
#ifndef PGPOLL_NOTIFY_THROTTLE_H
#define PGPOLL_NOTIFY_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    NOTIFY_THROTTLE_MUTE_MS = 200
}; /* for so long at a time; after a manager's death publishers keep quiet no longer */

enum doorbell_action {
    NOTIFY_THROTTLE_LEAVE,
    NOTIFY_THROTTLE_MUTE,  /* call mute_doorbell(DOORBELL_MUTE_MS) before the look */
    NOTIFY_THROTTLE_UNMUTE /* call unmute_doorbell() before the look */
};

/* Zeroed: nobody has rung, not muted. */
struct notify_throttle {
    bool rung;
    bool muting;            /* or not yet sure that everybody rings again */
    int64_t muted_until_ms; /* monotonic, as all times here */
    int64_t look_ms;        /* while muting: when to look next */
    int64_t pause_ms;       /* between looks for publishers that kept quiet */
    int64_t since_ms;       /* when the count of messages began */
    int64_t messages;
    bool busy;
};

void doorbell_ring(struct notify_throttle *doorbell);

/* When to look; INT64_MAX: not before somebody rings. */
int64_t doorbell_due_ms(const struct notify_throttle *doorbell);

/* A look begins. */
enum doorbell_action doorbell_look(struct notify_throttle *doorbell, int64_t now_ms);

/* It found so many messages. all_ring: what unmute_doorbell() said, if it was called. */
void doorbell_found(struct notify_throttle *doorbell, enum doorbell_action action, bool all_ring,
                    int64_t messages, int64_t now_ms);

#endif
