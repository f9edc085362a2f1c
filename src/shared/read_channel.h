/*
 * The channel between workers and readers: a worker asks for a page of the table, a reader reads the page and
 * answers.
 *
 * The manager creates one queue, a pair of connected sockets. All workers hold one end, all readers the
 * other.
 *   1. The worker makes a pair of sockets for its question, sends one of them through the queue, and writes
 *      the question to the other.
 *   2. A reader receives the socket from the queue, reads the question from it, and writes the answer to it.
 *   3. A side that dies or gives up closes its socket, and the other side sees that at once. The queue is not
 *      affected.
 * A broken worker can shut the queue down for all (shutdown(2)). Then the readers end, and the manager begins
 * anew with another queue (reader_pool.h).
 */
#ifndef PGPOLL_READ_CHANNEL_H
#define PGPOLL_READ_CHANNEL_H

#include "api/page.h"
#include "api/poll_request.h"
#include "core/error.h"

#include <stdbool.h>
#include <stdint.h>

enum { READ_CHANNEL_TEXT_SIZE = 512 }; /* size of an error's text, including its NUL */

struct read_channel_question {
    const struct poll_request *request; /* gives the topics' names and the limit */
    const int64_t *positions;           /* one per topic: the page has messages after it */
    const char *remote_user; /* the reader must check that this user may poll; NULL: no check is needed */
    /* the reader must give positions to new messages before it reads, because the manager does not */
    bool number;
    int64_t deadline_ms; /* monotonic; after this time the worker no longer waits for the answer */
};

/*
 * A question as a reader has received it. read_channel_accept() fills the job, read_channel_release() frees
 * what it holds.
 */
struct read_channel_job {
    struct read_channel_question question;
    struct poll_request request; /* question.request points to it */
    void *memory;                /* all other pointers in the job point into it */
};

/*
 * Creates the queue: ends[0] is the workers' end, ends[1] the readers'. The caller closes both. Returns false
 * if this fails; errno says why.
 */
bool read_channel_new_queue(int ends[2]);

/*
 * Whether no question can come any more, given the readers' end of the queue: all other processes have closed
 * the workers' end, or one has shut it down for writing.
 */
bool read_channel_is_closed(int queue);

/* ---- a worker */

/*
 * Sends the question, by its deadline. Returns the socket from which to receive the answer, which the caller
 * closes, or -1 if the question could not be sent.
 */
int read_channel_ask(int queue, const struct read_channel_question *question);

/*
 * Receives the answer by deadline_ms into page, which is cleared and has as many topics as the question.
 * Returns the reader's error; ERROR_DATABASE_AWAY if the reader died, was late or sent an invalid answer; or
 * ERROR_MEMORY. After an error the page is cleared, and text says what happened.
 */
enum error read_channel_receive(int socket, int64_t deadline_ms, struct page *page,
                                char text[static READ_CHANNEL_TEXT_SIZE]);

/* ---- a reader */

/*
 * Receives the next question's socket from the queue without waiting. Returns the socket, which the caller
 * closes, or -1 if there is none now (errno is EAGAIN) or the queue is empty and closed (errno is 0). Drops
 * what is no question.
 */
int read_channel_take(int queue);

/*
 * Receives the question. Returns false if the worker has gone or sent an invalid question, or memory ran out.
 */
bool read_channel_accept(int socket, struct read_channel_job *job);
void read_channel_release(struct read_channel_job *job);

/*
 * Sends the answer by deadline_ms: text if there is an error, otherwise page. If the worker has gone, does
 * nothing.
 */
void read_channel_answer(int socket, int64_t deadline_ms, enum error error, const struct page *page,
                         const char *text);

#endif
