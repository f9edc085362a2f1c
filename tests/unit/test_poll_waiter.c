/* Tests a poll waiter with scripts (fake_poll.h). The tests advance the clock and do not sleep. */
#include "worker/poll_waiter.h"

#include "api/cursor.h"
#include "core/clock.h"
#include "expect.h"
#include "fake_poll.h"
#include "suites.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define AUTHORIZES .call = FAKE_READ, .how = SOURCE_AUTHORIZE
#define SUBSCRIBES .call = FAKE_READ, .how = SOURCE_SUBSCRIBE
#define READS .call = FAKE_READ, .how = SOURCE_READ_ONLY
#define BEGINS .call = FAKE_BEGIN
#define WAITS .call = FAKE_WAIT
#define BEATS .call = FAKE_HEARTBEAT

/* The first part of a wait, before the head is sent. */
#define QUIETLY_WAITS WAITS, .error = ERROR_TIMEOUT

/* Results of a read: nothing after position 5 yet, or message 6. */
#define NOTHING .topics = { { .start = 5, .oldest = -1 } }
#define MESSAGE NOTHING, .messages = { { 0, 6 } }

#define BODY "{\"topics\":[\"a\"],\"timeout\":10}"
#define SINCE_5 "{\"topics\":[\"a\"],\"timeout\":10,\"since\":{\"a\":" ID(5) "}}"
#define LAST_50 "{\"topics\":[\"a\"],\"timeout\":10,\"since\":{\"a\":\"-50\"}}"
#define SINCE_5_AT_ONCE "{\"topics\":[\"a\"],\"timeout\":0,\"since\":{\"a\":" ID(5) "}}"

/*
 * Expects that the poll ended with error and this number of messages. next is the cursor of its only topic
 * (NULL: the poll has no answer).
 */
static void expect_end(struct fake_poll *poll, enum error error, int messages, const char *next)
{
    char next_since[80];

    EXPECT(poll->error == error, "%s instead of %s", error_name(poll->error), error_name(error));
    EXPECT(poll->waiter.page.message_count == messages, "%d messages", poll->waiter.page.message_count);
    if (next) {
        (void)snprintf(next_since, sizeof next_since, "{\"a\":%s}", next);
        EXPECT_ANSWER(poll, "next_since", next_since);
    }
}

/* Is the body of a test that consists of a script and the expected result. */
#define PLAY(body, script, error, messages, next)                                                            \
    do {                                                                                                     \
        struct fake_poll played;                                                                             \
        fake_poll_init(&played, body);                                                                       \
        FAKE_POLL_RUN(&played, script);                                                                      \
        expect_end(&played, error, messages, next);                                                          \
        fake_poll_release(&played);                                                                          \
    } while (0)

/* ---- without a wait */

static void a_message_at_hand_is_answered_at_once(void)
{
    static const struct fake_step script[] = { { AUTHORIZES, MESSAGE } };

    PLAY(SINCE_5, script, ERROR_NONE, 1, ID(6));
}

static void timeout_0_never_waits(void)
{
    static const struct fake_step script[] = { { AUTHORIZES, NOTHING } };

    PLAY("{\"topics\":[\"a\"],\"timeout\":0}", script, ERROR_TIMEOUT, 0, ID(5));
}

static void a_message_while_subscribing_is_answered_whole(void)
{
    static const struct fake_step script[] = { { AUTHORIZES, NOTHING }, { SUBSCRIBES, MESSAGE } };

    PLAY(BODY, script, ERROR_NONE, 1, ID(6));
}

static void errors_not_worth_a_retry_end_the_poll(void)
{
    static const enum error errors[] = { ERROR_DENIED, ERROR_DATABASE_QUERY };

    for (size_t i = 0; i < COUNT(errors); i++) {
        const struct fake_step script[] = { { AUTHORIZES, .error = errors[i] } };
        PLAY(BODY, script, errors[i], 0, NULL);
    }
}

/* ---- waiting */

static void waits_then_delivers(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },    { SUBSCRIBES, NOTHING }, { QUIETLY_WAITS }, { BEGINS },
        { WAITS, .takes_ms = 100 }, { READS, MESSAGE },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    CU_ASSERT_TRUE(poll.waiter.began_wait);
    /*
     * "From now" is asked for only once. Later reads start at the position that the first read returned, so
     * that no message in between is missed.
     */
    CU_ASSERT_EQUAL(poll.calls[0].positions[0], CATCH_UP_FROM_NOW);
    CU_ASSERT_EQUAL(poll.calls[1].positions[0], 5);
    CU_ASSERT_EQUAL(poll.calls[5].positions[0], 5);
    fake_poll_release(&poll);
}

static void news_at_once_are_answered_whole(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING }, { SUBSCRIBES, NOTHING },   { WAITS, .takes_ms = 20 },
        { READS, NOTHING },      { WAITS, .takes_ms = 20 }, { READS, MESSAGE },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    CU_ASSERT_FALSE(poll.waiter.began_wait);
    EXPECT(poll.calls[2].left_ms <= 500, "a client that leaves is not noticed for %" PRId64 " ms",
           poll.calls[2].left_ms);
    fake_poll_release(&poll);
}

static void a_wake_without_messages_goes_on_waiting(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },    { SUBSCRIBES, NOTHING }, { QUIETLY_WAITS },          { BEGINS },
        { WAITS, .takes_ms = 100 }, { READS, NOTHING },      { WAITS, .takes_ms = 100 }, { READS, MESSAGE },
    };

    PLAY(BODY, script, ERROR_NONE, 1, ID(6));
}

static void the_timeout_reads_once_more(void)
{
    static const struct fake_step empty[] = {
        { AUTHORIZES, NOTHING },           { SUBSCRIBES, NOTHING }, { QUIETLY_WAITS }, { BEGINS },
        { WAITS, .error = ERROR_TIMEOUT }, { SUBSCRIBES, NOTHING },
    };
    static const struct fake_step late[] = {
        { AUTHORIZES, NOTHING },           { SUBSCRIBES, NOTHING }, { QUIETLY_WAITS }, { BEGINS },
        { WAITS, .error = ERROR_TIMEOUT }, { SUBSCRIBES, MESSAGE },
    };
    struct fake_poll poll;

    PLAY(BODY, late, ERROR_NONE, 1, ID(6));
    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, empty);
    expect_end(&poll, ERROR_TIMEOUT, 0, ID(5));
    EXPECT(poll.calls[4].left_ms > 9000 && poll.calls[4].left_ms <= 10000, "waited %" PRId64 " ms",
           poll.calls[4].left_ms);
    fake_poll_release(&poll);
}

static void a_lost_notification_only_delays(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS, .error = ERROR_TIMEOUT },
        { SUBSCRIBES, NOTHING },
        { WAITS, .error = ERROR_TIMEOUT },
        { SUBSCRIBES, MESSAGE },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY);
    poll.config.reread_s = 3;
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    EXPECT(poll.calls[4].left_ms <= 3000 && poll.calls[6].left_ms <= 3000, "waited longer than reread_s");
    fake_poll_release(&poll);
}

static void a_client_that_left_ends_the_poll(void)
{
    static const struct fake_step at_begin[] = { { AUTHORIZES, NOTHING },
                                                 { SUBSCRIBES, NOTHING },
                                                 { QUIETLY_WAITS },
                                                 { BEGINS, .error = ERROR_CLIENT_GONE } };
    static const struct fake_step waiting[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS, .error = ERROR_CLIENT_GONE },
    };

    PLAY(BODY, at_begin, ERROR_CLIENT_GONE, 0, NULL);
    PLAY(BODY, waiting, ERROR_CLIENT_GONE, 0, NULL);
}

static void a_drain_answers_at_once_with_the_cursors(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },           { SUBSCRIBES, NOTHING }, { QUIETLY_WAITS }, { BEGINS },
        { WAITS, .error = ERROR_DRAINED },
    };

    PLAY(BODY, script, ERROR_DRAINED, 0, ID(5));
}

static void heartbeats_go_out_between_waits(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS, .error = ERROR_TIMEOUT },
        { BEATS },
        { WAITS, .error = ERROR_TIMEOUT },
        { BEATS },
        { WAITS, .takes_ms = 500 },
        { READS, MESSAGE },
    };
    static const struct fake_step leaves[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS, .error = ERROR_TIMEOUT },
        { BEATS, .error = ERROR_CLIENT_GONE },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY);
    poll.config.heartbeat_s = 2;
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    EXPECT(poll.calls[4].left_ms <= 2000 && poll.calls[6].left_ms <= 2000, "waited longer than heartbeat_s");
    fake_poll_release(&poll);

    fake_poll_init(&poll, BODY);
    poll.config.heartbeat_s = 2;
    FAKE_POLL_RUN(&poll, leaves);
    expect_end(&poll, ERROR_CLIENT_GONE, 0, NULL);
    fake_poll_release(&poll);
}

/* ---- a database that goes away */

#define AWAY .error = ERROR_DATABASE_AWAY

static void lost_at_first_and_found(void)
{
    static const struct fake_step script[] = { { AUTHORIZES, AWAY },
                                               { AUTHORIZES, .error = ERROR_READERS_BUSY },
                                               { AUTHORIZES, MESSAGE } };
    struct fake_poll poll;

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    CU_ASSERT_EQUAL(poll.calls[2].positions[0], 5);
    fake_poll_release(&poll);
}

static void lost_while_waiting_and_found(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING }, { SUBSCRIBES, NOTHING }, { QUIETLY_WAITS },       { BEGINS },
        { WAITS, AWAY },         { SUBSCRIBES, AWAY },    { SUBSCRIBES, MESSAGE },
    };

    PLAY(BODY, script, ERROR_NONE, 1, ID(6));
}

/* The database is back in time and has no messages, so the poll goes on waiting until its own timeout. */
static void lost_and_found_goes_on_waiting(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS, AWAY, .takes_ms = 4000 },
        { SUBSCRIBES, NOTHING },
        { WAITS, .error = ERROR_TIMEOUT },
        { SUBSCRIBES, NOTHING },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_TIMEOUT, 0, ID(5));
    EXPECT(poll.calls[6].left_ms <= 6000, "%" PRId64 " ms more", poll.calls[6].left_ms);
    fake_poll_release(&poll);
}

/* The connection is lost in the middle of a page. The messages read before that must not count. */
static void a_retry_starts_from_the_same_positions(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS },
        { READS, AWAY, .topics = { { .start = 8, .gap = GAP_EXPIRED } }, .messages = { { 0, 9 } },
          .has_more = true },
        { SUBSCRIBES, MESSAGE },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    CU_ASSERT_EQUAL(poll.calls[5].positions[0], 5);
    CU_ASSERT_EQUAL(poll.calls[6].positions[0], 5);
    EXPECT_ANSWER(&poll, "has_more", "false");
    EXPECT_ANSWER(&poll, "gaps", "null");
    fake_poll_release(&poll);
}

static void away_until_the_deadline_is_an_error_before_the_wait(void)
{
    static const struct fake_step at_first[] = { { AUTHORIZES, AWAY, .takes_ms = 5000, .repeat = true } };
    static const struct fake_step subscribing[] = { { AUTHORIZES, NOTHING },
                                                    { SUBSCRIBES, AWAY, .takes_ms = 5000, .repeat = true } };
    struct fake_poll poll;

    PLAY(BODY, at_first, ERROR_DATABASE_AWAY, 0, NULL);
    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, subscribing);
    expect_end(&poll, ERROR_DATABASE_AWAY, 0, NULL);
    CU_ASSERT_FALSE(poll.waiter.began_wait);
    fake_poll_release(&poll);
}

static void away_until_the_deadline_is_an_empty_answer_after_it(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS },
        { READS, AWAY, .takes_ms = 4000, .topics = { { .start = 8 } }, .messages = { { 0, 9 } } },
        { SUBSCRIBES, AWAY, .takes_ms = 4000, .topics = { { .start = 8 } }, .messages = { { 0, 9 } },
          .repeat = true },
    };
    struct fake_poll poll;
    int64_t start_ms = clock_monotonic_ms();

    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_DATABASE_AWAY, 0, ID(5));
    CU_ASSERT_TRUE(poll.waiter.began_wait);
    EXPECT(clock_monotonic_ms() - start_ms >= 10000, "gave up before its time");
    fake_poll_release(&poll);
}

static void no_attempt_outlasts_the_poll_by_much(void)
{
    static const struct fake_step script[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS },
        { READS, AWAY, .takes_ms = 4500 },
        { SUBSCRIBES, AWAY, .takes_ms = 4500 },
        { SUBSCRIBES, AWAY, .takes_ms = 4500, .repeat = true },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, BODY);
    FAKE_POLL_RUN(&poll, script);
    EXPECT(poll.calls[5].left_ms <= 5000, "longer than query_timeout_s: %" PRId64 " ms",
           poll.calls[5].left_ms);
    EXPECT(poll.calls[7].left_ms <= 3000, "%" PRId64 " ms, and the poll has but 1 s", poll.calls[7].left_ms);
    fake_poll_release(&poll);
}

/*
 * A drain comes during the pause before a retry. A poll that has cursors to answer with ends: its first read
 * has succeeded, or the client has sent them. Another one keeps trying for 3 s.
 */
static void a_drain_ends_the_retries_of_a_poll_with_cursors(void)
{
    static const struct fake_step back[] = { { AUTHORIZES, AWAY, .takes_ms = 1000 },
                                             { AUTHORIZES, AWAY, .takes_ms = 1000 },
                                             { AUTHORIZES, NOTHING },
                                             { SUBSCRIBES, NOTHING },
                                             { WAITS, .error = ERROR_DRAINED } };
    static const struct fake_step away[] = { { AUTHORIZES, AWAY, .takes_ms = 1000, .repeat = true } };
    static const struct fake_step older[] = { { AUTHORIZES, .error = ERROR_SCHEMA, .takes_ms = 100,
                                                .repeat = true } };
    static const struct fake_step waiting[] = { { AUTHORIZES, NOTHING }, { SUBSCRIBES, AWAY } };
    static const struct fake_step sent[] = { { AUTHORIZES, AWAY } };
    struct fake_poll poll;
    int64_t start_ms;

    fake_poll_init(&poll, BODY);
    poll.drain = 1;
    FAKE_POLL_RUN(&poll, back);
    expect_end(&poll, ERROR_DRAINED, 0, ID(5));
    fake_poll_release(&poll);

    start_ms = clock_monotonic_ms();
    fake_poll_init(&poll, BODY);
    poll.drain = 1;
    FAKE_POLL_RUN(&poll, away);
    expect_end(&poll, ERROR_DATABASE_AWAY, 0, NULL);
    EXPECT(clock_monotonic_ms() - start_ms >= 3000, "gave up before its time");
    EXPECT(clock_monotonic_ms() - start_ms <= 6000, "held up the end of its process");
    fake_poll_release(&poll);

    start_ms = clock_monotonic_ms();
    fake_poll_init(&poll, BODY);
    poll.drain = 1;
    FAKE_POLL_RUN(&poll, older);
    expect_end(&poll, ERROR_SCHEMA, 0, NULL);
    EXPECT(clock_monotonic_ms() - start_ms <= 6000, "held up the end of its process");
    fake_poll_release(&poll);

    fake_poll_init(&poll, BODY);
    poll.drain = 1;
    FAKE_POLL_RUN(&poll, waiting);
    expect_end(&poll, ERROR_DRAINED, 0, ID(5));
    fake_poll_release(&poll);

    fake_poll_init(&poll, SINCE_5);
    poll.drain = 1;
    FAKE_POLL_RUN(&poll, sent);
    expect_end(&poll, ERROR_DRAINED, 0, ID(5));
    fake_poll_release(&poll);
}

/* Its answer says what there is now, so it must not say that there is nothing without a read. */
static void a_drain_answers_no_poll_with_timeout_0_unread(void)
{
    static const struct fake_step away[] = { { AUTHORIZES, AWAY, .takes_ms = 100, .repeat = true } };
    static const struct fake_step back[] = { { AUTHORIZES, AWAY }, { AUTHORIZES, MESSAGE } };
    struct fake_poll poll;

    fake_poll_init(&poll, SINCE_5_AT_ONCE);
    poll.drain = 1;
    FAKE_POLL_RUN(&poll, away);
    expect_end(&poll, ERROR_DATABASE_AWAY, 0, NULL);
    fake_poll_release(&poll);

    fake_poll_init(&poll, SINCE_5_AT_ONCE);
    poll.drain = 1;
    FAKE_POLL_RUN(&poll, back);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    fake_poll_release(&poll);
}

/* ---- waiting for a turn to read */

/* The head is sent after a while, and from then on the source watches the client. */
static void a_poll_that_waits_for_its_turn_begins_to_wait(void)
{
    static const struct fake_step soon[] = { { AUTHORIZES, .queued_ms = 200, MESSAGE } };
    static const struct fake_step late[] = { { AUTHORIZES, .queued_ms = 1000, MESSAGE }, { BEGINS } };
    static const struct fake_step again[] = {
        { AUTHORIZES, .queued_ms = 1000, NOTHING }, { BEGINS }, { SUBSCRIBES, NOTHING }, { WAITS },
        { READS, .queued_ms = 10, MESSAGE },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, soon);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    CU_ASSERT_FALSE(poll.watched || poll.waiter.began_wait);
    fake_poll_release(&poll);

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, late);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    CU_ASSERT_TRUE(poll.watched && poll.waiter.began_wait);
    fake_poll_release(&poll);

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, again);
    expect_end(&poll, ERROR_NONE, 1, ID(6));
    CU_ASSERT_TRUE(poll.watched);
    fake_poll_release(&poll);
}

static void a_client_that_left_before_its_turn_ends_the_poll(void)
{
    static const struct fake_step at_begin[] = { { AUTHORIZES, .queued_ms = 1000, MESSAGE },
                                                 { BEGINS, .error = ERROR_CLIENT_GONE } };
    static const struct fake_step at_heartbeat[] = {
        { AUTHORIZES, .queued_ms = 5000, MESSAGE },
        { BEGINS },
        { BEATS },
        { BEATS, .error = ERROR_CLIENT_GONE },
    };
    static const struct fake_step later[] = { { AUTHORIZES, .queued_ms = 1000, .error = ERROR_CLIENT_GONE },
                                              { BEGINS } };
    struct fake_poll poll;

    PLAY(SINCE_5, at_begin, ERROR_CLIENT_GONE, 0, NULL);
    PLAY(SINCE_5, later, ERROR_CLIENT_GONE, 0, NULL);
    fake_poll_init(&poll, SINCE_5);
    poll.config.heartbeat_s = 2;
    FAKE_POLL_RUN(&poll, at_heartbeat);
    expect_end(&poll, ERROR_CLIENT_GONE, 0, NULL);
    fake_poll_release(&poll);
}

/* The turn does not come. A poll that has sent its head is answered with the client's own cursors. */
static void without_a_turn_the_cursors_stay_as_they_were(void)
{
    static const struct fake_step script[] = { { AUTHORIZES, AWAY, .queued_ms = 18000 }, { BEGINS } };
    struct fake_poll poll;

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, script);
    expect_end(&poll, ERROR_DATABASE_AWAY, 0, ID(5));
    CU_ASSERT_TRUE(poll.waiter.began_wait);
    EXPECT_ANSWER(&poll, "has_more", "false");
    EXPECT_ANSWER(&poll, "gaps", "null");
    fake_poll_release(&poll);
}

/* The status stays free to choose if there is no cursor to answer with, or the poll does not wait. */
static void some_polls_wait_for_their_turn_without_a_head(void)
{
    static const char *const bodies[] = {
        BODY,
        "{\"topics\":[\"a\"],\"timeout\":10,\"since\":{\"a\":\"0\"}}",
        "{\"topics\":[\"a\"],\"timeout\":10,\"since\":{\"a\":\"-2\"}}",
        "{\"topics\":[\"a\"],\"timeout\":10,\"since\":{\"a\":\"rubbish\"}}",
        "{\"topics\":[\"a\"],\"timeout\":0,\"since\":{\"a\":" ID(5) "}}",
    };
    static const struct fake_step script[] = { { AUTHORIZES, AWAY, .queued_ms = 18000 } };
    struct fake_poll poll;

    for (size_t i = 0; i < COUNT(bodies); i++) {
        fake_poll_init(&poll, bodies[i]);
        FAKE_POLL_RUN(&poll, script);
        expect_end(&poll, ERROR_DATABASE_AWAY, 0, NULL);
        CU_ASSERT_FALSE(poll.watched || poll.waiter.began_wait);
        fake_poll_release(&poll);
    }
}

/* ---- gaps */

/* The client is told of a gap at once, even if no message follows. */
static void a_gap_is_answered_at_once(void)
{
    static const struct fake_step first[] = {
        { AUTHORIZES, .topics = { { .start = 5, .gap = GAP_EXPIRED, .oldest = 6 } } },
    };
    static const struct fake_step subscribing[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, .topics = { { .start = 5, .gap = GAP_EXPIRED, .oldest = -1 } } },
    };
    static const struct fake_step nothing_kept[] = { { AUTHORIZES, NOTHING } };
    struct fake_poll poll;

    fake_poll_init(&poll, "{\"topics\":[\"a\"],\"timeout\":10,\"since\":{\"a\":" ID(1) "}}");
    FAKE_POLL_RUN(&poll, first);
    expect_end(&poll, ERROR_NONE, 0, ID(5));
    CU_ASSERT_FALSE(poll.waiter.began_wait);
    EXPECT_ANSWER(&poll, "gaps",
                  "{\"a\":{\"reason\":\"expired\",\"requested\":" ID(1) ",\"oldest\":" ID(6) "}}");
    fake_poll_release(&poll);

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, subscribing);
    expect_end(&poll, ERROR_NONE, 0, ID(5));
    EXPECT_ANSWER(&poll, "gaps", "{\"a\":{\"reason\":\"expired\",\"requested\":" ID(5) ",\"oldest\":null}}");
    fake_poll_release(&poll);

    fake_poll_init(&poll, "{\"topics\":[\"a\"],\"timeout\":10,\"since\":{\"a\":\"?\"}}");
    FAKE_POLL_RUN(&poll, nothing_kept);
    expect_end(&poll, ERROR_NONE, 0, ID(5));
    EXPECT_ANSWER(&poll, "gaps", "{\"a\":{\"reason\":\"unknown\",\"requested\":\"?\",\"oldest\":null}}");
    fake_poll_release(&poll);
}

/*
 * Messages are pruned, or the database is restored, while the poll waits. So there is a gap after a cursor
 * that was valid at first.
 */
static void a_gap_that_opens_while_waiting_is_answered_at_once(void)
{
    static const struct fake_step restored[] = {
        { AUTHORIZES, NOTHING }, { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },       { BEGINS },
        { WAITS, AWAY },         { SUBSCRIBES, .topics = { { .start = 2, .gap = GAP_AHEAD, .oldest = 1 } } },
    };
    static const struct fake_step pruned[] = {
        { AUTHORIZES, NOTHING },
        { SUBSCRIBES, NOTHING },
        { QUIETLY_WAITS },
        { BEGINS },
        { WAITS },
        { READS, .topics = { { .start = 7, .gap = GAP_EXPIRED, .oldest = -1 } } },
    };
    struct fake_poll poll;

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, restored);
    expect_end(&poll, ERROR_NONE, 0, ID(2));
    EXPECT_ANSWER(&poll, "gaps",
                  "{\"a\":{\"reason\":\"ahead\",\"requested\":" ID(5) ",\"oldest\":" ID(1) "}}");
    fake_poll_release(&poll);

    fake_poll_init(&poll, BODY); /* has no cursor */
    FAKE_POLL_RUN(&poll, restored);
    expect_end(&poll, ERROR_NONE, 0, ID(2));
    EXPECT_ANSWER(&poll, "gaps", "{\"a\":{\"reason\":\"ahead\",\"requested\":null,\"oldest\":" ID(1) "}}");
    fake_poll_release(&poll);

    fake_poll_init(&poll, SINCE_5);
    FAKE_POLL_RUN(&poll, pruned);
    expect_end(&poll, ERROR_NONE, 0, ID(7));
    EXPECT_ANSWER(&poll, "gaps", "{\"a\":{\"reason\":\"expired\",\"requested\":" ID(5) ",\"oldest\":null}}");
    fake_poll_release(&poll);

    fake_poll_init(&poll, LAST_50);
    FAKE_POLL_RUN(&poll, pruned);
    expect_end(&poll, ERROR_NONE, 0, ID(7));
    EXPECT_ANSWER(&poll, "gaps", "{\"a\":{\"reason\":\"expired\",\"requested\":\"-50\",\"oldest\":null}}");
    fake_poll_release(&poll);
}

/* A cursor, the gap that the read finds, and the gap that is reported to the client. */
struct gap_row {
    const char *cursor; /* JSON */
    int64_t position;   /* where the read starts */
    enum gap found;
    const char *told; /* NULL: no gap */
};

static void expect_gap(const struct gap_row *row)
{
    const struct fake_step script[] = { { AUTHORIZES,
                                          .topics = { { .start = 8, .gap = row->found, .oldest = 9 } } } };
    struct fake_poll poll;
    char body[160], gaps[200] = "null";

    (void)snprintf(body, sizeof body, "{\"topics\":[\"a\"],\"timeout\":0,\"since\":{\"a\":%s}}", row->cursor);
    if (row->told)
        (void)snprintf(gaps, sizeof gaps, "{\"a\":{\"reason\":\"%s\",\"requested\":%s,\"oldest\":" ID(9) "}}",
                       row->told, row->cursor);
    fake_poll_init(&poll, body);
    FAKE_POLL_RUN(&poll, script);
    EXPECT(poll.calls[0].positions[0] == row->position, "%s: read from %" PRId64, row->cursor,
           poll.calls[0].positions[0]);
    EXPECT_ANSWER(&poll, "gaps", gaps);
    fake_poll_release(&poll);
}

static void each_kind_of_cursor_has_its_gaps(void)
{
    static const struct gap_row rows[] = {
        { "null", CATCH_UP_FROM_NOW, GAP_NONE, NULL },
        { "\"$\"", CATCH_UP_FROM_NOW, GAP_NONE, NULL },
        { "\"0\"", 0, GAP_NONE, NULL },
        { "\"0\"", 0, GAP_EXPIRED, NULL },
        { ID(7), 7, GAP_NONE, NULL },
        { ID(7), 7, GAP_EXPIRED, "expired" },
        { ID(7), 7, GAP_AHEAD, "ahead" },
        { "\"0-7\"", 7, GAP_NONE, NULL },
        { "\"0-7\"", 7, GAP_EXPIRED, "expired" },
        { "\"0-7\"", 7, GAP_AHEAD, NULL }, /* a time in the past; nothing was published after it */
        { "\"-1\"", -1, GAP_NONE, NULL },
        { "\"-50\"", -50, GAP_EXPIRED, NULL },
        { "\"-0\"", 0, GAP_NONE, "unknown" },
        { "\"-1001\"", 0, GAP_NONE, "unknown" },
        { "\"msg_abc123\"", 0, GAP_NONE, "unknown" },
        { "\"msg_abc123\"", 0, GAP_EXPIRED, "unknown" },
    };
    const int64_t tomorrow_ms = clock_wall_ms() + 86400000;
    char tomorrow[40];

    for (size_t i = 0; i < COUNT(rows); i++)
        expect_gap(&rows[i]);
    (void)snprintf(tomorrow, sizeof tomorrow, "\"%" PRId64 "-0\"", tomorrow_ms);
    expect_gap(&(struct gap_row){ tomorrow, tomorrow_ms << 16, GAP_AHEAD, "ahead" });
}

CU_TestInfo poll_waiter_tests[] = {
    { "a message at hand is answered at once", a_message_at_hand_is_answered_at_once },
    { "timeout 0 never waits", timeout_0_never_waits },
    { "a message while subscribing is answered whole", a_message_while_subscribing_is_answered_whole },
    { "errors not worth a retry end the poll", errors_not_worth_a_retry_end_the_poll },
    { "waits, then delivers", waits_then_delivers },
    { "news at once are answered whole", news_at_once_are_answered_whole },
    { "a wake without messages goes on waiting", a_wake_without_messages_goes_on_waiting },
    { "the timeout reads once more", the_timeout_reads_once_more },
    { "a lost notification only delays", a_lost_notification_only_delays },
    { "a client that left ends the poll", a_client_that_left_ends_the_poll },
    { "a drain answers at once, with the cursors", a_drain_answers_at_once_with_the_cursors },
    { "heartbeats go out between waits", heartbeats_go_out_between_waits },
    { "lost at first and found", lost_at_first_and_found },
    { "lost while waiting and found", lost_while_waiting_and_found },
    { "lost and found goes on waiting", lost_and_found_goes_on_waiting },
    { "a retry starts from the same positions", a_retry_starts_from_the_same_positions },
    { "away until the deadline is an error before the wait",
      away_until_the_deadline_is_an_error_before_the_wait },
    { "away until the deadline is an empty answer after it",
      away_until_the_deadline_is_an_empty_answer_after_it },
    { "no attempt outlasts the poll by much", no_attempt_outlasts_the_poll_by_much },
    { "a drain ends the retries of a poll with cursors", a_drain_ends_the_retries_of_a_poll_with_cursors },
    { "a drain answers no poll with timeout 0 unread", a_drain_answers_no_poll_with_timeout_0_unread },
    { "a poll that waits for its turn begins to wait", a_poll_that_waits_for_its_turn_begins_to_wait },
    { "a client that left before its turn ends the poll", a_client_that_left_before_its_turn_ends_the_poll },
    { "without a turn the cursors stay as they were", without_a_turn_the_cursors_stay_as_they_were },
    { "some polls wait for their turn without a head", some_polls_wait_for_their_turn_without_a_head },
    { "a gap is answered at once", a_gap_is_answered_at_once },
    { "a gap that opens while waiting is answered at once",
      a_gap_that_opens_while_waiting_is_answered_at_once },
    { "each kind of cursor has its gaps", each_kind_of_cursor_has_its_gaps },
    CU_TEST_INFO_NULL,
};
