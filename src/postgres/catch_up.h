/*
 * Reads messages from the table: builds the statements that call pgpoll.catch_up(), pgpoll.new_messages(),
 * pgpoll.read_feed() and pgpoll.newest_positions() (sql/functions/) and decodes the rows of their results.
 * Only this module knows the parameters and columns of these functions.
 */
#ifndef PGPOLL_CATCH_UP_H
#define PGPOLL_CATCH_UP_H

#include "api/page.h"
#include "core/error.h"

#include <libpq-fe.h>
#include <stdint.h>

struct database;
struct poll_request;
struct poll_topic;
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
    struct message message;  /* for CATCH_UP_MESSAGE */
};

/* Decodes a row of the result of catch_up_statement(). */
struct catch_up_row catch_up_row(const PGresult *result, int row);

/*
 * Initialise the statements with which a manager reads all messages after a position into its ring, a page at
 * a time. catch_up_new_statement() first gives positions to new messages. after: the position;
 * CATCH_UP_FROM_NOW: read only messages that the statement itself gives positions to. wanted: messages of
 * other topics may come without payload or, if others is false, not at all. The statements have names. Return
 * false if out of memory.
 */
bool catch_up_new_statement(struct statement *statement, int max_messages, int64_t max_bytes, int64_t after,
                            const struct poll_topic *wanted, int wanted_count, bool others);
bool catch_up_feed_statement(struct statement *statement, int max_messages, int64_t max_bytes, int64_t after,
                             const struct poll_topic *wanted, int wanted_count);

/*
 * Initialises a statement that reads after a position at less than half of the cost of
 * catch_up_feed_statement(), but not everything: see catch_up_followed(). It has a name, and must be run as a
 * prepared statement, in a session that has run call_set_plans(). Returns false if out of memory.
 */
bool catch_up_followed_statement(struct statement *statement, int64_t after);

/*
 * What the result of one of these statements says. The rows for which catch_up_is_message() is true are
 * messages.
 */
struct catch_up_feed {
    bool read_only;      /* the database is read-only, so no message can get a position now */
    int assigned;        /* how many messages got positions */
    bool more;           /* run the statement again at once */
    int64_t complete_to; /* the rows have all messages after the position after, up to this one; 0: unknown */
    /* messages up to this position may have been deleted before they were read; 0: none */
    int64_t deleted_to;
};

struct catch_up_feed catch_up_feed(const PGresult *result);

/*
 * Does what catch_up_feed() does, for the result of catch_up_followed_statement(), which read after this
 * position. Its messages are whole, whatever their topic, except large ones and those that an operator has
 * deleted. Returns false if the result does not say enough; then catch_up_feed_statement() must read.
 */
bool catch_up_followed(const PGresult *result, int64_t after, struct catch_up_feed *feed);

bool catch_up_is_message(const PGresult *result, int row);

/* Returns the topic of the message in this row, and stores its length. Borrowed from the result. */
const char *catch_up_topic(const PGresult *result, int row, size_t *length);

/*
 * Whether the row has the message, not only its topic and position. If not, its topic is not wanted, or the
 * statement was that of catch_up_followed_statement() and the message is large or deleted.
 */
bool catch_up_is_whole(const PGresult *result, int row);

/* Initialises a statement that asks where these topics stand. Returns false if out of memory. */
bool catch_up_newest_statement(struct statement *statement, const struct poll_topic *topics, int count);

/* Where a topic stands. The result has one row for each topic, in the order of the topics asked about. */
struct catch_up_newest {
    int64_t newest; /* the topic's last position */
    int64_t now;    /* where a poll "from now" starts: after a backlog that is being numbered */
    uint32_t hash;  /* the topic's hash in announcements */
};

struct catch_up_newest catch_up_newest(const PGresult *result, int row);

/*
 * Decodes the message in a row of a result of one of the statements of this module. Texts are borrowed from
 * the result. The payload is NULL if it and the metadata have more bytes than the page of a manager may have.
 */
struct message catch_up_message(const PGresult *result, int row);

/* The user whose right to poll is checked before a read. */
struct catch_up_user {
    const char *name;  /* "": not authenticated */
    int refused_topic; /* set with ERROR_DENIED: the index of the topic that can_poll() refuses */
};

/*
 * Reads a page into page, which is cleared, by deadline_ms. Sends up to four transactions in one network
 * write:
 *  1. Checks whether the user may poll these topics, unless user is NULL.
 *  2. Runs the statement first, unless first is NULL, and sets *first_is_true to whether its result is true.
 *  3. If number is set, assigns positions to one batch of new messages. Sets page->backlog if more messages
 *     need positions.
 *  4. Reads the page.
 * Returns ERROR_NONE, ERROR_DENIED, ERROR_CAN_POLL_FAILED, ERROR_CAN_POLL_TIMEOUT, ERROR_MEMORY or an error
 * of database_run(); on errors the page is clear.
 */
enum error catch_up_run(struct database *database, const struct poll_request *request,
                        struct catch_up_user *user, const struct statement *first, bool *first_is_true,
                        bool number, const int64_t *positions, int64_t page_bytes, struct page *page,
                        int64_t deadline_ms);

#endif
