/* Tests with results that look like those of pgpoll.catch_up() but are made here, without a database. */
#include "postgres/catch_up.h"

#include "api/poll_request.h"
#include "expect.h"
#include "postgres/statement.h"
#include "suites.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

enum { COLUMNS = 9, ABSENT = -1 };

/* 2000-01-01 00:00:01 UTC as PostgreSQL sends it. */
static const int64_t ONE_SECOND_US = 1000000;

struct row {
    int topic_no;
    int64_t position;
    int64_t created_at; /* ABSENT stands for NULL, here and in the other members */
    const char *payload, *metadata, *gap;
    int64_t oldest;
};

static void set_row_number(PGresult *result, int row, int column, int64_t number, size_t size)
{
    uint64_t big_endian = htobe64((uint64_t)number << (64 - 8 * size));

    (void)PQsetvalue(result, row, column, number == ABSENT ? NULL : (char *)&big_endian,
                     number == ABSENT ? -1 : (int)size);
}

static void set_number(PGresult *result, int column, int64_t number, size_t size)
{
    set_row_number(result, 0, column, number, size);
}

static void set_text(PGresult *result, int column, const char *text)
{
    char copy[80] = "";

    if (text)
        (void)snprintf(copy, sizeof copy, "%s", text);
    (void)PQsetvalue(result, 0, column, text ? copy : NULL, text ? (int)strlen(text) : -1);
}

static PGresult *make_empty_result(void)
{
    static char name[] = "column";
    PGresAttDesc descriptions[COLUMNS];
    PGresult *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);

    for (int i = 0; i < COLUMNS; i++)
        descriptions[i] = (PGresAttDesc){ .name = name, .format = 1 };
    (void)PQsetResultAttrs(result, COLUMNS, descriptions);
    return result;
}

static PGresult *make_result(const struct row *row)
{
    PGresult *result = make_empty_result();

    set_number(result, 0, row->topic_no, sizeof(int32_t));
    set_number(result, 1, row->position, sizeof(int64_t));
    set_number(result, 2, row->created_at, sizeof(int64_t));
    set_text(result, 3, row->payload);
    set_text(result, 4, row->metadata);
    set_text(result, 5, row->gap);
    set_number(result, 6, row->oldest, sizeof(int64_t));
    return result;
}

static void a_topic_s_row_has_the_start_of_its_read(void)
{
    static const struct {
        struct row row;
        struct page_topic topic;
    } rows[] = {
        { { 1, 5, ABSENT, NULL, NULL, NULL, ABSENT }, { 5, 5, -1, GAP_NONE } },
        { { 2, 0, ABSENT, NULL, NULL, NULL, 7 }, { 0, 0, 7, GAP_NONE } },
        { { 50, 5, ABSENT, NULL, NULL, "expired", 6 }, { 5, 5, 6, GAP_EXPIRED } },
        { { 1, INT64_MAX, ABSENT, NULL, NULL, "ahead", ABSENT }, { INT64_MAX, INT64_MAX, -1, GAP_AHEAD } },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        PGresult *result = make_result(&rows[i].row);
        struct catch_up_row row = catch_up_row(result, 0);
        EXPECT(row.kind == CATCH_UP_TOPIC && row.topic_index == rows[i].row.topic_no - 1,
               "row %zu: kind %d, index %d", i, (int)row.kind, row.topic_index);
        EXPECT(row.topic.start == rows[i].topic.start && row.topic.next == rows[i].topic.next &&
                   row.topic.oldest == rows[i].topic.oldest && row.topic.gap == rows[i].topic.gap,
               "row %zu", i);
        PQclear(result);
    }
}

static void expect_bytes(const char *text, size_t length, const char *wanted)
{
    EXPECT(length == strlen(wanted) && memcmp(text, wanted, length) == 0, "%.*s instead of %s", (int)length,
           text, wanted);
}

static void a_message_keeps_its_texts_and_its_time(void)
{
    static const struct row with = { 2, 7, ONE_SECOND_US, "{\"n\": 1}", "{\"m\":2}", NULL, ABSENT };
    static const struct row without = { 1, 8, 0, "null", NULL, NULL, ABSENT };
    PGresult *result = make_result(&with);
    struct catch_up_row row = catch_up_row(result, 0);

    EXPECT(row.kind == CATCH_UP_MESSAGE && row.topic_index == 1 && row.message.position == 7,
           "with metadata");
    CU_ASSERT_EQUAL(row.message.created_at_us, ONE_SECOND_US);
    expect_bytes(row.message.payload, row.message.payload_length, with.payload);
    expect_bytes(row.message.metadata, row.message.metadata_length, with.metadata);
    PQclear(result);

    result = make_result(&without);
    row = catch_up_row(result, 0);
    EXPECT(row.kind == CATCH_UP_MESSAGE && !row.message.metadata, "without metadata");
    expect_bytes(row.message.payload, row.message.payload_length, "null");
    PQclear(result);
}

static void a_message_without_payload_marks_that_more_follow(void)
{
    static const struct row more = { 1, 8, ONE_SECOND_US, NULL, NULL, NULL, ABSENT };
    PGresult *result = make_result(&more);

    CU_ASSERT_EQUAL(catch_up_row(result, 0).kind, CATCH_UP_MORE);
    PQclear(result);
}

static void the_statement_has_the_page_s_parameters(void)
{
    static struct poll_topic topics[] = { { .name = "a", .length = 1 }, { .name = "b", .length = 1 } };
    static const struct poll_request request = { .topics = topics, .topic_count = 2, .limit = 7 };
    static const int64_t positions[] = { CATCH_UP_FROM_NOW, 5 };
    struct statement statement;

    CU_ASSERT_TRUE(catch_up_statement(&statement, &request, positions, 1048576));
    EXPECT(strstr(statement.sql, "pgpoll.catch_up"), "%s", statement.sql);
    CU_ASSERT_EQUAL(statement.count, 4);
    EXPECT(memcmp(statement.values[2], "\0\0\0\7", 4) == 0, "limit");
    EXPECT(memcmp(statement.values[3], "\0\0\0\0\0\20\0\0", 8) == 0, "bytes");
    statement_release(&statement);
}

static const char LARGE[] = "";

/* Adds a row like those of pgpoll.new_messages(). Without a topic it is no message. */
static PGresult *make_feed(const char *topic, const char *payload, int assigned, int64_t complete_to,
                           bool more, int64_t deleted_to)
{
    PGresult *result = make_empty_result();

    set_text(result, 0, topic);
    set_number(result, 1, topic ? 7 : ABSENT, sizeof(int64_t));
    set_number(result, 2, payload ? ONE_SECOND_US : ABSENT, sizeof(int64_t));
    set_text(result, 3, payload != LARGE ? payload : NULL);
    set_text(result, 4, NULL);
    set_number(result, 5, assigned, sizeof(int32_t));
    set_number(result, 6, complete_to, sizeof(int64_t));
    set_number(result, 7, more, sizeof(char));
    set_number(result, 8, deleted_to, sizeof(int64_t));
    return result;
}

static void a_feed_has_messages_whole_or_not(void)
{
    PGresult *result = make_feed("a", "[1]", 1, 7, false, 0);
    struct catch_up_feed feed = catch_up_feed(result);
    const char *name;
    size_t length;

    EXPECT(feed.assigned == 1 && feed.complete_to == 7 && !feed.more && feed.deleted_to == 0 &&
               !feed.read_only,
           "one");
    CU_ASSERT_TRUE(catch_up_is_message(result, 0) && catch_up_is_whole(result, 0));
    name = catch_up_topic(result, 0, &length);
    expect_bytes(name, length, "a");
    CU_ASSERT_EQUAL(catch_up_message(result, 0).position, 7);
    expect_bytes(catch_up_message(result, 0).payload, catch_up_message(result, 0).payload_length, "[1]");
    PQclear(result);

    result = make_feed("a", NULL, 100000, 7, true, 0);
    feed = catch_up_feed(result);
    EXPECT(feed.assigned == 100000 && feed.more, "in a backlog");
    CU_ASSERT_TRUE(catch_up_is_message(result, 0) && !catch_up_is_whole(result, 0));
    PQclear(result);

    result = make_feed("a", LARGE, 1, 7, false, 0);
    CU_ASSERT_TRUE(catch_up_is_message(result, 0) && catch_up_is_whole(result, 0));
    CU_ASSERT_PTR_NULL(catch_up_message(result, 0).payload);
    PQclear(result);

    result = make_feed(NULL, NULL, -2, 9, false, 12);
    feed = catch_up_feed(result);
    EXPECT(feed.assigned == 0 && feed.read_only && feed.deleted_to == 12 && feed.complete_to == 9,
           "read-only");
    CU_ASSERT_FALSE(catch_up_is_message(result, 0));
    PQclear(result);
}

static void a_feed_is_read_from_a_position(void)
{
    static const struct poll_topic wanted[] = { { .name = "a", .length = 1 }, { .name = "b", .length = 1 } };
    struct statement statement;

    CU_ASSERT_TRUE(catch_up_new_statement(&statement, 7, 1048576, CATCH_UP_FROM_NOW, wanted, 2, false));
    EXPECT(strstr(statement.sql, "pgpoll.new_messages"), "%s", statement.sql);
    CU_ASSERT_EQUAL(statement.count, 5);
    EXPECT(memcmp(statement.values[0], "\0\0\0\7", 4) == 0, "messages");
    EXPECT(*statement.values[2] == '\377', "a negative position");
    EXPECT(memcmp(statement.values[4], "\0\0\0\0", 4) == 0, "no other topics");
    statement_release(&statement);

    CU_ASSERT_TRUE(catch_up_feed_statement(&statement, 7, 1048576, 5, wanted, 0));
    EXPECT(strstr(statement.sql, "pgpoll.read_feed"), "%s", statement.sql);
    EXPECT(memcmp(statement.values[1], "\0\0\0\0\0\20\0\0", 8) == 0, "bytes");
    EXPECT(memcmp(statement.values[2], "\0\0\0\0\0\0\0\5", 8) == 0, "after");
    statement_release(&statement);
}

/* Makes a result like one of catch_up_followed_statement(), with positions from 101 on. */
static PGresult *make_followed(int count, int64_t deleted_to)
{
    PGresult *result = make_empty_result();

    for (int row = 0; row < count; row++) {
        set_row_number(result, row, 1, 101 + row, sizeof(int64_t));
        set_row_number(result, row, 5, deleted_to, sizeof(int64_t));
    }
    return result;
}

static void what_is_followed_ends_with_its_last_message(void)
{
    struct catch_up_feed feed;
    struct statement statement;
    PGresult *result = make_followed(3, 100);
    int limit;

    CU_ASSERT_TRUE(catch_up_followed(result, 100, &feed));
    EXPECT(feed.complete_to == 103 && !feed.more && feed.deleted_to == 0, "what was deleted had been read");
    CU_ASSERT_TRUE(catch_up_followed(result, 99, &feed));
    CU_ASSERT_EQUAL(feed.deleted_to, 100);
    PQclear(result);

    CU_ASSERT_TRUE(catch_up_followed_statement(&statement, 100));
    EXPECT(sscanf(strstr(statement.sql, "LIMIT"), "LIMIT %d", &limit) == 1, "%s", statement.sql);
    statement_release(&statement);
    result = make_followed(limit, 0);
    CU_ASSERT_TRUE(catch_up_followed(result, 100, &feed));
    EXPECT(feed.complete_to == 100 + limit && feed.more, "a full page");
    PQclear(result);
}

static void what_is_followed_may_not_say_enough(void)
{
    struct catch_up_feed feed;
    PGresult *result = make_followed(0, 0);

    CU_ASSERT_FALSE(catch_up_followed(result, 100, &feed));
    PQclear(result);

    result = make_followed(2, ABSENT); /* the role may not read what was deleted */
    CU_ASSERT_FALSE(catch_up_followed(result, 100, &feed));
    PQclear(result);
}

CU_TestInfo catch_up_tests[] = {
    { "a topic's row has the start of its read", a_topic_s_row_has_the_start_of_its_read },
    { "a message keeps its texts and its time", a_message_keeps_its_texts_and_its_time },
    { "a message without payload marks that more follow", a_message_without_payload_marks_that_more_follow },
    { "a feed has messages, whole or not", a_feed_has_messages_whole_or_not },
    { "a feed is read from a position", a_feed_is_read_from_a_position },
    { "what is followed ends with its last message", what_is_followed_ends_with_its_last_message },
    { "what is followed may not say enough", what_is_followed_may_not_say_enough },
    { "the statement has the page's parameters", the_statement_has_the_page_s_parameters },
    CU_TEST_INFO_NULL,
};
