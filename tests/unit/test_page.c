#include "api/page.h"

#include "api/poll_request.h"
#include "expect.h"
#include "suites.h"

#include <json-c/json.h>
#include <json-c/printbuf.h>

static const struct poll_topic topics[] = { { .name = "a", .length = 1, .quoted = "\"a\"" },
                                            { .name = "b", .length = 1, .quoted = "\"b\"" } };

static bool add(struct page *page, int topic, int64_t position)
{
    struct message message = { position, 0, "1", 1, NULL, 0 };

    return page_add(page, topic, &topics[topic], &message);
}

static void expect_empty(const struct page *page)
{
    CU_ASSERT_EQUAL(page->message_count, 0);
    CU_ASSERT_FALSE(page->has_more);
    CU_ASSERT_EQUAL(printbuf_length(page->messages), 0);
    for (int i = 0; i < page->topic_count; i++) {
        CU_ASSERT_EQUAL(page->topics[i].gap, GAP_NONE);
        CU_ASSERT_EQUAL(page->topics[i].oldest, -1);
        CU_ASSERT_EQUAL(page->topics[i].next, 0);
    }
}

static void a_new_page_and_a_cleared_page_are_empty(void)
{
    struct page page;

    CU_ASSERT_TRUE_FATAL(page_init(&page, 2));
    expect_empty(&page);
    CU_ASSERT_TRUE(add(&page, 1, 5));
    page.has_more = true;
    page.topics[0].gap = GAP_EXPIRED;
    page.topics[0].oldest = 3;
    page_clear(&page);
    expect_empty(&page);
    page_release(&page);
    page_release(&page);
}

static void messages_are_listed_in_the_order_in_which_they_were_added(void)
{
    struct page page;

    CU_ASSERT_TRUE_FATAL(page_init(&page, 2));
    page.topics[0].start = page.topics[0].next = 3;
    CU_ASSERT_TRUE(add(&page, 1, 5));
    CU_ASSERT_TRUE(page_add_json(&page, 1, 6, "{\"topic\":\"b\"}...", 13));
    CU_ASSERT_EQUAL(page.message_count, 2);
    CU_ASSERT_EQUAL(page.topics[0].next, 3);
    CU_ASSERT_EQUAL(page.topics[1].next, 6);
    CU_ASSERT_TRUE(add(&page, 0, 7));
    CU_ASSERT_EQUAL(page.topics[0].next, 7);
    CU_ASSERT_EQUAL(page.topics[0].start, 3);

    struct printbuf *list = printbuf_new();
    (void)sprintbuf(list, "[%s]", page.messages->buf);
    struct json_object *messages = json_tokener_parse(list->buf);
    CU_ASSERT_EQUAL_FATAL(json_object_array_length(messages), 3);
    EXPECT_TEXT(
        json_object_get_string(json_object_object_get(json_object_array_get_idx(messages, 2), "topic")), "a");
    json_object_put(messages);
    printbuf_free(list);
    page_release(&page);
}

CU_TestInfo page_tests[] = {
    { "a new page and a cleared page are empty", a_new_page_and_a_cleared_page_are_empty },
    { "messages are listed in the order in which they were added",
      messages_are_listed_in_the_order_in_which_they_were_added },
    CU_TEST_INFO_NULL,
};
