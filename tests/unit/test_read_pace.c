#include "manager/read_pace.h"

#include "core/log.h"
#include "expect.h"
#include "suites.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A cycle takes us, and each reader that works beside the first one adds us_of_reader. */
struct load {
    int64_t us, us_of_reader;
    int readers;    /* how many would work if all permits were allowed */
    int64_t work;   /* messages in a cycle */
    int64_t gap_ms; /* between the begin of two cycles */
};

static const struct load QUIET = { 900, 0, 0, 1, 10 }, STORM = { 900, 900, 8, 1, 10 };

static int64_t now_ms;

/*
 * Lets time pass under this load. Returns by how many readers more than one worked, on average, in percent.
 */
static int run(struct read_pace *pace, struct load load, int64_t for_ms)
{
    const int64_t end_ms = now_ms + for_ms;
    int64_t extra = 0, cycles = 0;

    for (int64_t cycle_ms = now_ms; now_ms < end_ms; now_ms++) {
        const int readers = load.readers < pace->allowed ? load.readers : pace->allowed;

        read_pace_step(pace, readers > 0, now_ms);
        CU_ASSERT_FATAL(pace->allowed >= 1 && pace->allowed <= pace->max);
        CU_ASSERT(read_pace_due_ms(pace) > now_ms);
        if (now_ms < cycle_ms)
            continue;
        cycle_ms += load.gap_ms;
        extra += readers > 1 ? readers - 1 : 0;
        cycles++;
        read_pace_take(pace, load.us + (readers > 1 ? readers - 1 : 0) * load.us_of_reader, load.work,
                       readers > 0, now_ms);
    }
    return cycles ? (int)(100 * extra / cycles) : 0;
}

static struct read_pace fresh(int max)
{
    struct read_pace pace = { 0 };

    CU_ASSERT(log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    now_ms = 1000 * 1000;
    read_pace_init(&pace, max);
    return pace;
}

static void readers_are_held_back_while_they_slow_cycles_down(void)
{
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
    (void)run(&pace, STORM, 1000);
    CU_ASSERT(pace.allowed <= 2);
    EXPECT(run(&pace, STORM, 20000) <= 100, "more than two readers worked");
    CU_ASSERT(pace.allowed <= 2);
}

static void reads_begin_with_few_readers(void)
{
    const struct load harmless = { 900, 10, 8, 1, 10 };
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    (void)run(&pace, STORM, 20);
    CU_ASSERT_EQUAL(pace.allowed, 1);
    (void)run(&pace, QUIET, 20000);
    CU_ASSERT_EQUAL(pace.allowed, 8); /* nobody reads */
    (void)run(&pace, harmless, 20);
    CU_ASSERT_EQUAL(pace.allowed, 1);
    (void)run(&pace, harmless, 500);
    CU_ASSERT_EQUAL(pace.allowed, 8); /* soon, if they do no harm */
    (void)run(&pace, QUIET, 500);
    (void)run(&pace, harmless, 500);
    CU_ASSERT_EQUAL(pace.allowed, 8); /* a short pause is none */
    (void)run(&pace, (struct load){ 900, 0, 0, 1, 1500 }, 10000);
    (void)run(&pace, harmless, 20);
    CU_ASSERT_EQUAL(pace.allowed, 8); /* nobody publishes much */
}

static void clients_that_come_back_meet_few_readers(void)
{
    const struct load harmless = { 900, 10, 8, 1, 10 }, rare = { 900, 0, 8, 1, 400 };
    struct read_pace pace = fresh(8);

    read_pace_begin(&pace, now_ms);
    CU_ASSERT_EQUAL(pace.allowed, 1);
    (void)run(&pace, harmless, 500);
    CU_ASSERT_EQUAL(pace.allowed, 8); /* soon, if they do no harm */
    read_pace_begin(&pace, now_ms);
    (void)run(&pace, STORM, 1000);
    CU_ASSERT(pace.allowed <= 2);
    read_pace_begin(&pace, now_ms);
    (void)run(&pace, rare, 1100);
    CU_ASSERT_EQUAL(pace.allowed, 8); /* nobody publishes much */
    read_pace_begin(&pace, now_ms);
    (void)run(&pace, (struct load){ 900, 0, 8, 1, 1500 }, 1100);
    CU_ASSERT_EQUAL(pace.allowed, 8);
}

/* A manager that led loses its connection, follows, reads less in a cycle, leads again when clients read. */
static void what_is_usual_is_known_after_a_reconnect(void)
{
    const struct load reads_only = { 300, 0, 0, 1, 10 }, slow = { 9000, 0, 8, 1, 10 };
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    for (int i = 0; i < 2; i++) {
        read_pace_begin(&pace, now_ms);
        pace.follows = true;
        (void)run(&pace, reads_only, 20000);
        CU_ASSERT_EQUAL(pace.allowed, 8);
        read_pace_begin(&pace, now_ms);
        pace.follows = false;
        EXPECT(run(&pace, slow, 5000) == 0, "several readers worked");
        CU_ASSERT_EQUAL(pace.allowed, 1);
        (void)run(&pace, QUIET, 5000);
    }
}

static void another_reader_is_tried_less_often_if_it_was_too_many(void)
{
    const struct load each_is_too_many = { 900, 3000, 8, 1, 10 };
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    (void)run(&pace, each_is_too_many, 20000);
    EXPECT(run(&pace, each_is_too_many, 60000) <= 6, "too often two readers worked");
    CU_ASSERT(run(&pace, each_is_too_many, 60000) > 0); /* but now and then */
}

static void all_may_work_again_when_they_do_no_harm(void)
{
    const struct load harmless = { 900, 10, 8, 1, 10 };
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    (void)run(&pace, STORM, 20000);
    (void)run(&pace, harmless, 10000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
}

static void a_slow_database_has_as_many_readers(void)
{
    const struct load distant = { 80000, 0, 0, 1, 100 }, distant_reads = { 80000, 3000, 8, 1, 100 };
    struct read_pace pace = fresh(8);

    (void)run(&pace, distant, 5000);
    (void)run(&pace, distant_reads, 60000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
}

static void cycles_that_are_slow_without_reads_say_nothing_of_reads(void)
{
    const struct load slow = { 9000, 0, 0, 1, 10 }, slow_reads = { 9000, 0, 8, 1, 10 };
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    (void)run(&pace, slow, 10000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
    (void)run(&pace, slow_reads, 60000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
    /* If cycles become slow while clients read without a pause, that shows later. */
    (void)run(&pace, (struct load){ 90000, 0, 8, 1, 100 }, 2000);
    CU_ASSERT_EQUAL(pace.allowed, 1);
    (void)run(&pace, (struct load){ 90000, 0, 8, 1, 100 }, 5 * 60 * 1000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
}

static void a_cycle_with_many_messages_may_take_longer(void)
{
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    (void)run(&pace, (struct load){ 900 * 10, 0, 8, 64 * 9, 10 }, 10000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
}

static void nobody_is_held_back_while_cycles_are_rare(void)
{
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    (void)run(&pace, (struct load){ 900, 9000, 8, 1, 400 }, 20000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
    (void)run(&pace, STORM, 5000);
    CU_ASSERT(pace.allowed < 8);
    CU_ASSERT(read_pace_due_ms(&pace) <= now_ms + 1000);
    (void)run(&pace, (struct load){ 900, 9000, 8, 1, 400 }, 1500);
    CU_ASSERT_EQUAL(pace.allowed, 8);
    CU_ASSERT_EQUAL(read_pace_due_ms(&pace), INT64_MAX); /* the manager is not woken for it */
}

static void cycles_that_take_long_are_not_rare(void)
{
    struct read_pace pace = fresh(8);

    (void)run(&pace, QUIET, 2000);
    (void)run(&pace, (struct load){ 900, 60000, 8, 1, 450 }, 5000);
    CU_ASSERT(pace.allowed < 8);
}

static void a_manager_that_starts_in_a_storm_holds_back(void)
{
    struct read_pace pace = fresh(8);

    for (int i = 0; i < 200; i++) { /* now and then a cycle is as fast as ever */
        (void)run(&pace, STORM, 90);
        read_pace_take(&pace, 900, 1, true, now_ms);
    }
    CU_ASSERT(pace.allowed < 4);
}

static void the_least_number_follows_the_greatest(void)
{
    static const int greatest[][2] = { { 1, 1 }, { 2, 1 }, { 8, 1 }, { 9, 2 }, { 1000, 125 } };

    for (size_t i = 0; i < COUNT(greatest); i++) {
        struct read_pace pace = fresh(greatest[i][0]);

        (void)run(&pace, QUIET, 2000);
        (void)run(&pace, (struct load){ 90000, 0, 1000, 1, 100 }, 5000);
        EXPECT(pace.allowed == greatest[i][1], "%d: %d", greatest[i][0], pace.allowed);
    }
}

static void a_storm_is_logged_once(void)
{
    char path[] = "/tmp/pgpoll-pace.XXXXXX", text[1000] = "";
    const int fd = mkstemp(path);
    struct read_pace pace = fresh(8);
    const char *held, *over;

    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT(log_open(path, LOG_LEVEL_INFO, "test"));
    (void)run(&pace, QUIET, 60000);
    (void)run(&pace, STORM, 5000); /* too short to tell */
    (void)run(&pace, QUIET, 60000);
    CU_ASSERT_EQUAL(read(fd, text, sizeof text - 1), 0);
    (void)run(&pace, STORM, 60000);
    read_pace_begin(&pace, now_ms); /* a reconnect; then all may work, but too short to tell */
    (void)run(&pace, (struct load){ 900, 10, 8, 1, 10 }, 3000);
    CU_ASSERT_EQUAL(pace.allowed, 8);
    (void)run(&pace, STORM, 20000);
    (void)run(&pace, (struct load){ 900, 0, 0, 1, 5000 }, 30000);
    CU_ASSERT(read(fd, text, sizeof text - 1) > 0);
    held = strstr(text, "of 8 readers (PGPOLL_CONNECTIONS) may work at a time\n");
    over = held ? strstr(held, "all 8 readers may work again\n") : NULL;
    CU_ASSERT(over && strchr(strchr(text, '\n') + 1, '\n')[1] == '\0'); /* two lines */
    (void)close(fd);
    (void)unlink(path);
}

static void the_log_is_back(void)
{
    CU_ASSERT(log_open("stderr", LOG_LEVEL_INFO, "test"));
}

CU_TestInfo read_pace_tests[] = {
    { "readers are held back while they slow cycles down",
      readers_are_held_back_while_they_slow_cycles_down },
    { "reads begin with few readers", reads_begin_with_few_readers },
    { "clients that come back meet few readers", clients_that_come_back_meet_few_readers },
    { "what is usual is known after a reconnect", what_is_usual_is_known_after_a_reconnect },
    { "another reader is tried less often if it was too many",
      another_reader_is_tried_less_often_if_it_was_too_many },
    { "all may work again when they do no harm", all_may_work_again_when_they_do_no_harm },
    { "a slow database has as many readers", a_slow_database_has_as_many_readers },
    { "cycles that are slow without reads say nothing of reads",
      cycles_that_are_slow_without_reads_say_nothing_of_reads },
    { "a cycle with many messages may take longer", a_cycle_with_many_messages_may_take_longer },
    { "nobody is held back while cycles are rare", nobody_is_held_back_while_cycles_are_rare },
    { "cycles that take long are not rare", cycles_that_take_long_are_not_rare },
    { "a manager that starts in a storm holds back", a_manager_that_starts_in_a_storm_holds_back },
    { "the least number follows the greatest", the_least_number_follows_the_greatest },
    { "a storm is logged once", a_storm_is_logged_once },
    { "later tests log to stderr", the_log_is_back },
    CU_TEST_INFO_NULL,
};
