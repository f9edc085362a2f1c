/*
 * Fuzzes the read channel: a reader's answer as the worker parses it, and a worker's question as the reader
 * parses it. What is accepted must be valid, and must be accepted with the same result when it is sent again.
 * The first byte of the input chooses the direction and the number of topics of the page.
 */
#include "core/clock.h"
#include "fuzz.h"
#include "shared/read_channel.h"

#include <json-c/printbuf.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TOPICS = 3, PATIENCE_MS = 5000 };

/* Returns a socket from which these bytes can be read, followed by the end of the stream. */
static int stream_of(const uint8_t *data, size_t size)
{
    int pair[2];

    HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    HOLDS(size == 0 || send(pair[1], data, size, 0) == (ssize_t)size);
    (void)close(pair[1]);
    return pair[0];
}

/* ---- answers */

static void hold_page(const struct page *page)
{
    HOLDS(page->message_count >= 0 && (page->message_count == 0) == (printbuf_length(page->messages) == 0));
    HOLDS(page->messages->buf[printbuf_length(page->messages)] == '\0');
    for (int i = 0; i < page->topic_count; i++)
        HOLDS(gap_name(page->topics[i].gap));
}

static void hold_same_page(const struct page *a, const struct page *b)
{
    HOLDS(a->message_count == b->message_count && a->has_more == b->has_more && a->first == b->first);
    for (int i = 0; i < a->topic_count; i++)
        HOLDS(a->topics[i].start == b->topics[i].start && a->topics[i].next == b->topics[i].next &&
              a->topics[i].oldest == b->topics[i].oldest && a->topics[i].gap == b->topics[i].gap);
    HOLDS(printbuf_length(a->messages) == printbuf_length(b->messages) &&
          memcmp(a->messages->buf, b->messages->buf, (size_t)printbuf_length(a->messages)) == 0);
}

static enum error receive(int socket, struct page *page, char *text)
{
    enum error error = read_channel_receive(socket, clock_monotonic_ms() + PATIENCE_MS, page, text);

    (void)close(socket);
    HOLDS((unsigned)error < ERROR_COUNT && strlen(text) < READ_CHANNEL_TEXT_SIZE);
    hold_page(page);
    HOLDS(!error || page->message_count == 0);
    return error;
}

static void take_answer(const uint8_t *data, size_t size, int topics)
{
    char text[READ_CHANNEL_TEXT_SIZE], again_text[READ_CHANNEL_TEXT_SIZE];
    struct page page, again;
    enum error error;
    int pair[2];

    HOLDS(page_init(&page, topics) && page_init(&again, topics));
    error = receive(stream_of(data, size), &page, text);
    HOLDS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    read_channel_answer(pair[1], clock_monotonic_ms() + PATIENCE_MS, error, &page, text);
    (void)close(pair[1]);
    HOLDS(receive(pair[0], &again, again_text) == error);
    HOLDS(!error || strcmp(text, again_text) == 0);
    hold_same_page(&page, &again);
    page_release(&page);
    page_release(&again);
}

/* ---- questions */

static void hold_same_question(const struct read_channel_question *a, const struct read_channel_question *b)
{
    HOLDS(a->request->topic_count == b->request->topic_count && a->request->limit == b->request->limit);
    HOLDS(a->deadline_ms == b->deadline_ms && !a->remote_user == !b->remote_user);
    HOLDS(a->number == b->number);
    HOLDS(!a->remote_user || strcmp(a->remote_user, b->remote_user) == 0);
    for (int i = 0; i < a->request->topic_count; i++) {
        HOLDS(a->positions[i] == b->positions[i]);
        HOLDS(strcmp(a->request->topics[i].name, b->request->topics[i].name) == 0);
        HOLDS(strcmp(a->request->topics[i].quoted, b->request->topics[i].quoted) == 0);
    }
}

/* Whether the texts have the announced lengths: a worker's question contains no NUL. */
static bool is_plain(const struct poll_request *request)
{
    for (int i = 0; i < request->topic_count; i++)
        if (strlen(request->topics[i].name) != request->topics[i].length)
            return false;
    return true;
}

static void take_question(const uint8_t *data, size_t size)
{
    int socket = stream_of(data, size), queue[2], ours, theirs;
    struct read_channel_job job, again;
    const bool taken = read_channel_accept(socket, &job);

    (void)close(socket);
    if (!taken)
        return;
    HOLDS(job.request.topic_count > 0 && job.request.limit > 0);
    for (int i = 0; i < job.request.topic_count; i++)
        HOLDS(job.request.topics[i].name[job.request.topics[i].length] == '\0');
    if (is_plain(&job.request)) {
        job.question.deadline_ms = clock_monotonic_ms() + PATIENCE_MS;
        HOLDS(read_channel_new_queue(queue));
        ours = read_channel_ask(queue[0], &job.question);
        theirs = read_channel_take(queue[1]);
        HOLDS(ours >= 0 && read_channel_accept(theirs, &again));
        hold_same_question(&job.question, &again.question);
        read_channel_release(&again);
        (void)close(ours);
        (void)close(theirs);
        (void)close(queue[0]);
        (void)close(queue[1]);
    }
    read_channel_release(&job);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % (TOPICS + 1) == 0)
        take_question(data + 1, size - 1);
    else
        take_answer(data + 1, size - 1, data[0] % (TOPICS + 1));
    return 0;
}
