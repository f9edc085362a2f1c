#include "core/clock.h"
#include "postgres/addresses.h"
#include "postgres/database.h"
#include "postgres/database_state.h"

#include <stdio.h>
#include <string.h>

void pipeline_clear(struct pipeline *pipeline)
{
    for (int i = 0; i < pipeline->count; i++) {
        PQclear(pipeline->results[i]);
        pipeline->results[i] = NULL;
    }
    pipeline->count = 0;
}

/* Whether each of these statements has identify_again() before it. */
static bool identifies(const struct database *database, const struct pipeline *pipeline)
{
    return (database->pooled || database->service) && pipeline == &database->asked;
}

static bool send(PGconn *connection, const struct statement *statement)
{
    static const int binary[STATEMENT_MAX_PARAMETERS] = { 1, 1, 1, 1, 1, 1, 1 };

    if (statement->use == STATEMENT_PREPARE)
        return PQsendPrepare(connection, statement->name, statement->sql, statement->count, statement->types);
    if (statement->use == STATEMENT_RUN_PREPARED)
        return PQsendQueryPrepared(connection, statement->name, statement->count, statement->values,
                                   statement->lengths, binary, 1);
    return PQsendQueryParams(connection, statement->sql, statement->count, statement->types,
                             statement->values, statement->lengths, binary, 1);
}

/*
 * Notes that the connection was lost, and closes it if it ran the caller's statements. Otherwise the attempt
 * to connect goes on with the next address (connect_go_on()). Returns ERROR_DATABASE_AWAY.
 */
static enum error lose(struct database *database, const struct pipeline *pipeline)
{
    if (pipeline == &database->asked)
        return database_lose(database);
    session_add_reason(database, PQerrorMessage(database->connection));
    return ERROR_DATABASE_AWAY;
}

/* Sends each statement with a Sync of its own, which ends its transaction. */
enum error pipeline_start(struct database *database, struct pipeline *pipeline)
{
    pipeline->since_ms = clock_monotonic_ms();
    for (int i = 0; i < pipeline->count; i++)
        if ((identifies(database, pipeline) && !identify_again(database)) ||
            !send(database->connection, &pipeline->statements[i]) || !PQpipelineSync(database->connection))
            return lose(database, pipeline);
    return ERROR_PENDING;
}

enum error pipeline_start_asked(struct database *database)
{
    database->state = RUNNING;
    return pipeline_start(database, &database->asked);
}

/*
 * Whether a retry may succeed after an error of this class: connection lost (08), read-only as on a standby
 * (25), conflict with another transaction (40), out of resources (53), lock not available (55), shutdown or
 * cancelled (57), system error (58). See PostgreSQL manual, appendix A, "PostgreSQL Error Codes".
 */
static bool is_transient(const char *sqlstate)
{
    static const char *const classes[] = { "08", "25", "40", "53", "55", "57", "58" };

    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strncmp(sqlstate, classes[i], 2) == 0)
            return true;
    return false;
}

/* Whether a statement failed as on a standby: others succeed there, but a manager needs a primary. */
static bool is_of_standby(const char *sqlstate)
{
    return strncmp(sqlstate, "25", 2) == 0;
}

/* Whether a statement failed because it took too long: query_canceled or lock_not_available. */
static bool is_timeout(const char *sqlstate)
{
    return strcmp(sqlstate, "57014") == 0 || strcmp(sqlstate, "55P03") == 0;
}

/*
 * Whether a caller's statement itself calls a function that is not there: the schema was upgraded after this
 * session checked its version. An error inside of a function, which may be the operator's, has a context.
 */
static bool is_outdated(const struct database *database, const struct pipeline *pipeline,
                        const PGresult *result, const char *sqlstate)
{
    return pipeline == &database->asked && strcmp(sqlstate, "42883") == 0 &&
           !PQresultErrorField(result, PG_DIAG_CONTEXT);
}

/* Returns the error for a failed result. sqlstate: NULL if it did not come from the server. */
static enum error name_error(const struct database *database, const struct pipeline *pipeline,
                             const PGresult *result, const char *sqlstate)
{
    if (!sqlstate || is_transient(sqlstate))
        return ERROR_DATABASE_AWAY;
    return is_outdated(database, pipeline, result, sqlstate) ? ERROR_SCHEMA : ERROR_DATABASE_QUERY;
}

/*
 * Notes for the caller which of its statements failed and whether it took too long. Without a SQLSTATE, the
 * connection has failed.
 */
static void note_failure(struct database *database, const struct pipeline *pipeline, const char *sqlstate)
{
    database->failed = sqlstate ? pipeline->received : -1;
    database->timed_out = sqlstate && is_timeout(sqlstate);
    (void)snprintf(database->sqlstate, sizeof database->sqlstate, "%s", sqlstate ? sqlstate : "");
}

/* Stores the pipeline's first error: the server's message and, for a caller's statement, its hint. */
static void pipeline_fail(struct database *database, struct pipeline *pipeline, const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *hint = pipeline == &database->asked ? PQresultErrorField(result, PG_DIAG_MESSAGE_HINT) : NULL;
    char text[sizeof database->error];

    if (pipeline->outcome)
        return;
    if (pipeline == &database->asked)
        note_failure(database, pipeline, sqlstate);
    if (sqlstate && is_of_standby(sqlstate))
        addresses_avoid(database->list, database->address, database->next_address);
    (void)snprintf(text, sizeof text, "%s%s%s", message ? message : PQerrorMessage(database->connection),
                   hint ? ": " : "", hint ? hint : "");
    pipeline->outcome = database_fail(database, name_error(database, pipeline, result, sqlstate), text);
}

/*
 * Stores a result of the current statement; NULL is the end of its results, and changes nothing. If an error
 * follows the rows, the COMMIT has failed and undone what the statement did.
 */
static void pipeline_take(struct database *database, struct pipeline *pipeline, PGresult *result)
{
    PGresult **slot = &pipeline->results[pipeline->received];
    const ExecStatusType status = PQresultStatus(result);
    const bool succeeded = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;

    if (result && !succeeded)
        pipeline_fail(database, pipeline, result);
    if (succeeded && identifies(database, pipeline) && !pipeline->identified) {
        pipeline->identified = true;
        if (!pipeline->outcome)
            pipeline->outcome = identify_take(database, result);
        PQclear(result);
    } else if (succeeded && !*slot) {
        *slot = result;
    } else {
        PQclear(result);
    }
}

/* Does what lose() does before all results have arrived. Returns the result of the pipeline. */
static enum error lose_pipeline(struct database *database, const struct pipeline *pipeline)
{
    if (!pipeline->outcome)
        return lose(database, pipeline);
    if (pipeline == &database->asked)
        database_close(database, NULL); /* pipeline_fail() has stored the server's reason */
    return pipeline->outcome == ERROR_DATABASE_QUERY ? ERROR_DATABASE_AWAY : pipeline->outcome;
}

/*
 * For each statement, PQgetResult() returns its results, then NULL and, because of the Sync after it,
 * PGRES_PIPELINE_SYNC. If a statement fails, the results until its Sync are PGRES_PIPELINE_ABORTED.
 */
enum error pipeline_step(struct database *database, struct pipeline *pipeline)
{
    bool readable = PQconsumeInput(database->connection) == 1;

    if (readable && PQflush(database->connection) < 0)
        return lose(database, pipeline);
    while (pipeline->received < pipeline->count) {
        PGresult *result;

        if (readable && PQisBusy(database->connection))
            return ERROR_PENDING;
        /* On a broken connection, PQgetResult() returns what had arrived before, and then the reason. */
        result = PQgetResult(database->connection);
        if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
            PQclear(result);
            pipeline->received++;
            pipeline->since_ms = clock_monotonic_ms();
            pipeline->identified = false;
            continue;
        }
        pipeline_take(database, pipeline, result);
        if (PQstatus(database->connection) == CONNECTION_BAD)
            return lose_pipeline(database, pipeline);
    }
    if (!pipeline->outcome) {
        pipeline->count = 0; /* the caller owns the results now */
    } else {
        pipeline_clear(pipeline);
        if (pipeline->outcome != ERROR_DATABASE_QUERY && pipeline == &database->asked)
            database_close(database, NULL); /* a new session checks the version again */
    }
    return pipeline->outcome;
}
