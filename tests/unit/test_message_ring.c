/*
 * Tests the message ring in one process: it returns what it holds, and refuses a read that needs dropped
 * messages.
 */
#include "shared/message_ring.h"

#include "expect.h"
#include "suites.h"

#include <inttypes.h>
#include <json-c/printbuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOPICS = 4, ALL = 1000, TEXT_SIZE = 4096 };

/* Writes the text that stands for a message's JSON: its topic's number and its position, padded with dots. */
static void message_text(char *text, int topic, int64_t position, size_t length)
{
    int written = snprintf(text, TEXT_SIZE, "%d:%" PRId64, topic, position);

    if (length > (size_t)written) {
        memset(text + written, '.', length - (size_t)written);
        text[length] = '\0';
    }
}

static void append_sized(struct message_ring *ring, int topic, int64_t position, size_t length, int64_t bytes)
{
    char text[TEXT_SIZE];

    message_text(text, topic, position, length);
    ring_append(ring, topic, &(struct ring_message){ position, text, strlen(text), bytes });
}

static void append(struct message_ring *ring, int topic, int64_t position)
{
    append_sized(ring, topic, position, 0, 1);
}

/* Appends one message for each position from first to last to the topic. */
static void append_row(struct message_ring *ring, int topic, int64_t first, int64_t last)
{
    for (int64_t position = first; position <= last; position++)
        append(ring, topic, position);
}

/* Makes a ring in which the topics 0 to open - 1 are open, each complete after position 0. */
static struct message_ring *new_ring(int open, size_t messages, size_t bytes)
{
    struct message_ring *ring =
        ring_init(calloc(1, ring_memory(TOPICS, messages, bytes)), TOPICS, messages, bytes);

    for (int i = 0; i < open; i++)
        ring_open(ring, i, 0);
    return ring;
}

#define READ(ring, from, limit, budget, expected, more)                                                      \
    expect_read(ring, from, limit, budget, expected, more, __LINE__)
#define READ_ALL(ring, from, expected) READ(ring, from, ALL, ALL, expected, false)

/*
 * Reads after the positions in from, written as topic@position, for example "0@17 3@0". expected is the texts
 * of the page, or NULL if the ring must refuse, so that the table is read.
 */
static void expect_read(const struct message_ring *ring, const char *from, int limit, int64_t budget,
                        const char *expected, bool more, int line)
{
    struct ring_topic_ref refs[TOPICS];
    int64_t positions[TOPICS] = { 0 };
    struct page page;
    bool read;
    int count = 0;

    for (char *end, *at = (char *)(uintptr_t)from; *at; at = *end ? end + 1 : end, count++) {
        if (!ring_find(ring, (int)strtol(at, &end, 10), &refs[count]))
            CU_FAIL_FATAL("not open");
        positions[count] = strtoll(end + 1, &end, 10);
    }
    CU_ASSERT_TRUE_FATAL(page_init(&page, count));
    read = ring_read(ring, refs, positions, limit, budget, &page);
    (void)expect(read == !!expected, __FILE__, line, "%s: read is %d", from, read);
    expect_text(page.messages->buf, expected ? expected : "", __FILE__, line);
    (void)expect(page.has_more == more, __FILE__, line, "%s: has_more is %d", from, page.has_more);
    if (!read)
        (void)expect(page.message_count == 0, __FILE__, line, "%s: the page is not clear", from);
    page_release(&page);
}

static void an_open_topic_has_what_was_appended(void)
{
    struct message_ring *ring = new_ring(2, 16, 1024);
    struct ring_topic_ref ref;
    int64_t newest;

    READ_ALL(ring, "0@0", "");
    append(ring, 0, 5);
    append(ring, 1, 6);
    append(ring, 0, 9);
    READ_ALL(ring, "0@0", "0:5,0:9");
    READ_ALL(ring, "0@5", "0:9");
    READ_ALL(ring, "0@9", "");
    READ_ALL(ring, "1@0", "1:6");
    CU_ASSERT_TRUE(ring_find(ring, 0, &ref) && ring_newest(ring, ref, &newest) && newest == 9);
    CU_ASSERT_FALSE(ring_find(ring, 2, &ref));
    free(ring);
}

static void several_topics_are_merged_in_order(void)
{
    struct message_ring *ring = new_ring(3, 16, 1024);

    for (int64_t position = 1; position <= 9; position++)
        append(ring, (int)(position % 3), position);
    READ_ALL(ring, "2@0 0@0 1@0", "1:1,2:2,0:3,1:4,2:5,0:6,1:7,2:8,0:9");
    READ_ALL(ring, "0@6 1@1 2@8", "1:4,1:7,0:9");
    READ_ALL(ring, "2@2 0@3", "2:5,0:6,2:8,0:9");
    free(ring);
}

static void the_page_has_each_topics_position(void)
{
    struct message_ring *ring = new_ring(2, 16, 1024);
    struct ring_topic_ref refs[2];
    const int64_t positions[] = { 0, 1 };
    struct page page;

    append_row(ring, 0, 2, 4);
    CU_ASSERT_TRUE_FATAL(page_init(&page, 2));
    append(ring, 1, 5);
    CU_ASSERT_FATAL(ring_find(ring, 0, &refs[0]) && ring_find(ring, 1, &refs[1]));
    CU_ASSERT_TRUE(ring_read(ring, refs, positions, 2, ALL, &page));
    CU_ASSERT_EQUAL(page.topics[0].start, 0);
    CU_ASSERT_EQUAL(page.topics[0].next, 3);
    CU_ASSERT_EQUAL(page.topics[0].oldest, 2);
    CU_ASSERT_EQUAL(page.topics[1].start, 1);
    CU_ASSERT_EQUAL(page.topics[1].next, 1);
    CU_ASSERT_EQUAL(page.topics[1].oldest, -1);
    CU_ASSERT_EQUAL(page.topics[1].gap, GAP_NONE);
    page_release(&page);
    free(ring);
}

static void the_limit_is_exact(void)
{
    struct message_ring *ring = new_ring(2, 16, 1024);

    append_row(ring, 0, 1, 3);
    READ(ring, "0@0", 2, ALL, "0:1,0:2", true);
    READ(ring, "0@0", 3, ALL, "0:1,0:2,0:3", false);
    READ(ring, "0@1", 2, ALL, "0:2,0:3", false);
    append(ring, 1, 4);
    READ(ring, "0@0 1@0", 3, ALL, "0:1,0:2,0:3", true);
    READ(ring, "0@0 1@4", 3, ALL, "0:1,0:2,0:3", false);
    free(ring);
}

static void the_byte_budget_is_exact(void)
{
    struct message_ring *ring = new_ring(1, 16, 1024);

    append_sized(ring, 0, 1, 0, 60);
    append_sized(ring, 0, 2, 0, 40);
    append_sized(ring, 0, 3, 0, 1);
    READ(ring, "0@0", ALL, 101, "0:1,0:2,0:3", false);
    READ(ring, "0@0", ALL, 100, "0:1,0:2", true);
    READ(ring, "0@0", ALL, 99, "0:1", true);
    READ(ring, "0@1", ALL, 41, "0:2,0:3", false);
    /* The first message is in the page whatever its size. */
    READ(ring, "0@0", ALL, 10, "0:1", true);
    READ(ring, "0@2", ALL, 0, "0:3", false);
    free(ring);
}

static void the_oldest_entry_is_dropped(void)
{
    struct message_ring *ring = new_ring(2, 4, 1024);

    append_row(ring, 0, 1, 4);
    READ_ALL(ring, "0@0", "0:1,0:2,0:3,0:4");
    for (int64_t position = 5; position < 50; position++) {
        char from[2][32], expected[96];

        append(ring, 0, position);
        (void)snprintf(from[0], sizeof from[0], "0@%" PRId64, position - 4);
        (void)snprintf(from[1], sizeof from[1], "0@%" PRId64, position - 5);
        (void)snprintf(expected, sizeof expected, "0:%" PRId64 ",0:%" PRId64 ",0:%" PRId64 ",0:%" PRId64,
                       position - 3, position - 2, position - 1, position);
        READ_ALL(ring, from[0], expected);
        READ_ALL(ring, from[1], NULL);
    }
    /* The ring still has all messages of topic 1, but not of topic 0, so it cannot answer a read of both. */
    READ_ALL(ring, "1@0 0@0", NULL);
    append_row(ring, 1, 50, 53);
    READ_ALL(ring, "0@49", "");
    READ_ALL(ring, "0@48", NULL);
    READ_ALL(ring, "1@0 0@49", "1:50,1:51,1:52,1:53");
    free(ring);
}

/* 1024 bytes hold five messages of 200 bytes in a row; the sixth wraps around and replaces the first. */
static void the_oldest_bytes_are_dropped(void)
{
    struct message_ring *ring = new_ring(1, 64, 1024);
    char text[TEXT_SIZE];

    for (int64_t position = 1; position <= 5; position++)
        append_sized(ring, 0, position, 200, 1);
    message_text(text, 0, 1, 200);
    READ(ring, "0@0", 1, ALL, text, true);
    append_sized(ring, 0, 6, 200, 1);
    READ_ALL(ring, "0@0", NULL);
    message_text(text, 0, 2, 200);
    READ(ring, "0@1", 1, ALL, text, true);
    append_sized(ring, 0, 7, 201, 1);
    READ_ALL(ring, "0@2", NULL);
    message_text(text, 0, 4, 200);
    READ(ring, "0@3", 1, ALL, text, true);
    message_text(text, 0, 7, 201);
    READ_ALL(ring, "0@6", text);
    free(ring);
}

static void a_large_message_is_read_from_the_table(void)
{
    struct message_ring *ring = new_ring(2, 16, 1024);

    append(ring, 0, 1);
    append_sized(ring, 0, 2, 257, 500);
    append(ring, 0, 3);
    READ_ALL(ring, "0@0", NULL);
    READ_ALL(ring, "0@1", NULL);
    READ_ALL(ring, "0@2", "0:3");
    /* The ring has everything before that message, and knows that there are more messages. */
    READ(ring, "0@0", 1, ALL, "0:1", true);
    READ(ring, "0@0", ALL, 500, "0:1", true);
    READ_ALL(ring, "1@0", "");
    READ_ALL(ring, "1@0 0@0", NULL);
    append_sized(ring, 1, 4, 256, 1);
    READ(ring, "1@0 0@2", 1, ALL, "0:3", true);
    /* A message that could not be formatted has no JSON. */
    ring_append(ring, 0, &(struct ring_message){ 5, NULL, 0, 7 });
    READ_ALL(ring, "0@3", NULL);
    READ_ALL(ring, "0@5", "");
    free(ring);
}

static void a_reopened_topic_is_another(void)
{
    struct message_ring *ring = new_ring(2, 16, 1024);
    struct ring_topic_ref old, new;
    struct page page;
    int64_t position = 0, newest;

    append_row(ring, 0, 1, 3);
    CU_ASSERT_TRUE_FATAL(page_init(&page, 1));
    CU_ASSERT_TRUE_FATAL(ring_find(ring, 0, &old));
    CU_ASSERT_TRUE(ring_read(ring, &old, &position, ALL, ALL, &page));
    page_clear(&page);
    ring_close(ring, 0);
    CU_ASSERT_FALSE(ring_find(ring, 0, &new));
    CU_ASSERT_FALSE(ring_newest(ring, old, &newest));
    CU_ASSERT_FALSE(ring_read(ring, &old, &position, ALL, ALL, &page));
    ring_open(ring, 0, 3);
    CU_ASSERT_TRUE(ring_find(ring, 0, &new));
    CU_ASSERT_NOT_EQUAL(new.generation, old.generation);
    CU_ASSERT_FALSE(ring_newest(ring, old, &newest));
    position = 3;
    CU_ASSERT_FALSE(ring_read(ring, &old, &position, ALL, ALL, &page));
    append(ring, 0, 4);
    READ_ALL(ring, "0@3", "0:4");
    READ_ALL(ring, "0@2", NULL);
    /* Open the topic again without closing it. */
    ring_open(ring, 0, 4);
    CU_ASSERT_FALSE(ring_newest(ring, new, &newest));
    READ_ALL(ring, "0@4", "");
    READ_ALL(ring, "0@3", NULL);
    page_release(&page);
    free(ring);
}

/*
 * When a topic gets the number of an earlier one, entries of the earlier topic must not be read as entries of
 * the new one, nor change the new one's state when they are dropped.
 */
static void entries_of_a_closed_topic_are_dropped(void)
{
    struct message_ring *ring = new_ring(2, 4, 1024);

    append_row(ring, 0, 1, 3);
    ring_close(ring, 0);
    append(ring, 1, 4);
    ring_open(ring, 0, 4);
    append(ring, 0, 5);
    append(ring, 1, 6);
    READ_ALL(ring, "0@4 1@0", "1:4,0:5,1:6");
    append(ring, 1, 7);
    append(ring, 1, 8);
    READ_ALL(ring, "0@4", "0:5");
    READ_ALL(ring, "1@4", "1:6,1:7,1:8");
    READ_ALL(ring, "1@3", NULL);
    free(ring);
}

/* A message that is not newer than the last one appended, of any topic, is skipped. */
static void skipped_messages_are_read_from_the_table(void)
{
    struct message_ring *ring = new_ring(2, 16, 1024);

    append_row(ring, 0, 1, 2);
    append(ring, 1, 5);
    append(ring, 0, 5);
    append(ring, 0, 6);
    READ_ALL(ring, "0@2", NULL);
    READ_ALL(ring, "0@4", NULL);
    READ_ALL(ring, "0@5", "0:6");
    append(ring, 1, 9);
    append(ring, 0, 8);
    READ_ALL(ring, "0@6", NULL);
    READ_ALL(ring, "0@7", NULL);
    READ_ALL(ring, "0@8", "");
    READ_ALL(ring, "1@0", "1:5,1:9");
    append(ring, 0, 10);
    READ_ALL(ring, "0@8 1@0", "1:5,1:9,0:10");
    free(ring);
}

static void a_reset_drops_everything(void)
{
    struct message_ring *ring = new_ring(2, 16, 1024);
    struct ring_topic_ref old, other;
    int64_t newest;

    append(ring, 0, 5);
    append(ring, 1, 6);
    ring_close(ring, 1);
    CU_ASSERT_TRUE_FATAL(ring_find(ring, 0, &old));
    ring_close(ring, 0);
    ring_reset(ring);
    CU_ASSERT_FALSE(ring_newest(ring, old, &newest));
    CU_ASSERT_FALSE(ring_find(ring, 1, &other));
    /* Positions may now be lower than before. */
    ring_open(ring, 0, 1);
    append(ring, 0, 2);
    READ_ALL(ring, "0@1", "0:2");
    READ_ALL(ring, "0@0", NULL);
    free(ring);
}

static void any_position_is_a_cursor(void)
{
    struct message_ring *ring = new_ring(3, 16, 1024);

    append(ring, 0, 10);
    append(ring, 1, 20);
    append(ring, 2, 25);
    append(ring, 0, 30);
    append(ring, 1, 40);
    READ_ALL(ring, "0@15", "0:30"); /* between two messages */
    READ_ALL(ring, "0@20", "0:30"); /* the position of another topic's message */
    READ_ALL(ring, "0@29", "0:30");
    READ_ALL(ring, "1@10", "1:20,1:40");
    READ_ALL(ring, "1@25", "1:40");
    READ_ALL(ring, "2@24 0@10 1@39", "2:25,0:30,1:40");
    READ_ALL(ring, "2@26", ""); /* after the topic's newest, but not after the newest of all topics */
    READ_ALL(ring, "0@31 2@40", "");
    READ_ALL(ring, "1@41", NULL); /* after the newest of all topics: perhaps this position was never given */
    READ_ALL(ring, "0@15 2@41", NULL);
    ring_reset(ring);
    READ_ALL(ring, "1@40", "");
    READ_ALL(ring, "2@26", NULL);
    free(ring);
}

/* ---- against a model */

struct model_message {
    int topic;
    int64_t position;
    size_t length; /* 0: the message has no JSON */
    int64_t bytes;
};

enum {
    MODEL_MESSAGES = 400,
    MODEL_ROUNDS = 150,
    RING_MESSAGES = 24,
    RING_BYTES = 2000,
    MODEL_LIMIT = 8,
    MODEL_BUDGET = 600
};

struct model {
    struct message_ring *ring;
    struct model_message messages[MODEL_MESSAGES];
    int count;
    int64_t newest;       /* the last message's position, whether or not the ring has it */
    int64_t from[TOPICS]; /* the topic is complete after this, except what was dropped; -1: closed */
    int64_t topic_newest[TOPICS];
};

static int pick(int below)
{
    return (int)(random() % below);
}

static void model_append(struct model *model, int topic)
{
    struct model_message *message = &model->messages[model->count++];
    size_t length = pick(10) ? (size_t)(12 + pick(200)) : (size_t)(RING_BYTES / 4 - 1 + pick(4));

    model->newest += 1 + pick(3);
    *message =
        (struct model_message){ topic, model->newest, length <= RING_BYTES / 4 ? length : 0, 1 + pick(200) };
    model->topic_newest[topic] = model->newest;
    append_sized(model->ring, topic, model->newest, length, message->bytes);
}

static void model_change(struct model *model)
{
    int topic = pick(TOPICS), what = pick(40);

    if (model->from[topic] < 0 || what == 0) {
        model->from[topic] = model->topic_newest[topic] = model->newest;
        ring_open(model->ring, topic, model->newest);
    } else if (what == 1) {
        model->from[topic] = -1;
        ring_close(model->ring, topic);
    } else if (what <= 3 && model->count > 0 &&
               model->topic_newest[topic] < model->messages[model->count - 1].position) {
        model->from[topic] = model->topic_newest[topic] = model->messages[model->count - 1].position;
        /* ring_append() skips this message, because the one appended last is newer. */
        append(model->ring, topic, model->topic_newest[topic]);
    } else {
        model_append(model, topic);
    }
}

enum certainty { GONE, PERHAPS, THERE };

/*
 * Whether the message with this index is still in the ring, which keeps the newest messages, and may leave up
 * to a quarter of its bytes unused at the end.
 */
static enum certainty is_kept(const struct model *model, int index)
{
    size_t length = 0;

    for (int i = index; i < model->count; i++)
        length += model->messages[i].length;
    if (model->count - index > RING_MESSAGES || length > RING_BYTES)
        return GONE;
    return length <= RING_BYTES - RING_BYTES / 4 ? THERE : PERHAPS;
}

/*
 * Computes what a read after positions must return: the texts of the page and has_more, as *more. Returns
 * whether the ring can have all messages that this read needs.
 */
static enum certainty model_read(const struct model *model, const int64_t *positions, char *texts, bool *more)
{
    enum certainty certainty = THERE;
    int64_t bytes = 0, last = model->count > 0 ? model->messages[model->count - 1].position : 0;
    int taken = 0;

    *texts = '\0';
    *more = false;
    for (int i = 0; i < TOPICS; i++)
        if (model->from[i] >= 0 &&
            (positions[i] < model->from[i] ||
             positions[i] > (last > model->topic_newest[i] ? last : model->topic_newest[i])))
            certainty = GONE;
    for (int i = 0; i < model->count; i++) {
        const struct model_message *message = &model->messages[i];

        if (model->from[message->topic] < 0 || message->position <= positions[message->topic] ||
            message->position <= model->from[message->topic])
            continue;
        certainty = is_kept(model, i) < certainty ? is_kept(model, i) : certainty;
        bytes += message->bytes;
        *more = *more || taken == MODEL_LIMIT || (taken > 0 && bytes > MODEL_BUDGET);
        if (*more)
            continue;
        certainty = message->length ? certainty : GONE;
        if (taken++ > 0)
            (void)strcat(texts, ",");
        message_text(texts + strlen(texts), message->topic, message->position, message->length);
    }
    return certainty;
}

/* Reads all open topics from random positions. Returns false if ring and model differ. */
static bool model_compare(const struct model *model, int *reads)
{
    static char texts[TEXT_SIZE * MODEL_LIMIT];
    struct ring_topic_ref refs[TOPICS];
    int64_t positions[TOPICS], asked[TOPICS];
    enum certainty certainty;
    struct page page;
    bool more, read, agreed;
    int count = 0;

    for (int i = 0; i < TOPICS; i++) {
        positions[i] = model->topic_newest[i] - pick(pick(2) ? 8 : 80);
        positions[i] = positions[i] < 0 ? 0 : positions[i] + !pick(20);
        EXPECT(ring_find(model->ring, i, &refs[count]) == (model->from[i] >= 0), "topic %d", i);
        if (model->from[i] >= 0)
            asked[count++] = positions[i];
    }
    if (count == 0)
        return true;
    CU_ASSERT_TRUE_FATAL(page_init(&page, count));
    certainty = model_read(model, positions, texts, &more);
    read = ring_read(model->ring, refs, asked, MODEL_LIMIT, MODEL_BUDGET, &page);
    agreed = EXPECT(certainty == PERHAPS || read == (certainty == THERE), "read is %d, certainty %d", read,
                    certainty);
    if (read) {
        agreed = EXPECT(strcmp(page.messages->buf, texts) == 0, "\"%s\" instead of \"%s\"",
                        page.messages->buf, texts) &&
                 EXPECT(page.has_more == more, "has_more is %d", page.has_more) && agreed;
        *reads += page.message_count > 0;
    }
    page_release(&page);
    return agreed;
}

static void agrees_with_a_model(void)
{
    int reads = 0;
    bool agreed = true;

    srandom(1);
    for (int round = 0; agreed && round < MODEL_ROUNDS; round++) {
        static struct model model;

        model = (struct model){ .ring = new_ring(0, RING_MESSAGES, RING_BYTES), .from = { -1, -1, -1, -1 } };
        while (agreed && model.count < MODEL_MESSAGES) {
            model_change(&model);
            agreed = model_compare(&model, &reads);
        }
        free(model.ring);
    }
    EXPECT(!agreed || reads > MODEL_ROUNDS * MODEL_MESSAGES / 10, "only %d pages with messages", reads);
}

CU_TestInfo message_ring_tests[] = {
    { "an open topic has what was appended", an_open_topic_has_what_was_appended },
    { "several topics are merged in order", several_topics_are_merged_in_order },
    { "the page has each topic's position", the_page_has_each_topics_position },
    { "the limit is exact", the_limit_is_exact },
    { "the byte budget is exact", the_byte_budget_is_exact },
    { "the oldest entry is dropped", the_oldest_entry_is_dropped },
    { "the oldest bytes are dropped", the_oldest_bytes_are_dropped },
    { "a large message is read from the table", a_large_message_is_read_from_the_table },
    { "a reopened topic is another", a_reopened_topic_is_another },
    { "entries of a closed topic are dropped", entries_of_a_closed_topic_are_dropped },
    { "skipped messages are read from the table", skipped_messages_are_read_from_the_table },
    { "a reset drops everything", a_reset_drops_everything },
    { "any position is a cursor", any_position_is_a_cursor },
    { "agrees with a model", agrees_with_a_model },
    CU_TEST_INFO_NULL,
};
