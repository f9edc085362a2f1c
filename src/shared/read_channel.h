/*
 * What a worker that needs a page of the table and the reader that reads it for it say to each other.
 *
 * All workers hold one end of a queue and all readers the other. A worker makes a pair of sockets for its
 * question, puts one into the queue and writes the question to the other. A reader takes the socket, reads
 * the question, and writes the answer. Whoever dies or gives up closes its socket, which the other sees at
 * once; the queue is not disturbed.
 */
#ifndef PGPOLL_READ_CHANNEL_H
#define PGPOLL_READ_CHANNEL_H

#include "api/page.h"
#include "api/poll_request.h"
#include "core/error.h"

#include <stdbool.h>
#include <stdint.h>

enum { READ_CHANNEL_TEXT_SIZE = 512 }; /* of why it failed */

struct read_channel_question {
    const struct poll_request *request; /* its topics' names, its limit */
    const int64_t *positions;           /* one a topic */
    const char *remote_user;            /* NULL: nobody asks whether that user may poll */
    int64_t deadline_ms;                /* nobody waits for the answer any more */
};

/* A question that a reader received. Ended by reading_release(). */
struct read_channel {
    struct read_channel_question question;
    struct poll_request request; /* what question.request points to */
    void *memory;                /* what the rest points into */
};

/* Makes the queue: ends[0] for workers, ends[1] for readers. */
bool read_channel_new_queue(int ends[2]);

/* ---- a worker */

/*
 * Asks, by the question's deadline_ms. Returns the socket that the answer comes from, -1: nobody is there to
 * be asked.
 */
int read_channel_ask(int queue, const struct read_channel_question *question);

/*
 * Receives the answer into a cleared page of as many topics, by the same time or a little later.
 * ERROR_DATABASE_AWAY also when the reader died, was too slow or talks nonsense; text says so, or what the
 * reader said. After an error the page is clear.
 */
enum error read_channel_receive(int socket, int64_t deadline_ms, struct page *page,
                                char text[static READ_CHANNEL_TEXT_SIZE]);

/* ---- a reader */

/*
 * Takes the next question's socket, without waiting. -1: there is none now (EAGAIN), or all workers are gone
 * (0 in errno).
 */
int read_channel_take(int queue);

/* Receives the question. false: who asked is gone, or talks nonsense. */
bool read_channel_accept(int socket, struct read_channel *reading);
void read_channel_release(struct read_channel *reading);

/* Sends the answer: the page, or after an error the text. Who asked may be gone. */
void read_channel_answer(int socket, int64_t deadline_ms, enum error error, const struct page *page,
                         const char *text);

#endif
