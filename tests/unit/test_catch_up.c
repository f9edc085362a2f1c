/* Tests with results that look like those of pgpoll.catch_up() but are made here, without a database. */
#include "postgres/catch_up.h"

#include "api/poll_request.h"
#include "expect.h"
#include "postgres/statement.h"
#include "suites.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

enum { COLUMNS = 8, ABSENT = -1 };

/* 2000-01-01 00:00:01 UTC as PostgreSQL sends it. */
static const int64_t ONE_SECOND_US = 1000000;

struct row {
    int topic_no;
    int64_t position;
    int64_t created_at; /* ABSENT stands for NULL, here and in the other members */
    const char *payload, *metadata, *gap;
    int64_t oldest;
};

static void set_number(PGresult *result, int column, int64_t number, size_t size)
{
    uint64_t big_endian = htobe64((uint64_t)number << (64 - 8 * size));

    (void)PQsetvalue(result, 0, column, number == ABSENT ? NULL : (char *)&big_endian,
                     number == ABSENT ? -1 : (int)size);
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

static void during_a_backlog_now_is_not_the_newest_position(void)
{
    PGresult *result = make_result(&(struct row){ 1, 9, ABSENT, NULL, NULL, NULL, ABSENT });

    set_number(result, 7, ABSENT, sizeof(int64_t));
    CU_ASSERT_EQUAL(catch_up_row(result, 0).newest, 9);
    set_number(result, 7, 4, sizeof(int64_t));
    CU_ASSERT_EQUAL(catch_up_row(result, 0).newest, 4);
    CU_ASSERT_EQUAL(catch_up_row(result, 0).topic.start, 9);
    PQclear(result);
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
    CU_ASSERT_EQUAL(row.message.created_at_us,
                    INT64_C(946684801000000)); /* date -d 2000-01-01T00:00:01Z +%s */
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

/*
 * Makes a result with a row like those of pgpoll.new_messages(). Without a topic it is the single row of a
 * batch whose messages are not returned.
 */
static PGresult *make_batch(const char *topic, int64_t position, int assigned, int64_t previous, bool more)
{
    PGresult *result = make_empty_result();

    set_text(result, 0, topic);
    set_number(result, 1, position, sizeof(int64_t));
    set_number(result, 2, topic ? ONE_SECOND_US : ABSENT, sizeof(int64_t));
    set_text(result, 3, topic ? "[1]" : NULL);
    set_text(result, 4, NULL);
    set_number(result, 5, assigned, sizeof(int32_t));
    set_number(result, 6, previous, sizeof(int64_t));
    set_number(result, 7, more, sizeof(char));
    return result;
}

static void a_batch_has_its_messages_or_none(void)
{
    PGresult *result = make_batch("a", 7, 1, 5, false);
    struct catch_up_batch batch = catch_up_batch(result);

    EXPECT(batch.assigned == 1 && batch.message_count == 1 && batch.previous == 5 && !batch.more, "with");
    CU_ASSERT_EQUAL(catch_up_message(result, 0).position, 7);
    expect_bytes(catch_up_message(result, 0).payload, catch_up_message(result, 0).payload_length, "[1]");
    PQclear(result);

    result = make_batch(NULL, ABSENT, 100000, 5, true);
    batch = catch_up_batch(result);
    EXPECT(batch.assigned == 100000 && batch.message_count == 0 && batch.more, "too large, in a backlog");
    PQclear(result);

    result = make_batch(NULL, ABSENT, 0, ABSENT, false);
    batch = catch_up_batch(result);
    EXPECT(batch.assigned == 0 && batch.message_count == 0, "none");
    PQclear(result);

    result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    batch = catch_up_batch(result);
    EXPECT(batch.assigned == 0 && batch.message_count == 0 && batch.more, "deleted meanwhile");
    PQclear(result);
}

CU_TestInfo catch_up_tests[] = {
    { "a topic's row has the start of its read", a_topic_s_row_has_the_start_of_its_read },
    { "during a backlog, now is not the newest position", during_a_backlog_now_is_not_the_newest_position },
    { "a message keeps its texts and its time", a_message_keeps_its_texts_and_its_time },
    { "a message without payload marks that more follow", a_message_without_payload_marks_that_more_follow },
    { "a batch has its messages or none", a_batch_has_its_messages_or_none },
    { "the statement has the page's parameters", the_statement_has_the_page_s_parameters },
    CU_TEST_INFO_NULL,
};
