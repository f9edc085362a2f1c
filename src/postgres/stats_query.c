#include "postgres/stats_query.h"

#include "postgres/calls.h"
#include "postgres/database.h"
#include "postgres/statement.h"

enum error stats_read(struct database *database, enum stats_kind kind, PGresult **result, int64_t deadline_ms)
{
    static const char *const queries[] = { [STATS_JSON] =
                                               "SELECT pg_catalog.row_to_json(s) FROM pgpoll.stats s",
                                           [STATS_METRICS] = "SELECT pgpoll.metrics()" };
    enum { SWEEP, READ, COUNT };
    struct statement statements[COUNT];
    PGresult *results[COUNT];
    enum error error;

    call_sweep_waiters(&statements[SWEEP]);
    statement_init(&statements[READ], queries[kind]);
    error = database_run(database, statements, COUNT, results, deadline_ms);
    if (error)
        return error;
    PQclear(results[SWEEP]);
    *result = results[READ];
    return ERROR_NONE;
}
