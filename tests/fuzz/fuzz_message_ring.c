/*
 * Fuzzes a worker's reads of the memory that the manager writes: topic numbers and the message ring. First
 * with consistent memory: a page must have the requested messages, each once and in order. Then with input
 * bytes anywhere in the memory, as when the manager overtakes a reader: the worker may read anything, which
 * it then discards, but it must touch no other memory and must terminate.
 */
#include "fuzz.h"
#include "shared/message_ring.h"
#include "shared/topic_table.h"

#include <inttypes.h>
#include <json-c/printbuf.h>
#include <string.h>
#include <sys/random.h>

enum { TOPICS = 4, MESSAGES = 8, BYTES = 256, LIMIT = 20, PAGE_BYTES = 1000, SPAN = 16 };

/* Replaces the random seed of the topic table, because an input must behave the same each time. */
ssize_t getrandom(void *buffer, size_t length, unsigned flags)
{
    (void)flags;
    memset(buffer, 0, length);
    return (ssize_t)length;
}

struct input {
    const uint8_t *data;
    size_t left;
};

struct shared {
    struct message_ring *ring;
    struct topic_table *table;
    int numbers[TOPICS]; /* -1: closed */
    int64_t position;    /* the last one assigned */
};

/* Returns the next byte of the input, 0 at its end. */
static int next(struct input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->data++;
}

/* ---- the manager */

static void open_or_close(struct shared *shared, int topic)
{
    const char name = (char)('a' + topic);

    if (shared->numbers[topic] >= 0) {
        ring_close(shared->ring, shared->numbers[topic]);
        topic_table_remove(shared->table, shared->numbers[topic]);
        shared->numbers[topic] = -1;
    } else if ((shared->numbers[topic] = topic_table_add(shared->table, &name, 1)) >= 0) {
        ring_open(shared->ring, shared->numbers[topic], shared->position);
    }
}

/* Adds a message whose JSON identifies it. */
static void append(struct shared *shared, int topic, int filler)
{
    char text[32 + UINT8_MAX];
    size_t length = (size_t)snprintf(text, sizeof text, "%c%" PRId64 " ", 'a' + topic, ++shared->position);

    memset(text + length, 'x', (size_t)filler);
    length += (size_t)filler;
    ring_append(shared->ring, shared->numbers[topic],
                &(struct ring_message){ shared->position, text, length, (int64_t)length });
}

/* Adds a message, and then one that is skipped, because it is not newer. */
static void skip(struct shared *shared, int topic)
{
    append(shared, topic, 0);
    shared->position--;
    append(shared, topic, 0);
}

static void write_something(struct shared *shared, int what, struct input *input)
{
    const int topic = what / 8 % TOPICS;

    if (what % 8 == 0)
        open_or_close(shared, topic);
    else if (what == 1)
        ring_reset(shared->ring);
    else if (shared->numbers[topic] >= 0 && what % 8 == 1)
        skip(shared, topic);
    else if (shared->numbers[topic] >= 0)
        append(shared, topic, next(input) >> what % 4);
}

/* ---- a worker */

struct question {
    int count;
    char names[TOPICS];
    struct ring_topic_ref refs[TOPICS];
    int64_t positions[TOPICS];
};

static void hold_page(const struct question *question, const struct page *page)
{
    const char *text = page->messages->buf;
    int64_t last = -1;

    for (int i = 0; i < page->message_count; i++) {
        int64_t position = 0;
        char topic = '\0';

        HOLDS(text && sscanf(text, "%c%" SCNd64 " ", &topic, &position) == 2 && position > last);
        for (int k = 0; k < question->count; k++)
            if (question->names[k] == topic) {
                HOLDS(position > question->positions[k] && position <= page->topics[k].next);
                topic = '\0';
            }
        HOLDS(topic == '\0'); /* it was requested */
        last = position;
        text = strchr(text, ',');
        text = text ? text + 1 : NULL;
    }
    HOLDS(page->message_count == 0 || !text);
}

static void read_page(const struct shared *shared, bool is_whole, struct input *input)
{
    const int which = next(input), from = next(input);
    struct question question = { 0 };
    struct page page;

    for (int topic = 0; topic < TOPICS; topic++) {
        const char name = (char)('a' + topic);

        if (!(which >> topic & 1) ||
            !topic_table_find(shared->table, shared->ring, &name, 1, &question.refs[question.count]))
            continue;
        question.names[question.count] = name;
        question.positions[question.count++] = shared->position - from % SPAN;
    }
    if (question.count == 0 || !page_init(&page, question.count))
        return;
    if (ring_read(shared->ring, question.refs, question.positions, 1 + from % LIMIT, PAGE_BYTES, &page)) {
        HOLDS(page.message_count <= 1 + from % LIMIT);
        if (is_whole)
            hold_page(&question, &page);
    } else {
        HOLDS(page.message_count == 0 && printbuf_length(page.messages) == 0);
    }
    page_release(&page);
}

/* ---- an overtaken reader: any bytes may have changed, except those that are written only once */

static void overwrite(char *memory, size_t from, size_t size, struct input *input)
{
    const size_t at = (size_t)(next(input) << 8 | next(input));

    for (size_t i = 0; i < sizeof(int64_t); i++)
        if (from + at % (size - from) + i < size)
            memory[from + at % (size - from) + i] = (char)next(input);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t ring_size = ring_memory(TOPICS, MESSAGES, BYTES), table_size = topic_table_memory(TOPICS);
    char *ring = calloc(1, ring_size), *table = calloc(1, table_size);
    struct shared shared = { .numbers = { -1, -1, -1, -1 }, .position = SPAN };
    struct input input = { data, size };
    bool is_whole = true;

    HOLDS(ring && table);
    shared.ring = ring_init(ring, TOPICS, MESSAGES, BYTES);
    shared.table = topic_table_init(table, TOPICS);
    HOLDS(shared.ring && shared.table);
    while (input.left > 0) {
        const int what = next(&input);

        if (what >= 0xf0) {
            is_whole = false;
            overwrite(ring, ring_memory(0, 0, 0), ring_size, &input);
            overwrite(table, topic_table_memory(0), table_size, &input);
        }
        if (is_whole && what < 0x80)
            write_something(&shared, what, &input);
        else
            read_page(&shared, is_whole, &input);
    }
    free(ring);
    free(table);
    return 0;
}
