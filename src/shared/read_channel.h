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
 */
#ifndef PGPOLL_READ_CHANNEL_H
#define PGPOLL_READ_CHANNEL_H

#include "api/page.h"
#include "api/poll_request.h"
#include "core/error.h"

#include <stdbool.h>
#include <stdint.h>

enum { READ_CHANNEL_TEXT_SIZE = 512 }; /* of an error's text, with its NUL */

struct read_channel_question {
    const struct poll_request *request; /* gives the topics' names and the limit */
    const int64_t *positions;           /* one per topic */
    const char *remote_user;            /* check that this user may poll; NULL: no check is needed */
    bool number;                        /* first give positions to new messages: the manager does not */
    int64_t deadline_ms;                /* monotonic; the worker does not wait for the answer any longer */
};

/*
 * A question as a reader received it. read_channel_accept() fills it, read_channel_release() frees what it
 * holds.
 */
struct read_channel_job {
    struct read_channel_question question;
    struct poll_request request; /* question.request points to it */
    void *memory;                /* the other pointers point into it */
};

/*
 * Creates the queue: ends[0] is the workers' end, ends[1] the readers'. The caller closes both. false: errno
 * says why.
 */
bool read_channel_new_queue(int ends[2]);

/* ---- a worker */

/*
 * Sends the question, by its deadline. Returns the socket to receive the answer from, which the caller
 * closes; -1: it could not be sent.
 */
int read_channel_ask(int queue, const struct read_channel_question *question);

/*
 * Receives the answer by the deadline, into a cleared page of as many topics. Returns the reader's error;
 * ERROR_DATABASE_AWAY if the reader died, was late or sent an invalid answer; or ERROR_MEMORY. After an error
 * the page is cleared, and text says what happened.
 */
enum error read_channel_receive(int socket, int64_t deadline_ms, struct page *page,
                                char text[static READ_CHANNEL_TEXT_SIZE]);

/* ---- a reader */

/*
 * Receives the next question's socket from the queue without waiting; the caller closes it. -1: there is none
 * now (errno is EAGAIN), or all workers have ended (errno is 0).
 */
int read_channel_take(int queue);

/* Receives the question. false: the worker has gone or sent an invalid question, or memory ran out. */
bool read_channel_accept(int socket, struct read_channel_job *job);
void read_channel_release(struct read_channel_job *job);

/*
 * Sends the answer by the deadline: the page, or if there is an error, the text. It does not matter if the
 * worker has gone.
 */
void read_channel_answer(int socket, int64_t deadline_ms, enum error error, const struct page *page,
                         const char *text);

#endif
