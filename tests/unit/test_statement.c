#include "postgres/statement.h"

#include "api/poll_request.h"
#include "expect.h"
#include "suites.h"

#include <stdio.h>
#include <string.h>

/* Returns the bytes of the parameter in hex, in a static buffer that the next call overwrites. */
static const char *bytes_of(const struct statement *statement, int parameter)
{
    static char hex[512];

    *hex = '\0';
    for (int i = 0; i < statement->lengths[parameter]; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", (unsigned)(unsigned char)statement->values[parameter][i]);
    return hex;
}

/*
 * The expected bytes are those that array_recv(), int8recv() and so on read (PostgreSQL,
 * src/backend/utils/adt).
 */
static void numbers_are_big_endian(void)
{
    struct statement statement;

    statement_init(&statement, "SELECT $1, $2, $3, $4");
    CU_ASSERT_TRUE(statement_add_int4(&statement, 100));
    CU_ASSERT_TRUE(statement_add_int4(&statement, -2));
    CU_ASSERT_TRUE(statement_add_int8(&statement, INT64_C(0x0102030405060708)));
    CU_ASSERT_TRUE(statement_add_int8(&statement, INT64_MIN));
    CU_ASSERT_EQUAL(statement.count, 4);
    EXPECT_TEXT(bytes_of(&statement, 0), "00000064");
    EXPECT_TEXT(bytes_of(&statement, 1), "fffffffe");
    EXPECT_TEXT(bytes_of(&statement, 2), "0102030405060708");
    EXPECT_TEXT(bytes_of(&statement, 3), "8000000000000000");
    CU_ASSERT_EQUAL(statement.types[0], 23);
    CU_ASSERT_EQUAL(statement.types[2], 20);
    statement_release(&statement);
}

static void text_is_sent_unchanged(void)
{
    struct statement statement;

    statement_init(&statement, "SELECT $1, $2");
    statement_add_text(&statement, "");
    statement_add_text(&statement, "O'é");
    CU_ASSERT_EQUAL(statement.lengths[0], 0);
    EXPECT_TEXT(bytes_of(&statement, 1), "4f27c3a9");
    CU_ASSERT_EQUAL(statement.types[1], 25);
    statement_release(&statement);
}

static void topics_are_encoded_as_text(void)
{
    static const struct poll_topic topics[] = { { .name = "a", .length = 1 }, { .name = "é€", .length = 5 } };
    struct statement statement;

    statement_init(&statement, "SELECT $1, $2");
    CU_ASSERT_TRUE(statement_add_topics(&statement, topics, 2));
    CU_ASSERT_TRUE(statement_add_topics(&statement, topics, 1));
    /* dimensions, has-NULLs, element type 25, length, lower bound; then length and bytes of each element */
    EXPECT(strncmp(bytes_of(&statement, 0), "00000001", 8) == 0, "one dimension");
    EXPECT_TEXT(bytes_of(&statement, 0) + 16, "00000019"
                                              "00000002"
                                              "00000001"
                                              "00000001"
                                              "61"
                                              "00000005"
                                              "c3a9e282ac");
    EXPECT_TEXT(bytes_of(&statement, 1) + 16, "00000019"
                                              "00000001"
                                              "00000001"
                                              "00000001"
                                              "61");
    CU_ASSERT_EQUAL(statement.types[0], 1009);
    statement_release(&statement);
}

static void numbers_are_encoded_as_bigint_with_nulls(void)
{
    static const int64_t numbers[] = { 0, -1, -2, INT64_MAX };
    struct statement statement;

    statement_init(&statement, "SELECT $1");
    CU_ASSERT_TRUE(statement_add_int8s(&statement, numbers, 4, -1));
    EXPECT_TEXT(bytes_of(&statement, 0), "00000001"
                                         "00000001"
                                         "00000014"
                                         "00000004"
                                         "00000001"
                                         "00000008"
                                         "0000000000000000"
                                         "ffffffff"
                                         "00000008"
                                         "fffffffffffffffe"
                                         "00000008"
                                         "7fffffffffffffff");
    CU_ASSERT_EQUAL(statement.types[0], 1016);
    statement_release(&statement);
}

static void parameters_keep_their_order(void)
{
    static const struct poll_topic topics[] = { { .name = "a", .length = 1 } };
    static const int64_t positions[] = { 5 };
    struct statement statement;

    statement_init(&statement, "SELECT $1, $2, $3, $4, $5, $6, $7");
    CU_ASSERT_TRUE(statement_add_int4(&statement, 1));
    CU_ASSERT_TRUE(statement_add_topics(&statement, topics, 1));
    CU_ASSERT_TRUE(statement_add_int8(&statement, 2));
    CU_ASSERT_TRUE(statement_add_int8s(&statement, positions, 1, -1));
    statement_add_text(&statement, "x");
    CU_ASSERT_TRUE(statement_add_int4(&statement, 3));
    statement_add_text(&statement, "y");
    CU_ASSERT_EQUAL(statement.count, STATEMENT_MAX_PARAMETERS);
    EXPECT_TEXT(bytes_of(&statement, 0), "00000001");
    EXPECT_TEXT(bytes_of(&statement, 2), "0000000000000002");
    EXPECT_TEXT(bytes_of(&statement, 4), "78");
    EXPECT_TEXT(bytes_of(&statement, 5), "00000003");
    EXPECT_TEXT(bytes_of(&statement, 6), "79");
    statement_release(&statement);
    CU_ASSERT_EQUAL(statement.count, 0);
    statement_release(&statement);
}

CU_TestInfo statement_tests[] = {
    { "numbers are big-endian", numbers_are_big_endian },
    { "text is sent unchanged", text_is_sent_unchanged },
    { "topics are encoded as text[]", topics_are_encoded_as_text },
    { "numbers are encoded as bigint[] with NULLs", numbers_are_encoded_as_bigint_with_nulls },
    { "parameters keep their order", parameters_keep_their_order },
    CU_TEST_INFO_NULL,
};
