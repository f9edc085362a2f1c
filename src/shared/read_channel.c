#include "shared/read_channel.h"

#include "core/clock.h"
#include "core/wait.h"

#include <errno.h>
#include <json-c/printbuf.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    /* enough for 1,000 topics of 255 characters, which take 2.1 MB with their JSON */
    QUESTION_MAX_BYTES = 4 * 1024 * 1024,
    QUESTION_MS = 1000, /* how long a reader waits for a question; workers send theirs at once */
    CHUNK_BYTES = 64 * 1024
};

/* Both sides belong to one build and run on one machine, so structures are sent as they are in memory. */
struct question_head {
    uint32_t bytes; /* size of what follows: the topics' entries, the user if any, the topics' texts */
    int32_t topic_count;
    int32_t limit;
    uint32_t user_size; /* 0: no user needs to be checked */
    uint32_t number;
    int64_t deadline_ms;
};

struct topic_entry {
    int64_t position;
    uint32_t name_size, quoted_size;
};

struct answer_head {
    uint32_t error; /* enum error */
    int32_t topic_count;
    int32_t message_count;
    uint32_t has_more;
    int64_t first;
    uint64_t bytes; /* size of the messages' JSON, or of the error's text */
};

/* ---- bytes */

static bool is_temporary(void)
{
    return errno == EAGAIN || errno == EINTR;
}

/* How an attempt to receive something ended. */
enum receipt { RECEIVED, CLOSED, LATE, INVALID, NO_MEMORY };

static bool send_all(int socket, const void *data, size_t size, int64_t deadline_ms)
{
    const char *at = data;

    while (size > 0) {
        ssize_t sent = send(socket, at, size, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent >= 0) {
            at += sent;
            size -= (size_t)sent;
        } else if (!is_temporary() || !wait_for_fd(socket, POLLOUT, deadline_ms)) {
            return false;
        }
    }
    return true;
}

static enum receipt receive_all(int socket, void *data, size_t size, int64_t deadline_ms)
{
    char *at = data;

    while (size > 0) {
        ssize_t got = recv(socket, at, size, MSG_DONTWAIT);

        if (got > 0) {
            at += got;
            size -= (size_t)got;
        } else if (got == 0 || !is_temporary()) {
            return CLOSED;
        } else if (!wait_for_fd(socket, POLLIN, deadline_ms)) {
            return LATE;
        }
    }
    return RECEIVED;
}

/* ---- the queue */

bool read_channel_new_queue(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0;
}

/* Room for the one descriptor that each message in the queue carries. */
union control {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
};

static bool put(int queue, int socket, int64_t deadline_ms)
{
    union control control = { .space = { 0 } };
    struct iovec byte = { (char[]){ 0 }, 1 };
    struct msghdr message = { .msg_iov = &byte,
                              .msg_iovlen = 1,
                              .msg_control = control.space,
                              .msg_controllen = sizeof control.space };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof socket);
    memcpy(CMSG_DATA(header), &socket, sizeof socket);
    while (sendmsg(queue, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
        if (!is_temporary() || !wait_for_fd(queue, POLLOUT, deadline_ms))
            return false;
    return true;
}

bool read_channel_is_closed(int queue)
{
    struct pollfd end = { .fd = queue, .events = POLLRDHUP };

    return poll(&end, 1, 0) > 0 && (end.revents & (POLLHUP | POLLRDHUP));
}

int read_channel_take(int queue)
{
    union control control;
    struct iovec byte = { (char[]){ 0 }, 1 };
    /* CMSG_SPACE() would have room for a second descriptor. The kernel closes those without room. */
    struct msghdr message = { .msg_iov = &byte,
                              .msg_iovlen = 1,
                              .msg_control = control.space,
                              .msg_controllen = CMSG_LEN(sizeof(int)) };
    ssize_t got = recvmsg(queue, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *header = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int socket = -1;

    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(&socket, CMSG_DATA(header), sizeof socket);
    else
        /* An empty message, which a broken worker may send, is received as the end is. */
        errno = got == 0 && read_channel_is_closed(queue) ? 0 : EAGAIN;
    return socket;
}

/* ---- the question */

static char *append(char *at, const void *data, size_t size)
{
    memcpy(at, data, size);
    return at + size;
}

static size_t question_bytes(const struct read_channel_question *question)
{
    size_t bytes = question->remote_user ? strlen(question->remote_user) + 1 : 0;

    for (int i = 0; i < question->request->topic_count; i++)
        bytes += sizeof(struct topic_entry) + question->request->topics[i].length + 1 +
                 strlen(question->request->topics[i].quoted) + 1;
    return bytes;
}

static bool send_question(int socket, const struct read_channel_question *question)
{
    const struct poll_request *request = question->request;
    const size_t bytes = question_bytes(question);
    struct question_head head = { .bytes = (uint32_t)bytes,
                                  .topic_count = request->topic_count,
                                  .limit = request->limit,
                                  .number = question->number,
                                  .deadline_ms = question->deadline_ms };
    char *memory = bytes <= QUESTION_MAX_BYTES ? malloc(sizeof head + bytes) : NULL, *at = memory;
    bool sent;

    if (!memory)
        return false;
    if (question->remote_user)
        head.user_size = (uint32_t)strlen(question->remote_user) + 1;
    at = append(at, &head, sizeof head);
    for (int i = 0; i < request->topic_count; i++) {
        const struct poll_topic *topic = &request->topics[i];
        struct topic_entry entry = { question->positions[i], (uint32_t)topic->length + 1,
                                     (uint32_t)strlen(topic->quoted) + 1 };

        at = append(at, &entry, sizeof entry);
    }
    if (question->remote_user)
        at = append(at, question->remote_user, head.user_size);
    for (int i = 0; i < request->topic_count; i++) {
        at = append(at, request->topics[i].name, request->topics[i].length + 1);
        at = append(at, request->topics[i].quoted, strlen(request->topics[i].quoted) + 1);
    }
    sent = send_all(socket, memory, sizeof head + bytes, question->deadline_ms);
    free(memory);
    return sent;
}

int read_channel_ask(int queue, const struct read_channel_question *question)
{
    int pair[2];
    bool put_in;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    put_in = put(queue, pair[1], question->deadline_ms);
    /*
     * From here on only the queue, and later the reader, holds this end. So the worker notices when it is
     * closed there.
     */
    (void)close(pair[1]);
    if (put_in && send_question(pair[0], question))
        return pair[0];
    (void)close(pair[0]);
    return -1;
}

/*
 * Takes a text of size bytes, NUL included, from the *left bytes at *at. Advances *at and reduces *left.
 * Returns the text, or NULL if there is no such text.
 */
static const char *take_text(const char **at, size_t *left, size_t size)
{
    const char *text = *at;

    if (size == 0 || size > *left || text[size - 1] != '\0')
        return NULL;
    *at += size;
    *left -= size;
    return text;
}

/*
 * Fills the question from the received bytes: the topics' entries, then the texts. Returns false if they are
 * invalid.
 */
static bool decode(struct read_channel_job *job, const struct question_head *head, const char *data,
                   struct poll_topic *topics, int64_t *positions)
{
    const size_t entries = (size_t)head->topic_count * sizeof(struct topic_entry);
    const char *at = data + entries;
    size_t left = head->bytes - entries;

    if (head->user_size > 0 && !(job->question.remote_user = take_text(&at, &left, head->user_size)))
        return false;
    for (int i = 0; i < head->topic_count; i++) {
        struct topic_entry entry;

        memcpy(&entry, data + (size_t)i * sizeof entry, sizeof entry);
        positions[i] = entry.position;
        topics[i].name = take_text(&at, &left, entry.name_size);
        topics[i].quoted = topics[i].name ? take_text(&at, &left, entry.quoted_size) : NULL;
        if (!topics[i].quoted)
            return false;
        topics[i].length = entry.name_size - 1;
    }
    return left == 0;
}

static bool is_sound(const struct question_head *head)
{
    return head->bytes <= QUESTION_MAX_BYTES && head->topic_count > 0 && head->limit > 0 &&
           (size_t)head->topic_count <= head->bytes / sizeof(struct topic_entry);
}

bool read_channel_accept(int socket, struct read_channel_job *job)
{
    const int64_t deadline_ms = clock_monotonic_ms() + QUESTION_MS;
    struct question_head head;
    struct poll_topic *topics;
    int64_t *positions;
    size_t count;

    if (receive_all(socket, &head, sizeof head, deadline_ms) != RECEIVED || !is_sound(&head))
        return false;
    count = (size_t)head.topic_count;
    *job = (struct read_channel_job){ .memory = calloc(1, count * (sizeof *topics + sizeof *positions) +
                                                              head.bytes) };
    if (!job->memory)
        return false;
    topics = job->memory;
    positions = (int64_t *)(void *)(topics + count);
    job->request =
        (struct poll_request){ .topics = topics, .topic_count = head.topic_count, .limit = head.limit };
    job->question =
        (struct read_channel_question){ &job->request, positions, NULL, head.number, head.deadline_ms };
    if (receive_all(socket, positions + count, head.bytes, deadline_ms) == RECEIVED &&
        decode(job, &head, (const char *)(positions + count), topics, positions))
        return true;
    read_channel_release(job);
    return false;
}

void read_channel_release(struct read_channel_job *job)
{
    free(job->memory);
    job->memory = NULL;
}

/* ---- the answer */

void read_channel_answer(int socket, int64_t deadline_ms, enum error error, const struct page *page,
                         const char *text)
{
    struct answer_head head = { .error = (uint32_t)error };

    if (error) {
        head.bytes = strlen(text);
        (void)(send_all(socket, &head, sizeof head, deadline_ms) &&
               send_all(socket, text, head.bytes, deadline_ms));
        return;
    }
    head.topic_count = page->topic_count;
    head.message_count = page->message_count;
    head.has_more = page->has_more;
    head.first = page->first;
    head.bytes = (size_t)printbuf_length(page->messages);
    (void)(send_all(socket, &head, sizeof head, deadline_ms) &&
           send_all(socket, page->topics, (size_t)page->topic_count * sizeof *page->topics, deadline_ms) &&
           send_all(socket, page->messages->buf, head.bytes, deadline_ms));
}

/* Allocates memory only as the bytes arrive, so that a wrong length alone takes no memory. */
static enum receipt receive_json(int socket, uint64_t bytes, struct printbuf *out, int64_t deadline_ms)
{
    enum receipt receipt = RECEIVED;

    while (receipt == RECEIVED && bytes > 0) {
        int had = printbuf_length(out), chunk = (int)(bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES);

        if (printbuf_memset(out, -1, 0, chunk + 1) < 0)
            return NO_MEMORY;
        out->bpos--; /* the text ends before its NUL, as after any append to a printbuf */
        receipt = receive_all(socket, out->buf + had, (size_t)chunk, deadline_ms);
        bytes -= (uint64_t)chunk;
    }
    return receipt;
}

static enum receipt receive_page(int socket, const struct answer_head *head, struct page *page,
                                 int64_t deadline_ms)
{
    enum receipt receipt;

    if (head->topic_count != page->topic_count || head->message_count < 0 || head->bytes >= INT_MAX ||
        (head->message_count == 0) != (head->bytes == 0))
        return INVALID;
    receipt =
        receive_all(socket, page->topics, (size_t)page->topic_count * sizeof *page->topics, deadline_ms);
    for (int i = 0; receipt == RECEIVED && i < page->topic_count; i++)
        if ((unsigned)page->topics[i].gap > GAP_AHEAD)
            receipt = INVALID;
    if (receipt == RECEIVED)
        receipt = receive_json(socket, head->bytes, page->messages, deadline_ms);
    page->message_count = head->message_count;
    page->has_more = head->has_more;
    page->first = head->first;
    return receipt;
}

static enum receipt receive_text(int socket, const struct answer_head *head, char *text, int64_t deadline_ms)
{
    enum receipt receipt = INVALID;

    if (head->error < ERROR_COUNT && head->bytes < READ_CHANNEL_TEXT_SIZE)
        receipt = receive_all(socket, text, head->bytes, deadline_ms);
    if (receipt == RECEIVED)
        text[head->bytes] = '\0';
    return receipt;
}

enum error read_channel_receive(int socket, int64_t deadline_ms, struct page *page,
                                char text[static READ_CHANNEL_TEXT_SIZE])
{
    static const char *const problems[] = { [CLOSED] = "the reader process died",
                                            [LATE] = "no reader process answered in time",
                                            [INVALID] = "the reader process sent an invalid answer",
                                            [NO_MEMORY] = "out of memory" };
    struct answer_head head;
    enum receipt receipt = receive_all(socket, &head, sizeof head, deadline_ms);

    text[0] = '\0';
    if (receipt == RECEIVED)
        receipt = head.error ? receive_text(socket, &head, text, deadline_ms)
                             : receive_page(socket, &head, page, deadline_ms);
    if (receipt == RECEIVED)
        return (enum error)head.error;
    page_clear(page);
    (void)snprintf(text, READ_CHANNEL_TEXT_SIZE, "%s", problems[receipt]);
    return receipt == NO_MEMORY ? ERROR_MEMORY : ERROR_DATABASE_AWAY;
}
