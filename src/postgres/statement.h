/*
 * An SQL statement with its parameters in PostgreSQL's binary format, so that no value is ever quoted into
 * SQL text. The caller initialises and releases it. The SQL and text parameters are borrowed. If a statement
 * is copied, only one of the copies may be released.
 */
#ifndef PGPOLL_STATEMENT_H
#define PGPOLL_STATEMENT_H

#include <stdbool.h>
#include <stdint.h>

enum { STATEMENT_MAX_PARAMETERS = 7 };

struct poll_topic;

enum statement_use {
    STATEMENT_RUN,         /* parse, plan and run */
    STATEMENT_PREPARE,     /* parse, and keep it in the session under its name; the values do not matter */
    STATEMENT_RUN_PREPARED /* run what the session keeps under the name */
};

struct statement {
    const char *sql;
    const char *name; /* NULL: the statement cannot be prepared */
    enum statement_use use;
    int count;
    unsigned types[STATEMENT_MAX_PARAMETERS]; /* type OIDs */
    const char *values[STATEMENT_MAX_PARAMETERS];
    int lengths[STATEMENT_MAX_PARAMETERS];
    void *owned[STATEMENT_MAX_PARAMETERS]; /* the memory that values of numbers and arrays point to */
};

/*
 * Starts a statement without parameters. Each statement_add_*() appends the next of $1, $2, ...; up to
 * STATEMENT_MAX_PARAMETERS.
 */
void statement_init(struct statement *statement, const char *sql);
void statement_add_text(struct statement *statement, const char *text);

/* The following functions copy the value, and return false if out of memory. */
bool statement_add_int4(struct statement *statement, int32_t number);
bool statement_add_int8(struct statement *statement, int64_t number);

/* Appends the topics' names as text[]. */
bool statement_add_topics(struct statement *statement, const struct poll_topic *topics, int count);

/* Appends numbers as bigint[]. Each number that equals the parameter null becomes NULL. */
bool statement_add_int8s(struct statement *statement, const int64_t *numbers, int count, int64_t null);

/* Frees the parameters' memory. Accepts an all-zero statement. */
void statement_release(struct statement *statement);

#endif
