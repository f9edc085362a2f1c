#include "manager/notify_throttle.h"

#include "expect.h"
#include "suites.h"

#include <stdlib.h>

/* What the relay does: looks when it is due, and tells what it found. all_ring: what the database would say. */
static enum doorbell_action look(struct notify_throttle *doorbell, int64_t now_ms, int64_t messages,
                                 bool all_ring)
{
    enum doorbell_action action = doorbell_look(doorbell, now_ms);

    doorbell_found(doorbell, action, all_ring, messages, now_ms);
    return action;
}

static void looks_once_for_each_ring(void)
{
    struct notify_throttle doorbell = { 0 };

    CU_ASSERT_EQUAL(doorbell_due_ms(&doorbell), INT64_MAX);
    for (int64_t now_ms = 1000; now_ms < 3000; now_ms += 10) { /* 100 a second */
        doorbell_ring(&doorbell);
        CU_ASSERT(doorbell_due_ms(&doorbell) <= now_ms);
        CU_ASSERT_EQUAL(look(&doorbell, now_ms, 1, false), NOTIFY_THROTTLE_LEAVE);
        CU_ASSERT_EQUAL(doorbell_due_ms(&doorbell), INT64_MAX);
    }
}

/* Brings it to the point where it mutes. Returns when that is. */
static int64_t make_busy(struct notify_throttle *doorbell)
{
    int64_t now_ms = 1000;

    for (int i = 0; i < 20; i++) {
        doorbell_ring(doorbell);
        if (look(doorbell, now_ms, 1, false) == NOTIFY_THROTTLE_MUTE)
            return now_ms;
        now_ms += i % 2;
    }
    CU_FAIL_FATAL("never muted");
    return 0;
}

static void mutes_while_much_is_published(void)
{
    struct notify_throttle doorbell = { 0 };
    int64_t now_ms = make_busy(&doorbell), muted_ms = now_ms;
    int mutes = 0;

    for (int64_t end_ms = now_ms + 1000; now_ms < end_ms;) {
        CU_ASSERT_FATAL(doorbell_due_ms(&doorbell) <= now_ms + 5);
        now_ms = doorbell_due_ms(&doorbell);
        if (look(&doorbell, now_ms, 5, false) == NOTIFY_THROTTLE_MUTE) {
            mutes++;
            muted_ms = now_ms;
        }
        CU_ASSERT(now_ms < muted_ms + NOTIFY_THROTTLE_MUTE_MS);
    }
    CU_ASSERT(mutes <= 12);
}

static void unmutes_when_it_is_quiet_again(void)
{
    struct notify_throttle doorbell = { 0 };
    int64_t now_ms = make_busy(&doorbell);
    enum doorbell_action action = NOTIFY_THROTTLE_LEAVE;

    for (int i = 0; i < 100 && action != NOTIFY_THROTTLE_UNMUTE; i++) {
        now_ms = doorbell_due_ms(&doorbell);
        action = look(&doorbell, now_ms, 0, true);
    }
    CU_ASSERT_EQUAL(action, NOTIFY_THROTTLE_UNMUTE);
    CU_ASSERT_EQUAL(doorbell_due_ms(&doorbell), INT64_MAX);
}

static void looks_again_for_who_kept_quiet(void)
{
    struct notify_throttle doorbell = { 0 };
    int64_t now_ms = make_busy(&doorbell), unmuted_ms = 0;

    while (now_ms < 3000) {
        int64_t due_ms = doorbell_due_ms(&doorbell);

        CU_ASSERT_FATAL(due_ms < INT64_MAX);
        if (unmuted_ms) /* no later than it has taken already, and never long */
            CU_ASSERT(due_ms - now_ms <= now_ms - unmuted_ms + 1 && due_ms - now_ms <= 100);
        now_ms = due_ms;
        if (look(&doorbell, now_ms, 0, false) == NOTIFY_THROTTLE_UNMUTE && !unmuted_ms)
            unmuted_ms = now_ms;
    }
    CU_ASSERT_NOT_EQUAL(unmuted_ms, 0);
    while (doorbell_due_ms(&doorbell) < INT64_MAX) {
        now_ms = doorbell_due_ms(&doorbell);
        CU_ASSERT_EQUAL(look(&doorbell, now_ms, 0, true), NOTIFY_THROTTLE_UNMUTE);
    }
}

/* Whatever happens: while a publisher may keep quiet, a look is due soon. */
static void never_sleeps_while_publishers_may_be_quiet(void)
{
    struct notify_throttle doorbell = { 0 };
    bool may_be_quiet = false;
    int64_t now_ms = 0;

    srandom(7);
    for (int i = 0; i < 100000; i++) {
        bool all_ring = random() % 3 != 0;
        enum doorbell_action action;

        now_ms += random() % (random() % 50 == 0 ? 300 : 4);
        if (random() % 4 == 0)
            doorbell_ring(&doorbell);
        if (doorbell_due_ms(&doorbell) > now_ms && random() % 20)
            continue; /* some looks have other reasons */
        action = look(&doorbell, now_ms, random() % 5 ? 0 : random() % 12, all_ring);
        if (action == NOTIFY_THROTTLE_MUTE)
            may_be_quiet = true;
        if (action == NOTIFY_THROTTLE_UNMUTE && all_ring)
            may_be_quiet = false;
        if (may_be_quiet)
            CU_ASSERT_FATAL(doorbell_due_ms(&doorbell) <= now_ms + 100);
    }
}

CU_TestInfo doorbell_tests[] = { { "looks once for each ring", looks_once_for_each_ring },
                                 { "mutes while much is published", mutes_while_much_is_published },
                                 { "unmutes when it is quiet again", unmutes_when_it_is_quiet_again },
                                 { "looks again for who kept quiet", looks_again_for_who_kept_quiet },
                                 { "never sleeps while publishers may be quiet",
                                   never_sleeps_while_publishers_may_be_quiet },
                                 CU_TEST_INFO_NULL };
