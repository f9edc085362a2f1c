/*
 * Tests one writer at full speed and several readers of a message ring. The ring is so small that the writer
 * overtakes readers all the time. Threads stand for the processes, because they share memory in the same way.
 * Each message holds its topic, its position and its topic's previous position, so that a reader can check by
 * itself whether a page is complete.
 */
#include "core/clock.h"
#include "expect.h"
#include "shared/message_ring.h"
#include "shared/topic_table.h"
#include "suites.h"

#include <inttypes.h>
#include <json-c/printbuf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAMES = 6,
    NUMBERS = 4,
    READERS = 3,
    MESSAGES = 16,
    BYTES = 2048,
    RUN_MS = 1500,
    MOST_MS = 60 * 1000,
    ENOUGH = 100,
    TEXT = 700,
    LIMIT = 6,
    SPAN = 40
};

struct stress {
    struct message_ring *ring;
    struct topic_table *table;
    _Atomic int64_t newest; /* the newest position of all topics */
    _Atomic bool stop;
};

struct reader {
    struct stress *stress;
    unsigned seed;
    /* pages and messages read from the ring; reads that need the table */
    _Atomic uint64_t pages, messages, table;
    char problem[512]; /* the first problem found */
};

static int pick(unsigned *seed, int below)
{
    return rand_r(seed) % below;
}

static uint32_t checksum(const char *text, size_t length)
{
    uint32_t sum = 2166136261;

    for (size_t i = 0; i < length; i++)
        sum = (sum ^ (unsigned char)text[i]) * 16777619;
    return sum;
}

/* ---- the writer, which does everything in the manager's order */

struct writer {
    struct stress *stress;
    unsigned seed;
    int numbers[NAMES];    /* -1: closed */
    int64_t before[NAMES]; /* position of the last message, or where the topic was opened */
    int64_t position;
};

static void name_of(char name[2], int topic)
{
    name[0] = (char)('a' + topic);
    name[1] = '\0';
}

static void write_message(struct writer *writer, int topic)
{
    char text[TEXT];
    int length = snprintf(text, sizeof text, "%d %" PRId64 " %" PRId64 " ", topic, writer->position,
                          writer->before[topic]);
    int filler = pick(&writer->seed, 50) ? pick(&writer->seed, 200) : 600; /* 600: too large for the ring */

    memset(text + length, 'a' + topic, (size_t)filler);
    length += filler;
    length +=
        snprintf(text + length, sizeof text - (size_t)length, " %08" PRIx32, checksum(text, (size_t)length));
    ring_append(writer->stress->ring, writer->numbers[topic],
                &(struct ring_message){ writer->position, text, (size_t)length, length });
    writer->before[topic] = writer->position;
}

static void open_or_close(struct writer *writer, int topic)
{
    const struct stress *stress = writer->stress;
    char name[2];

    name_of(name, topic);
    if (writer->numbers[topic] >= 0) {
        ring_close(stress->ring, writer->numbers[topic]);
        topic_table_remove(stress->table, writer->numbers[topic]);
        writer->numbers[topic] = -1;
    } else if ((writer->numbers[topic] = topic_table_add(stress->table, name, 1)) >= 0) {
        writer->before[topic] = writer->position;
        ring_open(stress->ring, writer->numbers[topic], writer->position);
    }
}

static void *write_on(void *argument)
{
    struct writer *writer = argument;

    while (!atomic_load(&writer->stress->stop)) {
        int topic = pick(&writer->seed, NAMES), what = pick(&writer->seed, 400);

        writer->position += 1 + pick(&writer->seed, 2);
        if (what == 0) {
            open_or_close(writer, topic);
        } else if (writer->numbers[topic] >= 0 && what == 1) {
            write_message(writer, topic);
            write_message(writer, topic); /* skipped, because it is not newer */
        } else if (writer->numbers[topic] >= 0) {
            write_message(writer, topic);
        }
        atomic_store(&writer->stress->newest, writer->position);
    }
    return NULL;
}

/* ---- a reader */

__attribute__((format(printf, 2, 3))) static void report(struct reader *reader, const char *format, ...)
{
    va_list arguments;

    if (*reader->problem)
        return;
    va_start(arguments, format);
    (void)vsnprintf(reader->problem, sizeof reader->problem, format, arguments);
    va_end(arguments);
}

/* The topics that a reader reads, and from where. */
struct question {
    int count;
    int topics[NAMES];
    struct ring_topic_ref refs[NAMES];
    int64_t positions[NAMES], newest[NAMES]; /* newest: as it was before the read */
};

/*
 * Checks the message at text, which ends at the next comma, and advances last[]. Returns where the next
 * message begins, or NULL if there is none.
 */
static const char *check_message(struct reader *reader, const struct question *question, const char *text,
                                 int64_t *last, int64_t *position)
{
    size_t length = strcspn(text, ",");
    int64_t before = -1, at = -1;
    int topic = -1, index = 0;

    if (length < 9 || strtoul(text + length - 8, NULL, 16) != checksum(text, length - 9) ||
        sscanf(text, "%d %" SCNd64 " %" SCNd64, &topic, &at, &before) != 3) {
        report(reader, "damaged: %.*s", (int)length, text);
        return NULL;
    }
    while (index < question->count && question->topics[index] != topic)
        index++;
    if (index == question->count)
        report(reader, "topic %d was not asked for", topic);
    else if (at <= *position || at <= last[index] || before > last[index])
        report(reader,
               "topic %d from %" PRId64 ": %" PRId64 " (before it %" PRId64 ") follows %" PRId64 ", %" PRId64,
               topic, question->positions[index], at, before, last[index], *position);
    else
        last[index] = *position = at;
    return text[length] ? text + length + 1 : NULL;
}

static void check_page(struct reader *reader, const struct question *question, const struct page *page)
{
    int64_t last[NAMES], position = -1;
    const char *text = page->message_count ? page->messages->buf : NULL;
    int messages = 0;

    memcpy(last, question->positions, sizeof last);
    for (; text; messages++)
        text = check_message(reader, question, text, last, &position);
    if (messages != page->message_count || messages > LIMIT || (page->has_more && messages == 0))
        report(reader, "%d messages, said to be %d", messages, page->message_count);
    for (int i = 0; i < question->count; i++)
        if (page->topics[i].next != last[i] || (!page->has_more && last[i] < question->newest[i]))
            report(reader,
                   "topic %d from %" PRId64 " to %" PRId64 ", next %" PRId64 ", but the newest was %" PRId64,
                   question->topics[i], question->positions[i], last[i], page->topics[i].next,
                   question->newest[i]);
    atomic_fetch_add(&reader->pages, 1);
    atomic_fetch_add(&reader->messages, (uint64_t)messages);
}

/* Picks some open topics, each with a cursor at most SPAN before the newest position. */
static struct question make_question(struct reader *reader)
{
    const struct stress *stress = reader->stress;
    struct question question = { 0 };
    int64_t newest = atomic_load(&stress->newest);
    char name[2];

    for (int topic = pick(&reader->seed, NAMES); topic < NAMES; topic += 1 + pick(&reader->seed, 3)) {
        int64_t position = newest - pick(&reader->seed, SPAN);

        name_of(name, topic);
        if (!topic_table_find(stress->table, stress->ring, name, 1, &question.refs[question.count]) ||
            !ring_newest(stress->ring, question.refs[question.count], &question.newest[question.count]))
            continue;
        if (position > question.newest[question.count] || pick(&reader->seed, 4) == 0)
            position = question.newest[question.count];
        question.positions[question.count] = position < 0 ? 0 : position;
        question.topics[question.count++] = topic;
    }
    return question;
}

static void *read_on(void *argument)
{
    struct reader *reader = argument;

    while (!atomic_load(&reader->stress->stop)) {
        struct question question = make_question(reader);
        struct page page;

        if (question.count == 0 || !page_init(&page, question.count))
            continue;
        /* Read on for a while from the returned cursors, as a client does. */
        for (int i = pick(&reader->seed, 20); i >= 0; i--) {
            page_clear(&page);
            if (!ring_read(reader->stress->ring, question.refs, question.positions, LIMIT, BYTES / 4,
                           &page)) {
                atomic_fetch_add(&reader->table, 1);
                break;
            }
            check_page(reader, &question, &page);
            for (int k = 0; k < question.count; k++) {
                question.positions[k] = page.topics[k].next;
                if (!ring_newest(reader->stress->ring, question.refs[k], &question.newest[k]))
                    i = 0;
            }
        }
        page_release(&page);
    }
    return NULL;
}

/* Whether each reader has often read from the ring, and has often needed the table. */
static bool have_read_enough(const struct reader *readers)
{
    bool enough = true;

    for (int i = 0; i < READERS; i++)
        enough =
            enough && atomic_load(&readers[i].messages) > ENOUGH && atomic_load(&readers[i].table) > ENOUGH;
    return enough;
}

static void readers_are_never_deceived(void)
{
    static struct stress stress;
    struct reader readers[READERS];
    struct writer writer = { .stress = &stress, .seed = 1 };
    pthread_t threads[READERS + 1];
    const int64_t start_ms = clock_monotonic_ms();

    stress.ring = ring_init(calloc(1, ring_memory(NUMBERS, MESSAGES, BYTES)), NUMBERS, MESSAGES, BYTES);
    stress.table = topic_table_init(calloc(1, topic_table_memory(NUMBERS)), NUMBERS);
    CU_ASSERT_FATAL(stress.ring && stress.table);
    for (int i = 0; i < NAMES; i++) {
        writer.numbers[i] = -1;
        open_or_close(&writer, i);
    }
    CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[READERS], NULL, write_on, &writer), 0);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (struct reader){ .stress = &stress, .seed = (unsigned)i + 2 };
        CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, read_on, &readers[i]), 0);
    }
    /* Where the machine is busy, a thread may not run at all for a while. */
    while (clock_monotonic_ms() < start_ms + RUN_MS ||
           (!have_read_enough(readers) && clock_monotonic_ms() < start_ms + MOST_MS))
        (void)nanosleep(&(struct timespec){ 0, 10 * 1000 * 1000 }, NULL);
    atomic_store(&stress.stop, true);
    for (int i = 0; i <= READERS; i++)
        (void)pthread_join(threads[i], NULL);
    for (int i = 0; i < READERS; i++) {
        EXPECT(!*readers[i].problem, "%s", readers[i].problem);
        /*
         * Reads from the ring and reads that need the table must both happen often; otherwise the test has
         * tested nothing.
         */
        EXPECT(readers[i].messages > ENOUGH && readers[i].table > ENOUGH,
               "%" PRIu64 " messages on %" PRIu64 " pages, %" PRIu64 " not in the ring", readers[i].messages,
               readers[i].pages, readers[i].table);
    }
    free(stress.ring);
    free(stress.table);
}

CU_TestInfo stress_tests[] = {
    { "readers are never deceived", readers_are_never_deceived },
    CU_TEST_INFO_NULL,
};
