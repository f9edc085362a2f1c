#include "manager/subscriptions.h"

#include "expect.h"
#include "shared/scoreboard.h"
#include "shared/topic_table.h"
#include "suites.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { POLLS = 1000, MAX_TOPICS = 10, LONG_MS = 60 * 1000, MOST_AT_ONCE = 5000 };

struct topics {
    struct scoreboard *scoreboard;
    struct subscriptions subscriptions;
    int capacity;
};

static int add(struct topics *topics, int number, int64_t now_ms, uint64_t cycle)
{
    char name[32];
    const int length = snprintf(name, sizeof name, "topic %d", number);

    return subscriptions_add(&topics->subscriptions, name, (size_t)length, now_ms, cycle);
}

static bool is_there(const struct topics *topics, int number)
{
    char name[32];
    const int length = snprintf(name, sizeof name, "topic %d", number);

    return topic_table_number(topics->scoreboard->topics, name, (size_t)length) >= 0;
}

/* Takes all numbers for topics that were polled at 1 ms. A worker waits for topic 77. */
static void take_all(struct topics *topics)
{
    struct slot *slot;

    *topics = (struct topics){ .scoreboard = scoreboard_new(POLLS, MAX_TOPICS, 64, 64 * 256, 1) };
    CU_ASSERT_FATAL(subscriptions_init(&topics->subscriptions, topics->scoreboard));
    topics->capacity = topic_table_size(topics->scoreboard->topics);
    for (int i = 0; i < topics->capacity; i++) {
        const int topic = add(topics, i, 1, 1);

        CU_ASSERT_FATAL(topic >= 0);
        topics->subscriptions.by_topic[topic].cycle = 1;
        subscriptions_open(&topics->subscriptions, topic, 1, (uint32_t)i);
    }
    slot = scoreboard_slot(topics->scoreboard, 5);
    atomic_store(&slot->topics[0].topic, topic_table_number(topics->scoreboard->topics, "topic 77", 8));
    atomic_store(&slot->topic_count, 1);
    atomic_store(&slot->state, SLOT_WAITING);
}

static void release(struct topics *topics)
{
    subscriptions_release(&topics->subscriptions);
    scoreboard_free(topics->scoreboard);
}

static void unused_topics_are_removed_a_part_at_a_time(void)
{
    struct topics topics;
    int most = 0, calls = 0;
    bool ended = false;

    take_all(&topics);
    while (!ended && calls++ < topics.capacity) {
        const int before = topics.subscriptions.used_count;

        /* Time passes between the calls, but the waiting worker is not forgotten. */
        ended = subscriptions_sweep(&topics.subscriptions, 2 * LONG_MS + calls * LONG_MS, LONG_MS, 0);
        if (before - topics.subscriptions.used_count > most)
            most = before - topics.subscriptions.used_count;
    }
    EXPECT(ended && most < MOST_AT_ONCE, "%d topics were removed at once", most);
    EXPECT(topics.subscriptions.used_count == 1 && is_there(&topics, 77), "%d topics are left",
           topics.subscriptions.used_count);
    release(&topics);
}

/* Each of many polls waits for many topics, which take longer to look at than messages should wait. */
static void waiting_polls_are_looked_at_a_part_at_a_time(void)
{
    enum { MANY_TOPICS = 1000 };
    struct topics topics = { .scoreboard = scoreboard_new(POLLS, MANY_TOPICS, 64, 64 * 256, 1) };
    int calls = 1;

    CU_ASSERT_FATAL(subscriptions_init(&topics.subscriptions, topics.scoreboard));
    for (int i = 0; i < MANY_TOPICS; i++)
        CU_ASSERT_FATAL(add(&topics, i, 1, 1) == i);
    for (int worker = 0; worker < topics.scoreboard->worker_count; worker++) {
        struct slot *slot = scoreboard_slot(topics.scoreboard, worker);

        /* Only one poll, which is among the first, waits for the last topic. */
        for (int i = 0; i < MANY_TOPICS; i++)
            atomic_store(&slot->topics[i].topic, worker == 3 || i < MANY_TOPICS - 1 ? i : 0);
        atomic_store(&slot->topic_count, MANY_TOPICS);
        atomic_store(&slot->state, SLOT_WAITING);
    }
    while (!subscriptions_sweep(&topics.subscriptions, calls * LONG_MS, LONG_MS / 2, 0))
        calls++;
    EXPECT(calls > topics.scoreboard->worker_count * MANY_TOPICS / 50000, "only %d calls", calls);
    CU_ASSERT_EQUAL(topics.subscriptions.used_count, MANY_TOPICS);
    release(&topics);
}

static void a_new_topic_makes_room_for_some_more(void)
{
    struct topics topics;

    take_all(&topics);
    /* A search has begun, and finds nothing. */
    (void)subscriptions_sweep(&topics.subscriptions, 2, LONG_MS, 0);
    CU_ASSERT(add(&topics, topics.capacity, 10, 2) >= 0);
    EXPECT(topics.subscriptions.used_count > topics.capacity - MOST_AT_ONCE && is_there(&topics, 77),
           "%d of %d topics are left", topics.subscriptions.used_count, topics.capacity);
    for (int i = 1; i < topics.capacity - 1; i++) /* the numbers of all others */
        CU_ASSERT_FATAL(add(&topics, topics.capacity + i, 10, 2) >= 0);
    CU_ASSERT(is_there(&topics, 77) && is_there(&topics, 2 * topics.capacity - 2));
    release(&topics);
}

static void no_room_is_made_for_the_rest_of_a_cycle(void)
{
    struct topics topics;

    take_all(&topics);
    CU_ASSERT_EQUAL(add(&topics, topics.capacity, 10, 1), -1);
    CU_ASSERT_EQUAL(topics.subscriptions.used_count, topics.capacity);
    release(&topics);
}

/* The workers that wait ask again. So may one that has read and is about to wait. */
static void when_all_topics_are_closed_every_busy_worker_is_woken(void)
{
    enum { WAITING = 5, SERVING, IDLE };
    struct topics topics;
    int topic;

    take_all(&topics);
    CU_ASSERT(signal(SIGUSR2, SIG_IGN) != SIG_ERR);
    atomic_store(&scoreboard_slot(topics.scoreboard, SERVING)->state, SLOT_SERVING);
    atomic_store(&scoreboard_slot(topics.scoreboard, IDLE)->state, SLOT_IDLE);
    for (int worker = WAITING; worker <= IDLE; worker++)
        atomic_store(&topics.scoreboard->pids[worker], (int)getpid());
    subscriptions_close(&topics.subscriptions);
    CU_ASSERT_EQUAL(atomic_load(&scoreboard_slot(topics.scoreboard, WAITING)->woken), 1);
    CU_ASSERT_EQUAL(atomic_load(&scoreboard_slot(topics.scoreboard, SERVING)->woken), 1);
    CU_ASSERT_EQUAL(atomic_load(&scoreboard_slot(topics.scoreboard, IDLE)->woken), 0);
    /* The topics keep their numbers, and are not found before they are opened again. */
    topic = topic_table_number(topics.scoreboard->topics, "topic 77", 8);
    CU_ASSERT_EQUAL(subscriptions_find(&topics.subscriptions, "topic 77", 8), -1);
    CU_ASSERT_FALSE(subscriptions_want_hash(&topics.subscriptions, 77));
    subscriptions_open(&topics.subscriptions, topic, 1, 77);
    CU_ASSERT_EQUAL(subscriptions_find(&topics.subscriptions, "topic 77", 8), topic);
    CU_ASSERT_TRUE(subscriptions_want_hash(&topics.subscriptions, 77));
    (void)signal(SIGUSR2, SIG_DFL);
    release(&topics);
}

CU_TestInfo subscriptions_tests[] = {
    { "unused topics are removed a part at a time", unused_topics_are_removed_a_part_at_a_time },
    { "waiting polls are looked at a part at a time", waiting_polls_are_looked_at_a_part_at_a_time },
    { "a new topic makes room for some more", a_new_topic_makes_room_for_some_more },
    { "no room is made for the rest of a cycle", no_room_is_made_for_the_rest_of_a_cycle },
    { "when all topics are closed every busy worker is woken",
      when_all_topics_are_closed_every_busy_worker_is_woken },
    CU_TEST_INFO_NULL,
};
