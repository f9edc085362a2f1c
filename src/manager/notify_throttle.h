/*
 * Decides when the manager looks for messages that have no position yet, and when publishers send NOTIFY.
 * Normally each publishing transaction sends NOTIFY, and the manager looks when one arrives. While much is
 * published, NOTIFY would slow the publishers down. Then the manager mutes it and looks every 2 ms instead
 * (ARCHITECTURE.md, "The NOTIFY throttle"; sql/functions/ring_doorbell.sql). Part of the relay, which does
 * what this decides. Holds no resources.
 *
 * Of several managers one leads: it looks when a NOTIFY arrives. The others give it a moment to announce the
 * batch, and look only if it does not; then they do not rely on it for some seconds. They also look once
 * after its last announcement: it may have ended before it saw the message of the last NOTIFY.
 */
#ifndef PGPOLL_NOTIFY_THROTTLE_H
#define PGPOLL_NOTIFY_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

/* How long one mute lasts. If the manager dies, publishers stay muted for at most this time. */
enum { NOTIFY_THROTTLE_MUTE_MS = 200 };

enum notify_throttle_action {
    NOTIFY_THROTTLE_LEAVE, /* call nothing before the look */
    NOTIFY_THROTTLE_MUTE,  /* call pgpoll.mute_doorbell(NOTIFY_THROTTLE_MUTE_MS) before the look */
    NOTIFY_THROTTLE_UNMUTE /* call pgpoll.unmute_doorbell() before the look */
};

/*
 * At the beginning of a database session, the relay sets heard and muting, because the session before may
 * have muted publishers, and zeroes the rest. All times are monotonic ms.
 */
struct notify_throttle {
    bool heard;             /* look at once */
    bool follows;           /* another manager leads */
    int64_t follow_ms;      /* look then, because of a NOTIFY that was left to the leader; 0: there is none */
    bool confirmed;         /* a batch was announced since that NOTIFY */
    int64_t distrust_ms;    /* until then NOTIFYs are not left to the leader, which missed one */
    bool muting;            /* publishers are muted, or some may not know yet that they are not */
    int64_t muted_until_ms; /* the mute that was set last; 0: ended */
    int64_t look_ms;        /* while muting: the next look */
    int64_t pause_ms;       /* while unmuting: the last pause between looks */
    int64_t since_ms;       /* when the current interval for counting messages began */
    int64_t messages;       /* how many messages the looks have found in this interval */
    bool busy;              /* enough messages were found for publishers to be muted */
};

/* Notes that there may be messages without a position, so that the next look is due at once. */
void notify_throttle_hear(struct notify_throttle *throttle);

/* Notes that a publisher's NOTIFY has arrived, or the announcement of a batch. */
void notify_throttle_take_notify(struct notify_throttle *throttle, int64_t now_ms);
void notify_throttle_take_batch(struct notify_throttle *throttle, int64_t now_ms);

/* When to look next; INT64_MAX: only after a NOTIFY. */
int64_t notify_throttle_due_ms(const struct notify_throttle *throttle);

/* Begins a look. Returns which SQL function the relay must call before it. */
enum notify_throttle_action notify_throttle_look(struct notify_throttle *throttle, int64_t now_ms);

/*
 * Ends a look that found the given number of messages. action: what notify_throttle_look() returned for this
 * look. all_notify: the result of pgpoll.unmute_doorbell(), if action is NOTIFY_THROTTLE_UNMUTE.
 */
void notify_throttle_found(struct notify_throttle *throttle, enum notify_throttle_action action,
                           bool all_notify, int64_t messages, int64_t now_ms);

#endif
