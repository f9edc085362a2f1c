#include "shared/topic_table.h"

#include "expect.h"
#include "suites.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 64, NAME_BYTES = TOPIC_MAX_CHARACTERS * 4 };

struct fixture {
    struct topic_table *table;
    struct message_ring *ring;
};

static struct fixture new_fixture(int size)
{
    struct fixture fixture = { topic_table_init(calloc(1, topic_table_memory(size)), size),
                               ring_init(calloc(1, ring_memory(size, 1, 1)), size, 1, 1) };

    CU_ASSERT_PTR_NOT_NULL_FATAL(fixture.table);
    CU_ASSERT_EQUAL(topic_table_size(fixture.table), size);
    return fixture;
}

static void free_fixture(struct fixture *fixture)
{
    free(fixture->table);
    free(fixture->ring);
}

/* Adds a topic and opens it in the ring, as the manager does. */
static int open_topic(struct fixture *fixture, const char *name, size_t length)
{
    int number = topic_table_add(fixture->table, name, length);

    if (number >= 0)
        ring_open(fixture->ring, number, 0);
    return number;
}

static void close_topic(struct fixture *fixture, int number)
{
    ring_close(fixture->ring, number);
    topic_table_remove(fixture->table, number);
}

/* Returns the number that a worker finds for this name, or -1 if it finds none. */
static int find(const struct fixture *fixture, const char *name, size_t length)
{
    struct ring_topic_ref ref = { -1, 0 };

    return topic_table_find(fixture->table, fixture->ring, name, length, &ref) ? ref.topic : -1;
}

static void expect_name(const struct fixture *fixture, int number, const char *name)
{
    char text[TOPIC_TABLE_NAME_SIZE];

    CU_ASSERT_EQUAL(topic_table_name(fixture->table, number, text), strlen(name));
    EXPECT_TEXT(text, name);
}

static void a_name_has_one_number(void)
{
    struct fixture fixture = new_fixture(SIZE);
    int orders = open_topic(&fixture, "orders", 6), users = open_topic(&fixture, "users", 5);

    CU_ASSERT_FATAL(orders >= 0 && orders < SIZE && users >= 0 && users < SIZE);
    CU_ASSERT_NOT_EQUAL(orders, users);
    CU_ASSERT_EQUAL(topic_table_add(fixture.table, "orders", 6), orders);
    CU_ASSERT_EQUAL(find(&fixture, "orders", 6), orders);
    CU_ASSERT_EQUAL(find(&fixture, "users", 5), users);
    CU_ASSERT_EQUAL(find(&fixture, "orders", 5), -1);
    CU_ASSERT_EQUAL(find(&fixture, "orders2", 7), -1);
    CU_ASSERT_EQUAL(find(&fixture, "Orders", 6), -1);
    expect_name(&fixture, orders, "orders");
    /* The name is a part of a longer text, without a NUL. */
    CU_ASSERT_EQUAL(find(&fixture, "usersandorders", 5), users);
    free_fixture(&fixture);
}

static void a_topic_that_is_not_open_is_not_found(void)
{
    struct fixture fixture = new_fixture(SIZE);
    int number = topic_table_add(fixture.table, "a", 1);

    CU_ASSERT_FATAL(number >= 0);
    CU_ASSERT_EQUAL(find(&fixture, "a", 1), -1);
    ring_open(fixture.ring, number, 0);
    CU_ASSERT_EQUAL(find(&fixture, "a", 1), number);
    ring_close(fixture.ring, number);
    CU_ASSERT_EQUAL(find(&fixture, "a", 1), -1);
    free_fixture(&fixture);
}

static void a_removed_name_is_gone(void)
{
    struct fixture fixture = new_fixture(1);
    int number = open_topic(&fixture, "a", 1);

    close_topic(&fixture, number);
    expect_name(&fixture, number, "");
    CU_ASSERT_EQUAL(find(&fixture, "a", 1), -1);
    /* Give the number to another topic. */
    CU_ASSERT_EQUAL(open_topic(&fixture, "longer", 6), number);
    CU_ASSERT_EQUAL(find(&fixture, "a", 1), -1);
    CU_ASSERT_EQUAL(find(&fixture, "longer", 6), number);
    close_topic(&fixture, number);
    CU_ASSERT_EQUAL(open_topic(&fixture, "b", 1), number);
    expect_name(&fixture, number, "b");
    free_fixture(&fixture);
}

static void names_are_any_text(void)
{
    static const char *const names[] = {
        "a", "A", " ", "a/b?c=\"d\"\\", "größe", "日本語", "\xf0\x9f\x90\x98", "\xc2\xa0", "ab"
    };
    struct fixture fixture = new_fixture(SIZE);
    char longest[NAME_BYTES + 1] = "";
    int numbers[COUNT(names)];

    for (size_t i = 0; i < COUNT(names); i++)
        numbers[i] = open_topic(&fixture, names[i], strlen(names[i]));
    for (size_t i = 0; i < COUNT(names); i++) {
        EXPECT(find(&fixture, names[i], strlen(names[i])) == numbers[i], "%s", names[i]);
        expect_name(&fixture, numbers[i], names[i]);
    }
    for (int i = 0; i < TOPIC_MAX_CHARACTERS; i++)
        (void)strcat(longest, "\xf0\x9f\x90\x98");
    CU_ASSERT_EQUAL_FATAL(strlen(longest), NAME_BYTES);
    CU_ASSERT_EQUAL(open_topic(&fixture, longest, NAME_BYTES), find(&fixture, longest, NAME_BYTES));
    CU_ASSERT_EQUAL(find(&fixture, longest, NAME_BYTES - 4), -1);
    expect_name(&fixture, find(&fixture, longest, NAME_BYTES), longest);
    free_fixture(&fixture);
}

static void a_full_table_takes_no_more(void)
{
    enum { FEW = 33 };
    struct fixture fixture = new_fixture(FEW);
    char name[16];

    for (int i = 0; i < FEW; i++) {
        int length = snprintf(name, sizeof name, "topic %d", i);

        EXPECT(open_topic(&fixture, name, (size_t)length) == i, "the lowest number for %s", name);
    }
    CU_ASSERT_EQUAL(topic_table_add(fixture.table, "one more", 8), -1);
    CU_ASSERT_EQUAL(find(&fixture, "one more", 8), -1);
    CU_ASSERT_EQUAL(open_topic(&fixture, "topic 7", 7), find(&fixture, "topic 7", 7));
    close_topic(&fixture, find(&fixture, "topic 7", 7));
    CU_ASSERT_EQUAL(open_topic(&fixture, "one more", 8), 7);
    CU_ASSERT_EQUAL(find(&fixture, "one more", 8), 7);
    free_fixture(&fixture);
}

/*
 * Adds and removes topics at random, in a table that takes any names of the greatest length: exactly those
 * that are in it can be found, and it is full when all numbers are used, not before.
 */
static void names_come_and_go(int size, int changes)
{
    const int names = 2 * size;
    struct fixture fixture = new_fixture(size);
    int *numbers = calloc((size_t)names, sizeof *numbers), used = 0;
    char name[NAME_BYTES + 1];

    if (!EXPECT(numbers, "memory for %d names", names))
        return;
    srandom(1);
    for (int i = 0; i < names; i++)
        numbers[i] = -1;
    for (int change = 0; change < changes; change++) {
        const int i = (int)(random() % names);
        /* Names of 6 to 125 bytes, and of the greatest length: 1 to 3, and 17, blocks of the table. */
        const size_t length =
            (size_t)snprintf(name, sizeof name, "%0*d", i % 5 == 0 ? NAME_BYTES : 6 + i % 120, i);

        EXPECT(find(&fixture, name, length) == numbers[i], "%s", name);
        if (numbers[i] >= 0) {
            expect_name(&fixture, numbers[i], name);
            close_topic(&fixture, numbers[i]);
            numbers[i] = -1;
            used--;
        } else {
            numbers[i] = open_topic(&fixture, name, length);
            EXPECT((numbers[i] < 0) == (used == size), "%d of %d are used", used, size);
            used += numbers[i] >= 0;
        }
    }
    free(numbers);
    free_fixture(&fixture);
}

static void few_names_come_and_go(void)
{
    names_come_and_go(SIZE, 20000);
}

/* The index doubles several times. */
static void many_names_come_and_go(void)
{
    names_come_and_go(10000, 60000);
}

CU_TestInfo topic_table_tests[] = {
    { "a name has one number", a_name_has_one_number },
    { "a topic that is not open is not found", a_topic_that_is_not_open_is_not_found },
    { "a removed name is gone", a_removed_name_is_gone },
    { "names are any text", names_are_any_text },
    { "a full table takes no more", a_full_table_takes_no_more },
    { "few names come and go", few_names_come_and_go },
    { "many names come and go", many_names_come_and_go },
    CU_TEST_INFO_NULL,
};
