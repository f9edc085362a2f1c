/*
 * Decides when the manager looks for messages that have no position yet, and when publishers send NOTIFY.
 * Normally each publishing transaction sends NOTIFY, and the manager looks when a NOTIFY arrives. While much
 * is published, NOTIFY would slow the publishers down. Then the manager mutes them, so that they send no
 * NOTIFY, and looks every 2 ms instead (ARCHITECTURE.md, "The NOTIFY throttle";
 * sql/functions/ring_doorbell.sql). This module only decides; the relay, which it is a part of, calls the SQL
 * functions. Holds no resources.
 *
 * Of several managers one leads: it looks when a NOTIFY arrives. The others, which follow, give the leader a
 * moment to announce the batch, longer if their own looks take long, and look only if it does not. If it did
 * not, they do not rely on the leader for some seconds: they look after random times, and the announcement of
 * the first one spares the others. Followers also look once after the leader's last announcement, because the
 * leader may have ended before it saw the message of the last NOTIFY.
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
 * have muted publishers; sets follows, because this session does not lead yet; and zeroes the rest. All times
 * are monotonic ms.
 */
struct notify_throttle {
    bool heard;   /* the next look is due at once */
    bool follows; /* another manager leads */
    /* when to look because of a NOTIFY that was left to the leader; 0: there is no such NOTIFY */
    int64_t follow_ms;
    bool confirmed;      /* a batch was announced after that NOTIFY */
    int64_t distrust_ms; /* until this time the leader is given little time, because it missed a NOTIFY */
    int64_t looked_ms;   /* when the last look began */
    int64_t lead_ms;     /* how long the leader is given, if that is more than the least: see LEAD_MS */
    bool muting;         /* publishers are muted, or some may not have noticed yet that the mute has ended */
    int64_t muted_until_ms; /* when the last mute ends by itself; 0: pgpoll.unmute_doorbell() has ended it */
    int64_t look_ms;        /* while muting is set: when to look next */
    int64_t pause_ms;       /* the current pause between two looks while unmuting; 0: no such pause yet */
    int64_t since_ms;       /* when the current interval for counting messages began */
    int64_t messages;       /* how many messages the looks have found in this interval */
    bool busy;              /* enough messages were found for publishers to be muted */
};

/* Notes that there may be messages without a position. The next look is then due at once. */
void notify_throttle_hear(struct notify_throttle *throttle);

/* Note that a publisher's NOTIFY, or the announcement of a batch, has arrived. */
void notify_throttle_take_notify(struct notify_throttle *throttle, int64_t now_ms);
void notify_throttle_take_batch(struct notify_throttle *throttle, int64_t now_ms);

/* Returns when to look next, or INT64_MAX if no look is due before a NOTIFY arrives. */
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
