/*
 * Tests questions and answers over real sockets: complete ones of any size, and truncated, late and damaged
 * ones.
 */
#include "shared/read_channel.h"

#include "core/clock.h"
#include "expect.h"
#include "suites.h"

#include <errno.h>
#include <json-c/json.h>
#include <json-c/printbuf.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TOPICS = 3, SHORT_MS = 30, LONG_MS = 30000, LARGE = 20 * 1000 * 1000, DAMAGES = 3000 };

static const char body[] = "{\"topics\":[\"a\",\"\\u00e9/\\\"\",\"c\"],\"limit\":7}";

struct desk {
    int queue[2];
    struct poll_request request;
    int64_t positions[TOPICS];
    struct read_channel_question question;
    struct page page; /* the page that the worker receives */
    char text[READ_CHANNEL_TEXT_SIZE];
};

static void open_desk(struct desk *desk, int64_t for_ms)
{
    struct json_object *detail = NULL;

    *desk = (struct desk){ .positions = { -1, 0, INT64_MAX } };
    CU_ASSERT_TRUE_FATAL(read_channel_new_queue(desk->queue));
    CU_ASSERT_EQUAL_FATAL(poll_request_parse(&desk->request, body, strlen(body), TOPICS, &detail),
                          ERROR_NONE);
    CU_ASSERT_TRUE_FATAL(page_init(&desk->page, TOPICS));
    desk->question = (struct read_channel_question){ &desk->request, desk->positions, "eve", true,
                                                     clock_monotonic_ms() + for_ms };
}

static void close_desk(struct desk *desk)
{
    (void)close(desk->queue[0]);
    (void)close(desk->queue[1]);
    page_release(&desk->page);
    poll_request_release(&desk->request);
}

/*
 * Asks a question as a worker and takes it as a reader. Returns the worker's socket; *socket is the reader's.
 */
static int ask(struct desk *desk, int *socket, struct read_channel_job *job)
{
    int ours = read_channel_ask(desk->queue[0], &desk->question);

    CU_ASSERT_FATAL(ours >= 0);
    *socket = read_channel_take(desk->queue[1]);
    CU_ASSERT_FATAL(*socket >= 0);
    CU_ASSERT_TRUE_FATAL(read_channel_accept(*socket, job));
    return ours;
}

static enum error receive(struct desk *desk, int socket)
{
    enum error error;

    page_clear(&desk->page);
    error = read_channel_receive(socket, desk->question.deadline_ms, &desk->page, desk->text);
    if (error) {
        CU_ASSERT_EQUAL(desk->page.message_count, 0);
        CU_ASSERT_EQUAL(printbuf_length(desk->page.messages), 0);
        CU_ASSERT_EQUAL(desk->page.topics[TOPICS - 1].gap, GAP_NONE);
    }
    return error;
}

static void fill(struct page *page, const struct poll_request *request, const char *payload, size_t length)
{
    const struct message message = { 9, 0, payload, length, NULL, 0 };

    CU_ASSERT_TRUE_FATAL(page_init(page, TOPICS));
    page->topics[0] = (struct page_topic){ 5, 5, 4, GAP_EXPIRED };
    page->topics[2] = (struct page_topic){ 7, 7, -1, GAP_AHEAD };
    page->has_more = true;
    CU_ASSERT_TRUE(page_add(page, 1, &request->topics[1], &message));
}

static void expect_same(const struct page *got, const struct page *sent)
{
    CU_ASSERT_EQUAL(got->message_count, sent->message_count);
    CU_ASSERT_EQUAL(got->has_more, sent->has_more);
    CU_ASSERT_EQUAL(got->first, sent->first);
    CU_ASSERT_EQUAL_FATAL(printbuf_length(got->messages), printbuf_length(sent->messages));
    CU_ASSERT_EQUAL(memcmp(got->messages->buf, sent->messages->buf, (size_t)printbuf_length(sent->messages)),
                    0);
    for (int i = 0; i < TOPICS; i++) {
        CU_ASSERT_EQUAL(got->topics[i].start, sent->topics[i].start);
        CU_ASSERT_EQUAL(got->topics[i].next, sent->topics[i].next);
        CU_ASSERT_EQUAL(got->topics[i].oldest, sent->topics[i].oldest);
        CU_ASSERT_EQUAL(got->topics[i].gap, sent->topics[i].gap);
    }
}

static void a_question_and_its_answer(void)
{
    struct desk desk;
    struct read_channel_job job;
    struct page page;
    int ours, theirs;

    open_desk(&desk, LONG_MS);
    ours = ask(&desk, &theirs, &job);
    CU_ASSERT_EQUAL_FATAL(job.request.topic_count, TOPICS);
    CU_ASSERT_EQUAL(job.request.limit, 7);
    CU_ASSERT_EQUAL(job.question.deadline_ms, desk.question.deadline_ms);
    CU_ASSERT_TRUE(job.question.number);
    EXPECT_TEXT(job.question.remote_user, "eve");
    for (int i = 0; i < TOPICS; i++) {
        EXPECT_TEXT(job.request.topics[i].name, desk.request.topics[i].name);
        EXPECT_TEXT(job.request.topics[i].quoted, desk.request.topics[i].quoted);
        CU_ASSERT_EQUAL(job.request.topics[i].length, desk.request.topics[i].length);
        CU_ASSERT_EQUAL(job.question.positions[i], desk.positions[i]);
    }
    fill(&page, &job.request, "1", 1);
    read_channel_answer(theirs, job.question.deadline_ms, ERROR_NONE, &page, "");
    CU_ASSERT_EQUAL(receive(&desk, ours), ERROR_NONE);
    expect_same(&desk.page, &page);
    EXPECT_TEXT(desk.text, "");
    page_release(&page);
    read_channel_release(&job);
    (void)close(ours);
    (void)close(theirs);

    /* The question has no user, and is answered with an error. */
    desk.question.remote_user = NULL;
    desk.question.number = false;
    ours = ask(&desk, &theirs, &job);
    CU_ASSERT_PTR_NULL(job.question.remote_user);
    CU_ASSERT_FALSE(job.question.number);
    read_channel_answer(theirs, job.question.deadline_ms, ERROR_SCHEMA, NULL, "no schema");
    CU_ASSERT_EQUAL(receive(&desk, ours), ERROR_SCHEMA);
    EXPECT_TEXT(desk.text, "no schema");
    read_channel_release(&job);
    (void)close(ours);
    (void)close(theirs);
    close_desk(&desk);
}

/* ---- more than a socket holds */

struct answerer {
    struct desk *desk;
    struct page page;
};

static void *answer_one(void *argument)
{
    struct answerer *answerer = argument;
    struct read_channel_job job;
    int socket;

    while ((socket = read_channel_take(answerer->desk->queue[1])) < 0)
        ;
    if (read_channel_accept(socket, &job)) {
        read_channel_answer(socket, job.question.deadline_ms, ERROR_NONE, &answerer->page, "");
        read_channel_release(&job);
    }
    (void)close(socket);
    return NULL;
}

static void large_ones(void)
{
    struct desk desk;
    struct answerer answerer = { .desk = &desk };
    char *user = malloc(LARGE / 10), *payload = malloc(LARGE);
    pthread_t thread;
    int socket;

    CU_ASSERT_FATAL(user && payload);
    memset(user, 'u', LARGE / 10 - 1);
    user[LARGE / 10 - 1] = '\0';
    memset(payload, '7', LARGE);
    open_desk(&desk, LONG_MS);
    desk.question.remote_user = user;
    fill(&answerer.page, &desk.request, payload, LARGE);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, answer_one, &answerer), 0);
    socket = read_channel_ask(desk.queue[0], &desk.question);
    CU_ASSERT_FATAL(socket >= 0);
    CU_ASSERT_EQUAL(receive(&desk, socket), ERROR_NONE);
    (void)pthread_join(thread, NULL);
    expect_same(&desk.page, &answerer.page);
    (void)close(socket);
    page_release(&answerer.page);
    close_desk(&desk);
    free(user);
    free(payload);
}

/* Runs a reader whose answer says whether it received the topic names that were sent. */
static void *compare_one(void *argument)
{
    struct desk *desk = argument;
    struct read_channel_job job;
    int socket;
    bool same;

    while ((socket = read_channel_take(desk->queue[1])) < 0)
        ;
    if (read_channel_accept(socket, &job)) {
        same = job.request.topic_count == desk->request.topic_count;
        for (int i = 0; same && i < job.request.topic_count; i++)
            same = strcmp(job.request.topics[i].name, desk->request.topics[i].name) == 0 &&
                   strcmp(job.request.topics[i].quoted, desk->request.topics[i].quoted) == 0;
        read_channel_answer(socket, job.question.deadline_ms, ERROR_SCHEMA, NULL,
                            same ? "the same" : "others");
        read_channel_release(&job);
    }
    (void)close(socket);
    return NULL;
}

/* A question with the longest names, and as many of them as PGPOLL_MAX_TOPICS can allow. */
static void the_most_and_longest_topics(void)
{
    enum { MOST = 1000, NAME_CHARACTERS = 252 }; /* of 4 bytes; 4 digits replace the last one */
    struct json_object *topics = json_object_new_array(), *whole = json_object_new_object(), *detail = NULL;
    struct desk desk;
    pthread_t thread;
    const char *text;
    int socket;

    for (int i = 0; i < MOST; i++) {
        char name[4 * NAME_CHARACTERS + 1];

        for (int at = 0; at < NAME_CHARACTERS; at++)
            memcpy(name + (size_t)at * 4, "😀", 4);
        (void)snprintf(name + sizeof name - 5, 5, "%4u", (unsigned)i % 10000);
        CU_ASSERT_EQUAL_FATAL(json_object_array_add(topics, json_object_new_string(name)), 0);
    }
    CU_ASSERT_EQUAL_FATAL(json_object_object_add(whole, "topics", topics), 0);
    text = json_object_to_json_string_ext(whole, JSON_C_TO_STRING_PLAIN);
    open_desk(&desk, LONG_MS);
    poll_request_release(&desk.request);
    CU_ASSERT_EQUAL_FATAL(poll_request_parse(&desk.request, text, strlen(text), MOST, &detail), ERROR_NONE);
    desk.question.positions = calloc(MOST, sizeof *desk.question.positions);
    CU_ASSERT_PTR_NOT_NULL_FATAL(desk.question.positions);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, compare_one, &desk), 0);
    socket = read_channel_ask(desk.queue[0], &desk.question);
    CU_ASSERT_FATAL(socket >= 0);
    CU_ASSERT_EQUAL(receive(&desk, socket), ERROR_SCHEMA);
    EXPECT_TEXT(desk.text, "the same");
    (void)pthread_join(thread, NULL);
    (void)close(socket);
    free((void *)desk.question.positions);
    close_desk(&desk);
    json_object_put(whole);
}

/* ---- one side dies, or is late */

static void a_reader_that_is_gone(void)
{
    struct desk desk;
    struct read_channel_job job;
    int ours, theirs;

    open_desk(&desk, LONG_MS);
    ours = ask(&desk, &theirs, &job);
    (void)close(theirs);
    CU_ASSERT_EQUAL(receive(&desk, ours), ERROR_DATABASE_AWAY);
    EXPECT_TEXT(desk.text, "the reader process died");
    read_channel_release(&job);
    (void)close(ours);

    /* The reader ends in the middle of the answer. */
    ours = ask(&desk, &theirs, &job);
    CU_ASSERT_EQUAL(send(theirs, (char[9]){ 0 }, 9, 0), 9);
    (void)close(theirs);
    CU_ASSERT_EQUAL(receive(&desk, ours), ERROR_DATABASE_AWAY);
    read_channel_release(&job);
    (void)close(ours);

    /* All readers end before one has taken the question. */
    ours = read_channel_ask(desk.queue[0], &desk.question);
    CU_ASSERT_FATAL(ours >= 0);
    (void)close(desk.queue[1]);
    CU_ASSERT_EQUAL(receive(&desk, ours), ERROR_DATABASE_AWAY);
    CU_ASSERT(clock_monotonic_ms() < desk.question.deadline_ms);
    (void)close(ours);
    CU_ASSERT_EQUAL(read_channel_ask(desk.queue[0], &desk.question), -1);
    desk.queue[1] = -1;
    close_desk(&desk);
}

static void a_reader_that_is_late(void)
{
    struct desk desk;
    int ours;

    open_desk(&desk, SHORT_MS);
    ours = read_channel_ask(desk.queue[0], &desk.question);
    CU_ASSERT_EQUAL(receive(&desk, ours), ERROR_DATABASE_AWAY);
    CU_ASSERT(clock_monotonic_ms() >= desk.question.deadline_ms);
    EXPECT_TEXT(desk.text, "no reader process answered in time");
    (void)close(ours);
    close_desk(&desk);
}

static void a_worker_that_is_gone(void)
{
    struct desk desk;
    struct read_channel_job job;
    int ours, theirs;

    open_desk(&desk, LONG_MS);
    CU_ASSERT_EQUAL(read_channel_take(desk.queue[1]), -1);
    CU_ASSERT_EQUAL(errno, EAGAIN);
    ours = ask(&desk, &theirs, &job);
    (void)close(ours);
    read_channel_answer(theirs, desk.question.deadline_ms, ERROR_DATABASE_AWAY, NULL, "nobody hears it");
    read_channel_release(&job);
    (void)close(theirs);

    ours = read_channel_ask(desk.queue[0], &desk.question);
    (void)close(ours); /* the worker's question stays in the queue */
    theirs = read_channel_take(desk.queue[1]);
    CU_ASSERT_TRUE(read_channel_accept(theirs, &job));
    read_channel_release(&job);
    CU_ASSERT_FALSE(read_channel_accept(theirs, &job));
    (void)close(theirs);

    (void)close(desk.queue[0]);
    CU_ASSERT_EQUAL(read_channel_take(desk.queue[1]), -1);
    CU_ASSERT_EQUAL(errno, 0);
    desk.queue[0] = -1;
    close_desk(&desk);
}

/* A broken worker shuts the queue down for all. What is in it is still taken. */
static void a_queue_that_was_shut_down(void)
{
    static const int ways[] = { SHUT_WR, SHUT_RDWR };

    for (size_t i = 0; i < COUNT(ways); i++) {
        struct desk desk;
        int ours;

        open_desk(&desk, LONG_MS);
        ours = read_channel_ask(desk.queue[0], &desk.question);
        CU_ASSERT_FALSE(read_channel_is_closed(desk.queue[1]));
        CU_ASSERT_EQUAL(shutdown(desk.queue[0], SHUT_RD), 0); /* which harms nobody */
        CU_ASSERT_FALSE(read_channel_is_closed(desk.queue[1]));
        CU_ASSERT_EQUAL(shutdown(desk.queue[0], ways[i]), 0);
        CU_ASSERT_TRUE(read_channel_is_closed(desk.queue[1]));
        (void)close(read_channel_take(desk.queue[1]));
        (void)close(ours);
        EXPECT(read_channel_take(desk.queue[1]) == -1 && errno == 0, "way %d: the reader goes on", ways[i]);
        CU_ASSERT_EQUAL(read_channel_ask(desk.queue[0], &desk.question), -1);
        close_desk(&desk);
    }
}

/* ---- damage: whatever arrives is refused, or it is complete */

enum { MOST_DESCRIPTORS = 3 };

/* Sends a message of this size with this many descriptors through the queue, as a broken worker may. */
static void put_damaged(int queue, size_t size, const int *descriptors, size_t count)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(MOST_DESCRIPTORS * sizeof(int))];
    } control = { .space = { 0 } };
    struct iovec bytes = { (char[]){ "damage" }, size };
    struct msghdr message = { .msg_iov = &bytes, .msg_iovlen = 1 };

    if (count > 0) {
        struct cmsghdr *header;

        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(count * sizeof *descriptors);
        header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof *descriptors);
        memcpy(CMSG_DATA(header), descriptors, count * sizeof *descriptors);
    }
    CU_ASSERT_EQUAL_FATAL(sendmsg(queue, &message, MSG_DONTWAIT), (ssize_t)size);
}

/* Sends such a message with the ends of sockets, and expects that the reader goes on without them. */
static void expect_no_harm(struct desk *desk, size_t size, size_t count)
{
    int kept[MOST_DESCRIPTORS], passed[MOST_DESCRIPTORS] = { 0 }, taken;

    for (size_t i = 0; i < count; i++) {
        int pair[2];

        CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        kept[i] = pair[0];
        passed[i] = pair[1];
    }
    put_damaged(desk->queue[0], size, passed, count);
    taken = read_channel_take(desk->queue[1]);
    EXPECT(taken >= 0 || errno == EAGAIN, "%zu bytes, %zu descriptors: all workers have ended", size, count);
    if (taken >= 0)
        (void)close(taken);
    for (size_t i = 0; i < count; i++) {
        (void)close(passed[i]);
        EXPECT(recv(kept[i], &(char){ 0 }, 1, MSG_DONTWAIT) == 0,
               "%zu bytes, %zu descriptors: the reader has one", size, count);
        (void)close(kept[i]);
    }
}

static void damaged_messages_in_the_queue(void)
{
    static const size_t sizes[] = { 0, 1, 6 };
    struct read_channel_job job;
    struct desk desk;
    int ours, theirs;

    open_desk(&desk, LONG_MS);
    for (size_t i = 0; i < COUNT(sizes); i++)
        for (size_t count = 0; count <= MOST_DESCRIPTORS; count++)
            expect_no_harm(&desk, sizes[i], count);
    ours = ask(&desk, &theirs, &job);
    read_channel_release(&job);
    (void)close(ours);
    (void)close(theirs);
    put_damaged(desk.queue[0], 0, NULL, 0);
    (void)close(desk.queue[0]); /* and now all workers have ended */
    CU_ASSERT(read_channel_take(desk.queue[1]) == -1 && errno == 0);
    desk.queue[0] = -1;
    close_desk(&desk);
}

/* Records in out everything that send_it() writes to a socket. Returns the number of bytes. */
static size_t record(char *out, size_t size, void (*send_it)(struct desk *desk, int socket),
                     struct desk *desk)
{
    int pair[2];
    ssize_t length;

    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    send_it(desk, pair[0]);
    length = recv(pair[1], out, size, MSG_DONTWAIT);
    (void)close(pair[0]);
    (void)close(pair[1]);
    return length < 0 ? 0 : (size_t)length;
}

static void send_answer(struct desk *desk, int socket)
{
    struct page page;

    fill(&page, &desk->request, "[1,2,3]", 7);
    read_channel_answer(socket, desk->question.deadline_ms, ERROR_NONE, &page, "");
    page_release(&page);
}

static void send_error(struct desk *desk, int socket)
{
    read_channel_answer(socket, desk->question.deadline_ms, ERROR_DATABASE_QUERY, NULL,
                        "what PostgreSQL said");
}

/*
 * Returns a socket from which a recording can be read. A few of its bytes are changed and, sometimes, its end
 * is cut off. The other side of the socket is closed.
 */
static int damage(const char *whole, size_t length, unsigned *seed)
{
    static const char favourites[] = { 0, 1, 2, 0x7f, (char)0x80, (char)0xff };
    char copy[4096];
    int pair[2];

    memcpy(copy, whole, length);
    for (int i = rand_r(seed) % 4; i > 0; i--)
        copy[(size_t)rand_r(seed) % length] =
            rand_r(seed) % 2 ? (char)rand_r(seed) : favourites[(size_t)rand_r(seed) % sizeof favourites];
    if (rand_r(seed) % 4 == 0)
        length = (size_t)rand_r(seed) % length;
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CU_ASSERT_EQUAL(send(pair[1], copy, length, 0), (ssize_t)length);
    (void)close(pair[1]);
    return pair[0];
}

static void damaged_answers(void)
{
    void (*const senders[])(struct desk *, int) = { send_answer, send_error };
    struct desk desk;
    unsigned seed = 1, whole = 0, refused = 0;

    open_desk(&desk, LONG_MS);
    for (size_t kind = 0; kind < COUNT(senders); kind++) {
        char recorded[4096];
        size_t length = record(recorded, sizeof recorded, senders[kind], &desk);

        CU_ASSERT_FATAL(length > 0);
        for (int i = 0; i < DAMAGES; i++) {
            int socket = damage(recorded, length, &seed);

            if (receive(&desk, socket) == ERROR_NONE) {
                whole++;
                for (int k = 0; k < TOPICS; k++)
                    CU_ASSERT((unsigned)desk.page.topics[k].gap <= GAP_AHEAD);
            } else {
                refused++;
            }
            (void)close(socket);
        }
    }
    EXPECT(whole > 100 && refused > 100, "%u whole, %u refused", whole, refused);
    close_desk(&desk);
}

static void damaged_questions(void)
{
    struct desk desk;
    unsigned seed = 1, whole = 0, refused = 0;
    char recorded[4096];
    ssize_t length;
    int ours, theirs;

    open_desk(&desk, LONG_MS);
    ours = read_channel_ask(desk.queue[0], &desk.question);
    theirs = read_channel_take(desk.queue[1]);
    length = recv(theirs, recorded, sizeof recorded, MSG_DONTWAIT);
    CU_ASSERT_FATAL(length > 0);
    (void)close(ours);
    (void)close(theirs);
    for (int i = 0; i < DAMAGES; i++) {
        int socket = damage(recorded, (size_t)length, &seed);
        struct read_channel_job job;

        if (read_channel_accept(socket, &job)) {
            whole++;
            for (int k = 0; k < job.request.topic_count; k++)
                CU_ASSERT(strlen(job.request.topics[k].quoted) < sizeof recorded &&
                          strlen(job.request.topics[k].name) <= job.request.topics[k].length);
            read_channel_release(&job);
        } else {
            refused++;
        }
        (void)close(socket);
    }
    EXPECT(whole > 100 && refused > 100, "%u whole, %u refused", whole, refused);
    close_desk(&desk);
}

CU_TestInfo read_channel_tests[] = {
    { "a question and its answer", a_question_and_its_answer },
    { "large ones", large_ones },
    { "the most and longest topics", the_most_and_longest_topics },
    { "a reader that is gone", a_reader_that_is_gone },
    { "a reader that is late", a_reader_that_is_late },
    { "a worker that is gone", a_worker_that_is_gone },
    { "a queue that was shut down", a_queue_that_was_shut_down },
    { "damaged answers", damaged_answers },
    { "damaged questions", damaged_questions },
    { "damaged messages in the queue", damaged_messages_in_the_queue },
    CU_TEST_INFO_NULL,
};
