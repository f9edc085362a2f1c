/*
 * Reads messages from the table: builds the statements that call pgpoll.catch_up() and pgpoll.new_messages()
 * (sql/functions/) and decodes their rows. The only code that knows these functions' parameters and columns.
 */
#ifndef PGPOLL_CATCH_UP_H
#define PGPOLL_CATCH_UP_H

#include "api/page.h"
#include "core/error.h"

#include <libpq-fe.h>
#include <stdint.h>

struct database;
struct poll_request;
struct statement;

/*
 * Initialises a statement that reads a page for request, with a position for each topic and at most
 * page_bytes of payload and metadata. Returns false if out of memory. The caller releases the statement in
 * both cases.
 */
bool catch_up_statement(struct statement *statement, const struct poll_request *request,
                        const int64_t *positions, int64_t page_bytes);

enum catch_up_kind { CATCH_UP_TOPIC, CATCH_UP_MESSAGE, CATCH_UP_MORE };

/*
 * One row: the start of a topic's read, a message, or the mark that more messages follow. Texts are borrowed
 * from the result.
 */
struct catch_up_row {
    enum catch_up_kind kind;
    int topic_index;
    struct page_topic topic; /* for CATCH_UP_TOPIC */
    /*
     * For CATCH_UP_TOPIC, if the topic is read from now on: its newest position. During a backlog, "now" is a
     * later position than this.
     */
    int64_t newest;
    struct message message; /* for CATCH_UP_MESSAGE */
};

/* Decodes a row of the result of catch_up_statement(). */
struct catch_up_row catch_up_row(const PGresult *result, int row);

/*
 * Initialises the statement with which a manager assigns positions to new messages and reads them. Returns
 * false if out of memory.
 */
bool catch_up_batch_statement(struct statement *statement, int max_messages, int64_t max_bytes);

/* The result of catch_up_batch_statement(). */
struct catch_up_batch {
    bool read_only;   /* the database is read-only, so no positions can be assigned now */
    int assigned;     /* how many messages got positions */
    bool more;        /* there is a backlog: run the statement again at once */
    int64_t previous; /* there are no messages between this position and the first of the batch */
    /*
     * How many rows are messages, in order of positions: catch_up_message() decodes them, column 0 is the
     * topic. 0 if the batch exceeds the limits of the statement; then only the table has its messages.
     */
    int message_count;
};

struct catch_up_batch catch_up_batch(const PGresult *result);

/* Decodes the message in a row of either statement's result. Texts are borrowed from the result. */
struct message catch_up_message(const PGresult *result, int row);

/* Whose poll it is, to be checked before a read. */
struct catch_up_user {
    const char *name;  /* "": not authenticated */
    int refused_topic; /* set with ERROR_DENIED: the index of the topic that can_poll() refuses */
};

/*
 * Reads into a cleared page by deadline_ms. Sends up to four transactions in one network write:
 *  1. Checks whether the user may poll these topics, unless user is NULL.
 *  2. Runs first, unless it is NULL, and sets *first_is_true to whether it returned true.
 *  3. If number is set, assigns positions to one batch of new messages. Sets page->backlog if more are left.
 *  4. Reads the page.
 * Returns ERROR_NONE, ERROR_DENIED, ERROR_CAN_POLL_FAILED, ERROR_CAN_POLL_TIMEOUT, ERROR_MEMORY or an error
 * of database_run(); on errors the page is clear.
 */
enum error catch_up_run(struct database *database, const struct poll_request *request,
                        struct catch_up_user *user, const struct statement *first, bool *first_is_true,
                        bool number, const int64_t *positions, int64_t page_bytes, struct page *page,
                        int64_t deadline_ms);

#endif
