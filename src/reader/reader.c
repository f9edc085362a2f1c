#include "reader/reader.h"

#include "api/page.h"
#include "api/poll_request.h"
#include "core/backoff.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "postgres/catch_up.h"
#include "postgres/database.h"
#include "postgres/server_memory.h"
#include "postgres/timeline.h"
#include "shared/read_channel.h"
#include "shared/reader_state.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

/* A reader that has had no question for this long closes its connection and returns memory. */
enum { IDLE_MS = 1000 };

struct reader {
    const struct config *config;
    struct reader_state *state;
    struct database *database; /* as all other processes connect */
    struct database *copy;     /* of PGPOLL_CATCH_UP_SERVICE; NULL: not set */
    struct backoff backoff;    /* copy is used from backoff.due_ms on, unless it is a pooler */
    bool copy_failed;          /* that was logged */
};

static const struct backoff COPY_BACKOFF = { .first_ms = 50, .max_ms = 10000 };

static enum error read_from(const struct reader *reader, struct database *database,
                            const struct read_channel_question *question, bool number, struct page *page,
                            int64_t deadline_ms)
{
    struct catch_up_user user = { .name = question->remote_user };

    return catch_up_run(database, question->request, user.name ? &user : NULL, NULL, NULL, number,
                        question->positions, reader->config->page_bytes, page, deadline_ms);
}

/*
 * Whether a standby may have the answer: the read begins at positions, not at "now" or at "the last N", and
 * the user's rights, which may have changed, need not be checked.
 */
static bool suits_standby(const struct read_channel_question *question)
{
    bool suits = !question->remote_user;

    for (int i = 0; suits && i < question->request->topic_count; i++)
        suits = question->positions[i] >= 0;
    return suits;
}

/*
 * Whether this page of a standby is what the primary would answer, or would have answered a moment ago. It
 * has no messages that are missing on the standby, if more messages follow on the standby itself. Only the
 * primary knows whether a cursor is beyond the newest message.
 */
static bool is_page_final(const struct page *page)
{
    bool final = page->has_more;

    for (int i = 0; final && i < page->topic_count; i++)
        final = page->topics[i].gap != GAP_AHEAD;
    return final;
}

/* Notes whether copy works, and logs a change. */
static void note_copy(struct reader *reader, bool works)
{
    if (works)
        backoff_reset(&reader->backoff);
    else
        backoff_fail(&reader->backoff, clock_monotonic_ms());
    if (!works && !reader->copy_failed)
        log_write(LOG_LEVEL_WARNING,
                  "cannot read from the server of PGPOLL_CATCH_UP_SERVICE, reading from the primary: %s",
                  database_error(reader->copy));
    else if (works && reader->copy_failed)
        log_write(LOG_LEVEL_INFO, "reading from the server of PGPOLL_CATCH_UP_SERVICE again");
    reader->copy_failed = !works;
}

/*
 * Reads from copy. Returns whether *error and page are the answer; if they are not, the page is clear.
 *
 * If copy is a pooler that leads to the primary, all reads go there, and fail if it is away: without the
 * pooler, the readers' sessions could be too many for PostgreSQL. Any other server may be a standby. It gets
 * half of the time.
 */
static bool read_copy(struct reader *reader, const struct read_channel_question *question, struct page *page,
                      enum error *error)
{
    const int64_t now_ms = clock_monotonic_ms(), half_ms = now_ms + (question->deadline_ms - now_ms) / 2;
    bool answers;

    if (timeline_copy() == TIMELINE_COPY_UNKNOWN && now_ms >= reader->backoff.due_ms)
        note_copy(reader, database_probe(reader->copy, half_ms) == ERROR_NONE);
    if (timeline_copy() == TIMELINE_COPY_POOLER) {
        *error = read_from(reader, reader->copy, question, question->number, page, question->deadline_ms);
        answers = *error ? timeline_copy() == TIMELINE_COPY_POOLER : database_is_primary(reader->copy);
    } else if (now_ms >= reader->backoff.due_ms && suits_standby(question)) {
        *error = read_from(reader, reader->copy, question, false, page, half_ms);
        note_copy(reader, !*error);
        answers =
            !*error && (is_page_final(page) || (database_is_primary(reader->copy) && !question->number));
    } else {
        return false;
    }
    if (!answers)
        page_clear(page);
    return answers;
}

/*
 * Limits the deadline to what a sound worker sends, so that a broken one cannot occupy a reader for longer.
 */
static void bound_deadline(const struct reader *reader, struct read_channel_question *question)
{
    const int64_t now_ms = clock_monotonic_ms();

    question->deadline_ms =
        clock_max(now_ms, clock_min(question->deadline_ms, now_ms + reader->config->query_timeout_s * 1000));
}

static void serve(struct reader *reader, int socket)
{
    struct read_channel_job job;
    const struct read_channel_question *question = &job.question;
    struct database *asked = reader->database;
    struct page page;
    enum error error;

    if (!read_channel_accept(socket, &job))
        return; /* the worker has gone, or it will give up at its deadline */
    bound_deadline(reader, &job.question);
    if (page_init(&page, question->request->topic_count)) {
        if (reader->copy && read_copy(reader, question, &page, &error))
            asked = reader->copy;
        else
            error =
                read_from(reader, reader->database, question, question->number, &page, question->deadline_ms);
        read_channel_answer(socket, question->deadline_ms, error, &page, database_error(asked));
        page_release(&page);
    } else {
        read_channel_answer(socket, question->deadline_ms, ERROR_MEMORY, NULL, "out of memory");
    }
    read_channel_release(&job);
}

/* Closes the connections and returns unused memory to the system, after a while without questions. */
static void rest(struct reader *reader)
{
    database_close(reader->database, NULL);
    if (reader->copy)
        database_close(reader->copy, NULL);
    (void)malloc_trim(0);
}

/*
 * Watches the queue with EPOLLEXCLUSIVE, so that a question wakes only one idle reader. That is always the
 * same one as long as it keeps up. Returns an epoll descriptor, or -1 if this fails.
 */
static int watch(int queue)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE };
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);

    return epoll_fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, queue, &event) == 0 ? epoll_fd : -1;
}

/*
 * Ignores signals. One that is sent to all processes of the service is meant for the manager; a reader ends
 * when the queue is closed.
 */
static void ignore_signals(void)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE };

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        (void)signal(signals[i], SIG_IGN);
}

/*
 * Closes the web server's listening socket, which is standard input, so that connections are refused when no
 * worker is left.
 */
static bool close_listening_socket(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    bool done = fd >= 0 && dup2(fd, STDIN_FILENO) == STDIN_FILENO;

    (void)close(fd);
    return done;
}

static bool reader_init(struct reader *reader, const struct config *config)
{
    const char *service = config->catch_up_service;

    *reader = (struct reader){ .config = config,
                               .backoff = COPY_BACKOFF,
                               .database = database_new(config->query_timeout_s * 1000) };
    if (!reader->database || *service == '\0')
        return reader->database;
    reader->copy = database_new(config->query_timeout_s * 1000);
    return reader->copy && database_use_service(reader->copy, service);
}

static void reader_release(struct reader *reader)
{
    database_free(reader->database);
    database_free(reader->copy);
    reader_state_free(reader->state);
}

/* Serves the question that was sent with this socket, and tells the manager until when it works. */
static void take(struct reader *reader, int socket)
{
    const int64_t now_ms = clock_monotonic_ms();

    atomic_store(&reader->state->due_ms, now_ms + reader->config->query_timeout_s * 1000);
    (void)atomic_fetch_add(&reader->state->taken, 1);
    serve(reader, socket);
    (void)close(socket);
    atomic_store(&reader->state->due_ms, 0);
}

int reader_run(const struct config *config, int queue, int servers, int state)
{
    struct reader reader;
    int epoll_fd = watch(queue), socket = -1, timeout_ms = -1;

    ignore_signals();
    (void)prctl(PR_SET_NAME, "pgpoll-reader");
    if (!reader_init(&reader, config) || epoll_fd < 0 || !close_listening_socket() ||
        !server_memory_share(servers) || !(reader.state = reader_state_join(state))) {
        log_write(LOG_LEVEL_ERROR, "cannot set up a reader: %s", strerror(errno));
        reader_release(&reader);
        return EXIT_FAILURE;
    }
    atomic_store(&reader.state->due_ms, 0);
    do {
        struct epoll_event event;

        if (epoll_wait(epoll_fd, &event, 1, timeout_ms) == 0) {
            rest(&reader);
            timeout_ms = -1;
        }
        socket = read_channel_take(queue);
        if (socket >= 0) {
            take(&reader, socket);
            timeout_ms = IDLE_MS;
        }
    } while (socket >= 0 || errno);
    reader_release(&reader);
    (void)close(epoll_fd);
    return EXIT_SUCCESS;
}
