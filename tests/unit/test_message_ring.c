/* A window by itself: what is in it, what has fallen out of it, and that it knows the difference. */
#include "shared/message_ring.h"

#include "expect.h"
#include "suites.h"

#include <inttypes.h>
#include <json-c/printbuf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOPICS = 4, ALL = 1000, TEXT_SIZE = 4096 };

/* A message's JSON is its topic's number and its position, filled up with dots. */
static void message_text(char *text, int topic, int64_t position, size_t length)
{
    int written = snprintf(text, TEXT_SIZE, "%d:%" PRId64, topic, position);

    if (length > (size_t)written) {
        memset(text + written, '.', length - (size_t)written);
        text[length] = '\0';
    }
}

static void append_sized(struct window *window, int topic, int64_t position, size_t length, int64_t bytes)
{
    char text[TEXT_SIZE];

    message_text(text, topic, position, length);
    window_append(window, topic, &(struct window_message){ position, text, strlen(text), bytes });
}

static void append(struct window *window, int topic, int64_t position)
{
    append_sized(window, topic, position, 0, 1);
}

/* Appends one of each position from first to last to the topic. */
static void append_row(struct window *window, int topic, int64_t first, int64_t last)
{
    for (int64_t position = first; position <= last; position++)
        append(window, topic, position);
}

/* A window with that many topics open, complete after 0. */
static struct window *new_window(int open, size_t messages, size_t bytes)
{
    struct window *window = window_init(calloc(1, window_memory(TOPICS, messages, bytes)), TOPICS, messages, bytes);

    for (int i = 0; i < open; i++)
        window_open(window, i, 0);
    return window;
}

#define READ(window, from, limit, budget, expected, more)                                                              \
    expect_read(window, from, limit, budget, expected, more, __LINE__)
#define READ_ALL(window, from, expected) READ(window, from, ALL, ALL, expected, false)

/* Reads from such as "0@17 3@0", topic@position; expected: the page's texts, or NULL when it must be the table's. */
static void expect_read(const struct window *window, const char *from, int limit, int64_t budget, const char *expected,
                        bool more, int line)
{
    struct window_topic_ref refs[TOPICS];
    int64_t positions[TOPICS];
    struct page page;
    bool read;
    int count = 0;

    for (char *end, *at = (char *)(uintptr_t)from; *at; at = *end ? end + 1 : end, count++) {
        if (!window_find(window, (int)strtol(at, &end, 10), &refs[count]))
            CU_FAIL_FATAL("not open");
        positions[count] = strtoll(end + 1, &end, 10);
    }
    CU_ASSERT_TRUE_FATAL(page_init(&page, count));
    read = window_read(window, refs, positions, limit, budget, &page);
    (void)expect(read == !!expected, __FILE__, line, "%s: read is %d", from, read);
    expect_text(page.messages->buf, expected ? expected : "", __FILE__, line);
    (void)expect(page.has_more == more, __FILE__, line, "%s: has_more is %d", from, page.has_more);
    if (!read)
        (void)expect(page.message_count == 0, __FILE__, line, "%s: the page is not clear", from);
    page_release(&page);
}

static void an_open_topic_gives_what_was_appended(void)
{
    struct window *window = new_window(2, 16, 1024);
    struct window_topic_ref ref;
    int64_t newest;

    READ_ALL(window, "0@0", "");
    append(window, 0, 5);
    append(window, 1, 6);
    append(window, 0, 9);
    READ_ALL(window, "0@0", "0:5,0:9");
    READ_ALL(window, "0@5", "0:9");
    READ_ALL(window, "0@9", "");
    READ_ALL(window, "1@0", "1:6");
    CU_ASSERT_TRUE(window_find(window, 0, &ref) && window_newest(window, ref, &newest) && newest == 9);
    CU_ASSERT_FALSE(window_find(window, 2, &ref));
    free(window);
}

static void several_topics_are_merged_in_order(void)
{
    struct window *window = new_window(3, 16, 1024);

    for (int64_t position = 1; position <= 9; position++)
        append(window, (int)(position % 3), position);
    READ_ALL(window, "2@0 0@0 1@0", "1:1,2:2,0:3,1:4,2:5,0:6,1:7,2:8,0:9");
    READ_ALL(window, "0@6 1@1 2@8", "1:4,1:7,0:9");
    READ_ALL(window, "2@2 0@3", "2:5,0:6,2:8,0:9");
    free(window);
}

static void the_page_says_where_each_topic_stands(void)
{
    struct window *window = new_window(2, 16, 1024);
    struct window_topic_ref refs[2];
    const int64_t positions[] = { 0, 1 };
    struct page page;

    append_row(window, 0, 2, 4);
    CU_ASSERT_TRUE_FATAL(page_init(&page, 2));
    append(window, 1, 5);
    CU_ASSERT_FATAL(window_find(window, 0, &refs[0]) && window_find(window, 1, &refs[1]));
    CU_ASSERT_TRUE(window_read(window, refs, positions, 2, ALL, &page));
    CU_ASSERT_EQUAL(page.topics[0].start, 0);
    CU_ASSERT_EQUAL(page.topics[0].next, 3);
    CU_ASSERT_EQUAL(page.topics[0].oldest, 2);
    CU_ASSERT_EQUAL(page.topics[1].start, 1);
    CU_ASSERT_EQUAL(page.topics[1].next, 1);
    CU_ASSERT_EQUAL(page.topics[1].oldest, -1);
    CU_ASSERT_EQUAL(page.topics[1].gap, GAP_NONE);
    page_release(&page);
    free(window);
}

static void the_limit_is_exact(void)
{
    struct window *window = new_window(2, 16, 1024);

    append_row(window, 0, 1, 3);
    READ(window, "0@0", 2, ALL, "0:1,0:2", true);
    READ(window, "0@0", 3, ALL, "0:1,0:2,0:3", false);
    READ(window, "0@1", 2, ALL, "0:2,0:3", false);
    append(window, 1, 4);
    READ(window, "0@0 1@0", 3, ALL, "0:1,0:2,0:3", true);
    READ(window, "0@0 1@4", 3, ALL, "0:1,0:2,0:3", false);
    free(window);
}

static void the_byte_budget_is_exact(void)
{
    struct window *window = new_window(1, 16, 1024);

    append_sized(window, 0, 1, 0, 60);
    append_sized(window, 0, 2, 0, 40);
    append_sized(window, 0, 3, 0, 1);
    READ(window, "0@0", ALL, 101, "0:1,0:2,0:3", false);
    READ(window, "0@0", ALL, 100, "0:1,0:2", true);
    READ(window, "0@0", ALL, 99, "0:1", true);
    READ(window, "0@1", ALL, 41, "0:2,0:3", false);
    /* The first goes out whatever it weighs. */
    READ(window, "0@0", ALL, 10, "0:1", true);
    READ(window, "0@2", ALL, 0, "0:3", false);
    free(window);
}

static void the_oldest_falls_out_entry_by_entry(void)
{
    struct window *window = new_window(2, 4, 1024);

    append_row(window, 0, 1, 4);
    READ_ALL(window, "0@0", "0:1,0:2,0:3,0:4");
    for (int64_t position = 5; position < 50; position++) {
        char from[2][32], expected[96];

        append(window, 0, position);
        (void)snprintf(from[0], sizeof from[0], "0@%" PRId64, position - 4);
        (void)snprintf(from[1], sizeof from[1], "0@%" PRId64, position - 5);
        (void)snprintf(expected, sizeof expected, "0:%" PRId64 ",0:%" PRId64 ",0:%" PRId64 ",0:%" PRId64, position - 3,
                       position - 2, position - 1, position);
        READ_ALL(window, from[0], expected);
        READ_ALL(window, from[1], NULL);
    }
    /* Topic 1 has lost nothing; topic 0 has, and keeps both together from being read. */
    READ_ALL(window, "1@0 0@0", NULL);
    append_row(window, 1, 50, 53);
    READ_ALL(window, "0@49", "");
    READ_ALL(window, "0@48", NULL);
    READ_ALL(window, "1@0 0@49", "1:50,1:51,1:52,1:53");
    free(window);
}

/* 1024 bytes: messages of 200 go five in a row; the sixth begins anew, in the first one's place. */
static void the_oldest_falls_out_byte_by_byte(void)
{
    struct window *window = new_window(1, 64, 1024);
    char text[TEXT_SIZE];

    for (int64_t position = 1; position <= 5; position++)
        append_sized(window, 0, position, 200, 1);
    message_text(text, 0, 1, 200);
    READ(window, "0@0", 1, ALL, text, true);
    append_sized(window, 0, 6, 200, 1);
    READ_ALL(window, "0@0", NULL);
    message_text(text, 0, 2, 200);
    READ(window, "0@1", 1, ALL, text, true);
    append_sized(window, 0, 7, 201, 1);
    READ_ALL(window, "0@2", NULL);
    message_text(text, 0, 4, 200);
    READ(window, "0@3", 1, ALL, text, true);
    message_text(text, 0, 7, 201);
    READ_ALL(window, "0@6", text);
    free(window);
}

static void a_message_too_big_is_the_tables(void)
{
    struct window *window = new_window(2, 16, 1024);

    append(window, 0, 1);
    append_sized(window, 0, 2, 257, 500);
    append(window, 0, 3);
    READ_ALL(window, "0@0", NULL);
    READ_ALL(window, "0@1", NULL);
    READ_ALL(window, "0@2", "0:3");
    /* Up to it the window has all, and knows that there is more. */
    READ(window, "0@0", 1, ALL, "0:1", true);
    READ(window, "0@0", ALL, 500, "0:1", true);
    READ_ALL(window, "1@0", "");
    READ_ALL(window, "1@0 0@0", NULL);
    append_sized(window, 1, 4, 256, 1);
    READ(window, "1@0 0@2", 1, ALL, "0:3", true);
    /* One that could not be made JSON of has none. */
    window_append(window, 0, &(struct window_message){ 5, NULL, 0, 7 });
    READ_ALL(window, "0@3", NULL);
    READ_ALL(window, "0@5", "");
    free(window);
}

static void a_topic_opened_anew_is_another(void)
{
    struct window *window = new_window(2, 16, 1024);
    struct window_topic_ref old, new;
    struct page page;
    int64_t position = 0, newest;

    append_row(window, 0, 1, 3);
    CU_ASSERT_TRUE_FATAL(page_init(&page, 1));
    CU_ASSERT_TRUE_FATAL(window_find(window, 0, &old));
    CU_ASSERT_TRUE(window_read(window, &old, &position, ALL, ALL, &page));
    page_clear(&page);
    window_close(window, 0);
    CU_ASSERT_FALSE(window_find(window, 0, &new));
    CU_ASSERT_FALSE(window_newest(window, old, &newest));
    CU_ASSERT_FALSE(window_read(window, &old, &position, ALL, ALL, &page));
    window_open(window, 0, 3);
    CU_ASSERT_TRUE(window_find(window, 0, &new));
    CU_ASSERT_NOT_EQUAL(new.generation, old.generation);
    CU_ASSERT_FALSE(window_newest(window, old, &newest));
    position = 3;
    CU_ASSERT_FALSE(window_read(window, &old, &position, ALL, ALL, &page));
    append(window, 0, 4);
    READ_ALL(window, "0@3", "0:4");
    READ_ALL(window, "0@2", NULL);
    /* Without a close in between, too. */
    window_open(window, 0, 4);
    CU_ASSERT_FALSE(window_newest(window, new, &newest));
    READ_ALL(window, "0@4", "");
    READ_ALL(window, "0@3", NULL);
    page_release(&page);
    free(window);
}

/* Entries of a topic's life before must not end up in its life now, nor fall out of it. */
static void what_falls_out_of_a_closed_topic_is_nobodys(void)
{
    struct window *window = new_window(2, 4, 1024);

    append_row(window, 0, 1, 3);
    window_close(window, 0);
    append(window, 1, 4);
    window_open(window, 0, 4);
    append(window, 0, 5);
    append(window, 1, 6);
    READ_ALL(window, "0@4 1@0", "1:4,0:5,1:6");
    append(window, 1, 7);
    append(window, 1, 8);
    READ_ALL(window, "0@4", "0:5");
    READ_ALL(window, "1@4", "1:6,1:7,1:8");
    READ_ALL(window, "1@3", NULL);
    free(window);
}

static void what_was_skipped_is_the_tables(void)
{
    struct window *window = new_window(2, 16, 1024);

    append_row(window, 0, 1, 2);
    window_skip(window, 0, 5);
    append(window, 0, 6);
    READ_ALL(window, "0@2", NULL);
    READ_ALL(window, "0@4", NULL);
    READ_ALL(window, "0@5", "0:6");
    /* Older than the last one of another topic: as if skipped. */
    append(window, 1, 9);
    append(window, 0, 8);
    READ_ALL(window, "0@6", NULL);
    READ_ALL(window, "0@7", NULL);
    READ_ALL(window, "0@8", "");
    READ_ALL(window, "1@0", "1:9");
    append(window, 0, 10);
    READ_ALL(window, "0@8 1@0", "1:9,0:10");
    free(window);
}

static void a_reset_begins_anew(void)
{
    struct window *window = new_window(2, 16, 1024);
    struct window_topic_ref old, other;
    int64_t newest;

    append(window, 0, 5);
    append(window, 1, 6);
    window_close(window, 1);
    CU_ASSERT_TRUE_FATAL(window_find(window, 0, &old));
    window_reset(window);
    CU_ASSERT_FALSE(window_newest(window, old, &newest));
    CU_ASSERT_FALSE(window_find(window, 1, &other));
    READ_ALL(window, "0@5", "");
    READ_ALL(window, "0@4", NULL);
    /* Positions may now be lower than before. */
    window_open(window, 0, 1);
    append(window, 0, 2);
    READ_ALL(window, "0@1", "0:2");
    READ_ALL(window, "0@0", NULL);
    free(window);
}

static void any_position_is_a_cursor(void)
{
    struct window *window = new_window(3, 16, 1024);

    append(window, 0, 10);
    append(window, 1, 20);
    append(window, 2, 25);
    append(window, 0, 30);
    append(window, 1, 40);
    READ_ALL(window, "0@15", "0:30"); /* between two messages */
    READ_ALL(window, "0@20", "0:30"); /* another topic's */
    READ_ALL(window, "0@29", "0:30");
    READ_ALL(window, "1@10", "1:20,1:40");
    READ_ALL(window, "1@25", "1:40");
    READ_ALL(window, "2@24 0@10 1@39", "2:25,0:30,1:40");
    READ_ALL(window, "2@26", ""); /* beyond its newest, but not beyond the newest of all */
    READ_ALL(window, "0@31 2@40", "");
    READ_ALL(window, "1@41", NULL); /* was it ever given? */
    READ_ALL(window, "0@15 2@41", NULL);
    window_reset(window);
    READ_ALL(window, "1@40", "");
    READ_ALL(window, "2@26", NULL);
    free(window);
}

/* ---- against a model */

struct model_message {
    int topic;
    int64_t position;
    size_t length; /* 0: announced only */
    int64_t bytes;
};

enum {
    MODEL_MESSAGES = 400,
    MODEL_ROUNDS = 150,
    WINDOW_MESSAGES = 24,
    WINDOW_BYTES = 2000,
    MODEL_LIMIT = 8,
    MODEL_BUDGET = 600
};

struct model {
    struct window *window;
    struct model_message messages[MODEL_MESSAGES];
    int count;
    int64_t newest;       /* position of the last message, in the window or not */
    int64_t from[TOPICS]; /* complete after, but for what fell out; -1: closed */
    int64_t topic_newest[TOPICS];
};

static int pick(int below)
{
    return (int)(random() % below);
}

static void model_append(struct model *model, int topic)
{
    struct model_message *message = &model->messages[model->count++];
    size_t length = pick(10) ? (size_t)(12 + pick(200)) : (size_t)(WINDOW_BYTES / 4 - 1 + pick(4));

    model->newest += 1 + pick(3);
    *message = (struct model_message){ topic, model->newest, length <= WINDOW_BYTES / 4 ? length : 0, 1 + pick(200) };
    model->topic_newest[topic] = model->newest;
    append_sized(model->window, topic, model->newest, length, message->bytes);
}

static void model_change(struct model *model)
{
    int topic = pick(TOPICS), what = pick(40);

    if (model->from[topic] < 0 || what == 0) {
        model->from[topic] = model->topic_newest[topic] = model->newest;
        window_open(model->window, topic, model->newest);
    } else if (what == 1) {
        model->from[topic] = -1;
        window_close(model->window, topic);
    } else if (what == 2) {
        model->from[topic] = model->topic_newest[topic] = model->newest += pick(2);
        window_skip(model->window, topic, model->newest);
    } else if (what == 3 && model->count > 0 &&
               model->topic_newest[topic] < model->messages[model->count - 1].position) {
        model->from[topic] = model->topic_newest[topic] = model->messages[model->count - 1].position;
        append(model->window, topic, model->topic_newest[topic]); /* too late */
    } else {
        model_append(model, topic);
    }
}

enum certainty { GONE, PERHAPS, THERE };

/* Whether the message with this index is still in a window that keeps the newest, and may lose a quarter at its end. */
static enum certainty is_kept(const struct model *model, int index)
{
    size_t length = 0;

    for (int i = index; i < model->count; i++)
        length += model->messages[i].length;
    if (model->count - index > WINDOW_MESSAGES || length > WINDOW_BYTES)
        return GONE;
    return length <= WINDOW_BYTES - WINDOW_BYTES / 4 ? THERE : PERHAPS;
}

/* What a read from positions must give: texts and has_more. Says whether the window can have all that it takes. */
static enum certainty model_read(const struct model *model, const int64_t *positions, char *texts, bool *more)
{
    enum certainty certainty = THERE;
    int64_t bytes = 0, last = model->count > 0 ? model->messages[model->count - 1].position : 0;
    int taken = 0;

    *texts = '\0';
    *more = false;
    for (int i = 0; i < TOPICS; i++)
        if (model->from[i] >= 0 && (positions[i] < model->from[i] ||
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

/* Reads all open topics from anywhere, and compares; false: they differ. */
static bool model_compare(const struct model *model, int *reads)
{
    static char texts[TEXT_SIZE * MODEL_LIMIT];
    struct window_topic_ref refs[TOPICS];
    int64_t positions[TOPICS], asked[TOPICS];
    enum certainty certainty;
    struct page page;
    bool more, read, agreed;
    int count = 0;

    for (int i = 0; i < TOPICS; i++) {
        positions[i] = model->topic_newest[i] - pick(pick(2) ? 8 : 80);
        positions[i] = positions[i] < 0 ? 0 : positions[i] + !pick(20);
        EXPECT(window_find(model->window, i, &refs[count]) == (model->from[i] >= 0), "topic %d", i);
        if (model->from[i] >= 0)
            asked[count++] = positions[i];
    }
    if (count == 0)
        return true;
    CU_ASSERT_TRUE_FATAL(page_init(&page, count));
    certainty = model_read(model, positions, texts, &more);
    read = window_read(model->window, refs, asked, MODEL_LIMIT, MODEL_BUDGET, &page);
    agreed = EXPECT(certainty == PERHAPS || read == (certainty == THERE), "read is %d, certainty %d", read, certainty);
    if (read) {
        agreed =
            EXPECT(strcmp(page.messages->buf, texts) == 0, "\"%s\" instead of \"%s\"", page.messages->buf, texts) &&
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

        model = (struct model){ .window = new_window(0, WINDOW_MESSAGES, WINDOW_BYTES), .from = { -1, -1, -1, -1 } };
        while (agreed && model.count < MODEL_MESSAGES) {
            model_change(&model);
            agreed = model_compare(&model, &reads);
        }
        free(model.window);
    }
    EXPECT(!agreed || reads > MODEL_ROUNDS * MODEL_MESSAGES / 10, "only %d pages with messages", reads);
}

CU_TestInfo window_tests[] = {
    { "an open topic gives what was appended", an_open_topic_gives_what_was_appended },
    { "several topics are merged in order", several_topics_are_merged_in_order },
    { "the page says where each topic stands", the_page_says_where_each_topic_stands },
    { "the limit is exact", the_limit_is_exact },
    { "the byte budget is exact", the_byte_budget_is_exact },
    { "the oldest falls out, entry by entry", the_oldest_falls_out_entry_by_entry },
    { "the oldest falls out, byte by byte", the_oldest_falls_out_byte_by_byte },
    { "a message too big is the table's", a_message_too_big_is_the_tables },
    { "a topic opened anew is another", a_topic_opened_anew_is_another },
    { "what falls out of a closed topic is nobody's", what_falls_out_of_a_closed_topic_is_nobodys },
    { "what was skipped is the table's", what_was_skipped_is_the_tables },
    { "a reset begins anew", a_reset_begins_anew },
    { "any position is a cursor", any_position_is_a_cursor },
    { "agrees with a model", agrees_with_a_model },
    CU_TEST_INFO_NULL,
};
