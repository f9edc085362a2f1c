#include "postgres/stats_query.h"

#include "postgres/calls.h"
#include "postgres/database.h"
#include "postgres/statement.h"

/* Runs a statement that owns no memory, after the sweep. */
static enum error sweep_and_read(struct database *database, const struct statement *read, PGresult **result,
                                 int64_t deadline_ms)
{
    enum { SWEEP, READ, COUNT };
    struct statement statements[COUNT] = { [READ] = *read };
    PGresult *results[COUNT];
    enum error error;

    call_sweep_waiters(&statements[SWEEP]);
    error = database_run(database, statements, COUNT, results, deadline_ms);
    if (error)
        return error;
    PQclear(results[SWEEP]);
    *result = results[READ];
    return ERROR_NONE;
}

enum error stats_read(struct database *database, PGresult **result, int64_t deadline_ms)
{
    struct statement statement;

    statement_init(&statement, "SELECT pg_catalog.row_to_json(s) FROM pgpoll.stats s");
    return sweep_and_read(database, &statement, result, deadline_ms);
}

enum error stats_read_metrics(struct database *database, const char *host, bool has_manager,
                              PGresult **result, int64_t deadline_ms)
{
    struct statement statement;

    statement_init(&statement,
                   has_manager ? "SELECT pgpoll.metrics($1, false)" : "SELECT pgpoll.metrics($1)");
    statement_add_text(&statement, host);
    return sweep_and_read(database, &statement, result, deadline_ms);
}
