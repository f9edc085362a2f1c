/*
 * An SQL statement with its parameters in PostgreSQL's binary format, so that nothing is ever quoted or glued.
 * Initialised and released by the caller; the SQL and text parameters are borrowed. May be copied, and is then released once.
 */
#ifndef PGPOLL_STATEMENT_H
#define PGPOLL_STATEMENT_H

#include <stdbool.h>
#include <stdint.h>

enum { STATEMENT_MAX_PARAMETERS = 7 };

struct poll_topic;

/*
 * SQL for statements that write: false on a read-only database (default_transaction_read_only), where they are left out. On a standby
 * they are not, and fail.
 */
#define STATEMENT_WRITABLE "(current_setting('transaction_read_only') = 'off' OR pg_is_in_recovery())"

struct statement {
    const char *sql;
    int count;
    unsigned types[STATEMENT_MAX_PARAMETERS]; /* type OIDs */
    const char *values[STATEMENT_MAX_PARAMETERS];
    int lengths[STATEMENT_MAX_PARAMETERS];
    void *owned[STATEMENT_MAX_PARAMETERS]; /* what values of numbers and arrays point to */
};

/* Starts a statement without parameters; each add appends $1, $2, ... and there are at most STATEMENT_MAX_PARAMETERS. */
void statement_init(struct statement *statement, const char *sql);
void statement_add_text(struct statement *statement, const char *text);

/* The others make copies; false: out of memory. */
bool statement_add_int4(struct statement *statement, int32_t number);
bool statement_add_int8(struct statement *statement, int64_t number);

/* Appends the topics' names as text[]. */
bool statement_add_topics(struct statement *statement, const struct poll_topic *topics, int count);

/* Appends numbers as bigint[], negative ones as NULL. */
bool statement_add_positions(struct statement *statement, const int64_t *numbers, int count);

/* Makes the one that asks whether the user ("": nobody) may poll these topics. remote_user is borrowed. false: out of memory. */
bool statement_may_poll(struct statement *statement, const char *remote_user, const struct poll_topic *topics,
                        int count);

void statement_release(struct statement *statement);

#endif
