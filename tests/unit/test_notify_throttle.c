#include "manager/notify_throttle.h"

#include "core/clock.h"
#include "expect.h"
#include "suites.h"

#include <stdlib.h>

/*
 * Makes a look for new messages, as the relay does. messages: how many messages the look finds. all_notify:
 * the result of pgpoll.unmute_doorbell().
 */
static enum notify_throttle_action look(struct notify_throttle *throttle, int64_t now_ms, int64_t messages,
                                        bool all_notify)
{
    enum notify_throttle_action action = notify_throttle_look(throttle, now_ms);

    notify_throttle_found(throttle, action, all_notify, messages, now_ms);
    return action;
}

static void looks_once_for_each_notify(void)
{
    struct notify_throttle throttle = { 0 };

    CU_ASSERT_EQUAL(notify_throttle_due_ms(&throttle), INT64_MAX);
    for (int64_t now_ms = 1000; now_ms < 3000; now_ms += 10) { /* 100 messages a second */
        notify_throttle_hear(&throttle);
        CU_ASSERT(notify_throttle_due_ms(&throttle) <= now_ms);
        CU_ASSERT_EQUAL(look(&throttle, now_ms, 1, false), NOTIFY_THROTTLE_LEAVE);
        CU_ASSERT_EQUAL(notify_throttle_due_ms(&throttle), INT64_MAX);
    }
}

/* Publishes until publishers are muted. Returns the time of the mute. */
static int64_t make_busy(struct notify_throttle *throttle)
{
    int64_t now_ms = 1000;

    for (int i = 0; i < 20; i++) {
        notify_throttle_hear(throttle);
        if (look(throttle, now_ms, 1, false) == NOTIFY_THROTTLE_MUTE)
            return now_ms;
        now_ms += i % 2;
    }
    CU_FAIL_FATAL("never muted");
    return 0;
}

static void mutes_while_much_is_published(void)
{
    struct notify_throttle throttle = { 0 };
    int64_t now_ms = make_busy(&throttle), muted_ms = now_ms;
    int mutes = 0;

    for (int64_t end_ms = now_ms + 1000; now_ms < end_ms;) {
        CU_ASSERT_FATAL(notify_throttle_due_ms(&throttle) <= now_ms + 5);
        now_ms = notify_throttle_due_ms(&throttle);
        if (look(&throttle, now_ms, 5, false) == NOTIFY_THROTTLE_MUTE) {
            mutes++;
            muted_ms = now_ms;
        }
        CU_ASSERT(now_ms < muted_ms + NOTIFY_THROTTLE_MUTE_MS);
    }
    CU_ASSERT(mutes <= 12);
}

static void unmutes_when_it_is_quiet_again(void)
{
    struct notify_throttle throttle = { 0 };
    int64_t now_ms = make_busy(&throttle);
    enum notify_throttle_action action = NOTIFY_THROTTLE_LEAVE;

    for (int i = 0; i < 100 && action != NOTIFY_THROTTLE_UNMUTE; i++) {
        now_ms = notify_throttle_due_ms(&throttle);
        action = look(&throttle, now_ms, 0, true);
    }
    CU_ASSERT_EQUAL(action, NOTIFY_THROTTLE_UNMUTE);
    CU_ASSERT_EQUAL(notify_throttle_due_ms(&throttle), INT64_MAX);
}

static void looks_again_for_muted_publishers(void)
{
    struct notify_throttle throttle = { 0 };
    int64_t now_ms = make_busy(&throttle), unmuted_ms = 0;

    while (now_ms < 3000) {
        int64_t due_ms = notify_throttle_due_ms(&throttle);

        CU_ASSERT_FATAL(due_ms < INT64_MAX);
        if (unmuted_ms) /* the pause is at most as long as unmuting has taken so far, and at most 100 ms */
            CU_ASSERT(due_ms - now_ms <= now_ms - unmuted_ms + 1 && due_ms - now_ms <= 100);
        now_ms = due_ms;
        if (look(&throttle, now_ms, 0, false) == NOTIFY_THROTTLE_UNMUTE && !unmuted_ms)
            unmuted_ms = now_ms;
    }
    CU_ASSERT_NOT_EQUAL(unmuted_ms, 0);
    while (notify_throttle_due_ms(&throttle) < INT64_MAX) {
        now_ms = notify_throttle_due_ms(&throttle);
        CU_ASSERT_EQUAL(look(&throttle, now_ms, 0, true), NOTIFY_THROTTLE_UNMUTE);
    }
}

/* At any time while a publisher may be muted, the next look is at most 100 ms away. */
static void keeps_looking_while_publishers_may_be_muted(void)
{
    struct notify_throttle throttle = { 0 };
    bool may_be_muted = false;
    int64_t now_ms = 0;

    srandom(7);
    for (int i = 0; i < 100000; i++) {
        bool all_notify = random() % 3 != 0;
        enum notify_throttle_action action;

        now_ms += random() % (random() % 50 == 0 ? 300 : 4);
        if (random() % 4 == 0)
            notify_throttle_hear(&throttle);
        if (notify_throttle_due_ms(&throttle) > now_ms && random() % 20)
            continue; /* some looks happen before they are due, as for questions */
        action = look(&throttle, now_ms, random() % 5 ? 0 : random() % 12, all_notify);
        if (action == NOTIFY_THROTTLE_MUTE)
            may_be_muted = true;
        if (action == NOTIFY_THROTTLE_UNMUTE && all_notify)
            may_be_muted = false;
        if (may_be_muted)
            CU_ASSERT_FATAL(notify_throttle_due_ms(&throttle) <= now_ms + 100);
    }
}

static void a_follower_leaves_a_notify_to_the_leader(void)
{
    struct notify_throttle throttle = { .follows = true };
    int64_t now_ms = 1000;

    for (int i = 0; i < 100; i++) { /* a batch is announced for each two */
        notify_throttle_take_notify(&throttle, now_ms++);
        notify_throttle_take_notify(&throttle, now_ms++);
        notify_throttle_take_batch(&throttle, now_ms++);
        EXPECT(notify_throttle_due_ms(&throttle) > now_ms, "looked after %d", i);
    }
    /* Whether the last batch had the last message is found out within a second or so. */
    EXPECT(notify_throttle_due_ms(&throttle) < now_ms + 1500, "due in %d ms",
           (int)(notify_throttle_due_ms(&throttle) - now_ms));
    now_ms = notify_throttle_due_ms(&throttle);
    CU_ASSERT_EQUAL(look(&throttle, now_ms, 0, false), NOTIFY_THROTTLE_LEAVE);
    CU_ASSERT_EQUAL(notify_throttle_due_ms(&throttle), INT64_MAX);
    /* The leader is still relied on. */
    notify_throttle_take_notify(&throttle, now_ms);
    CU_ASSERT(notify_throttle_due_ms(&throttle) > now_ms);
}

static void a_follower_looks_if_the_leader_does_not(void)
{
    struct notify_throttle throttle = { .follows = true };
    int64_t now_ms = 1000;

    /* More NOTIFYs do not postpone the look, and a batch before them does not count. */
    notify_throttle_take_batch(&throttle, now_ms);
    do
        notify_throttle_take_notify(&throttle, now_ms);
    while ((now_ms += 10) < notify_throttle_due_ms(&throttle) && now_ms < 5000);
    EXPECT(now_ms <= 1100, "looked after %d ms", (int)now_ms - 1000);
    (void)look(&throttle, now_ms, 1, false);
    /* For some seconds it looks soon. */
    notify_throttle_take_notify(&throttle, now_ms + 1000);
    CU_ASSERT(notify_throttle_due_ms(&throttle) <= now_ms + 1020);
    (void)look(&throttle, now_ms + 1020, 1, false);
    notify_throttle_take_notify(&throttle, now_ms + 60000);
    CU_ASSERT(notify_throttle_due_ms(&throttle) > now_ms + 60000);
}

/* The database is slow. Then the leader takes as long for its looks as this manager for its own. */
static void a_follower_gives_a_leader_longer_if_looks_take_long(void)
{
    static const int cases[][3] = { { 0, 50, 50 }, { 20, 50, 50 }, { 80, 100, 200 }, { 9000, 200, 500 } };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct notify_throttle throttle = { .follows = true };
        int64_t now_ms = 1000 * 1000, wait_ms;
        enum notify_throttle_action action = notify_throttle_look(&throttle, now_ms);

        now_ms += cases[i][0];
        notify_throttle_found(&throttle, action, false, 0, now_ms);
        notify_throttle_take_notify(&throttle, now_ms);
        wait_ms = notify_throttle_due_ms(&throttle) - now_ms;
        EXPECT(wait_ms >= cases[i][1] && wait_ms <= cases[i][2], "a look of %d ms: %d ms", cases[i][0],
               (int)wait_ms);
        for (int looks = 0; looks < 5; looks++) { /* the database is fast again */
            now_ms += 5000;
            (void)look(&throttle, now_ms, 0, false);
        }
        now_ms += 20000;
        notify_throttle_take_notify(&throttle, now_ms);
        CU_ASSERT_EQUAL(notify_throttle_due_ms(&throttle), now_ms + 50);
    }
}

/*
 * A leader was late once, as on a busy machine, or has stopped. Then each NOTIFY is looked for by a few
 * followers, not by all.
 */
static void one_follower_looks_for_the_others(void)
{
    enum { FOLLOWERS = 20, NOTIFIES = 20, ANNOUNCED_MS = 2, TURN_MS = 20 };
    struct notify_throttle followers[FOLLOWERS];
    int64_t now_ms = 1000;
    int looks = 0;

    for (int i = 0; i < FOLLOWERS; i++) {
        followers[i] = (struct notify_throttle){ .follows = true };
        notify_throttle_take_notify(&followers[i], now_ms);
        (void)look(&followers[i], now_ms + 60, 0, false);
    }
    for (int n = 0; n < NOTIFIES; n++) {
        int64_t announced_ms = INT64_MAX;

        now_ms += 100;
        for (int i = 0; i < FOLLOWERS; i++)
            notify_throttle_take_notify(&followers[i], now_ms);
        for (int64_t at_ms = now_ms; at_ms < now_ms + 100; at_ms++)
            for (int i = 0; i < FOLLOWERS; i++) {
                if (at_ms == announced_ms)
                    notify_throttle_take_batch(&followers[i], at_ms);
                if (at_ms < notify_throttle_due_ms(&followers[i]))
                    continue;
                (void)look(&followers[i], at_ms, 0, false);
                announced_ms = clock_min(announced_ms, at_ms + ANNOUNCED_MS);
                looks++;
            }
        EXPECT(announced_ms < now_ms + TURN_MS + ANNOUNCED_MS, "%d ms", (int)(announced_ms - now_ms));
    }
    EXPECT(looks < FOLLOWERS * NOTIFIES / 2, "%d looks", looks);
}

CU_TestInfo notify_throttle_tests[] = {
    { "looks once for each NOTIFY", looks_once_for_each_notify },
    { "mutes while much is published", mutes_while_much_is_published },
    { "unmutes when it is quiet again", unmutes_when_it_is_quiet_again },
    { "looks again for muted publishers", looks_again_for_muted_publishers },
    { "keeps looking while publishers may be muted", keeps_looking_while_publishers_may_be_muted },
    { "a follower leaves a NOTIFY to the leader", a_follower_leaves_a_notify_to_the_leader },
    { "a follower looks if the leader does not", a_follower_looks_if_the_leader_does_not },
    { "a follower gives a leader longer if looks take long",
      a_follower_gives_a_leader_longer_if_looks_take_long },
    { "one follower looks for the others", one_follower_looks_for_the_others },
    CU_TEST_INFO_NULL
};
