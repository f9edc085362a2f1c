#include "postgres/database.h"
#include "postgres/database_state.h"
#include "postgres/timeline.h"

/*
 * Makes the statement that asks for the server's identity. The role may have been refused the functions that
 * show cluster and timeline, then the statement asks only whether the server is a standby.
 *
 * The timeline of a primary is in the name of its current WAL file, which changes at the promotion.
 * pg_control_checkpoint() shows the new one only after the first checkpoint. A standby shows its timeline
 * only in the control file, up to checkpoint_timeout later; the control file never shows a later one.
 */
static void make_statement(struct database *database, struct statement *statement)
{
    statement_init(statement,
                   database->hides_cluster
                       ? "SELECT 0::bigint, pg_is_in_recovery(), 0"
                       : "SELECT s.system_identifier, pg_is_in_recovery(), CASE WHEN pg_is_in_recovery()"
                         " THEN (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)"
                         "       FROM pg_control_checkpoint() c, pg_control_recovery() r)"
                         " ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END"
                         " FROM pg_control_system() s");
}

/* Takes the server's identity. Returns whether the server may be used; if not, *text says why. */
static bool take(struct database *database, const PGresult *result, char *text, size_t size)
{
    database->reached = (struct server){ .cluster = (uint64_t)database_int8(result, 0, 0),
                                         .standby = database_bool(result, 0, 1),
                                         .timeline = (uint32_t)database_int4(result, 0, 2) };
    if (database->service)
        timeline_note_copy(database->pooled && !database->reached.standby ? TIMELINE_COPY_POOLER
                                                                          : TIMELINE_COPY_SERVER);
    return timeline_admit(&database->reached, database->connection, database->service, text, size);
}

enum error identify_start(struct database *database)
{
    statement_release(&database->check_statement);
    make_statement(database, &database->check_statement);
    return connect_check_start(database, IDENTIFYING);
}

enum error connect_step_identifying(struct database *database)
{
    enum error error = pipeline_step(database, &database->check);
    char text[sizeof database->error];
    bool admitted;

    if (error == ERROR_DATABASE_QUERY && !database->hides_cluster) {
        database->hides_cluster = true;
        return identify_start(database);
    }
    if (error)
        return connect_go_on(database, error == ERROR_DATABASE_QUERY ? ERROR_DATABASE_AWAY : error);
    admitted = take(database, database->check_result, text, sizeof text);
    PQclear(database->check_result);
    database->check_result = NULL;
    return admitted ? connect_replace_start(database) : connect_try_next(database, text);
}

bool identify_again(struct database *database)
{
    struct statement statement;

    make_statement(database, &statement);
    return PQsendQueryParams(database->connection, statement.sql, 0, NULL, NULL, NULL, NULL, 1) == 1;
}

enum error identify_take(struct database *database, const PGresult *result)
{
    char text[sizeof database->error];

    return take(database, result, text, sizeof text) ? ERROR_NONE
                                                     : database_fail(database, ERROR_DATABASE_AWAY, text);
}

enum error identify_check(struct database *database)
{
    char text[sizeof database->error];

    if ((!database->service && !timeline_is_behind(&database->reached)) ||
        timeline_admit(&database->reached, database->connection, database->service, text, sizeof text))
        return ERROR_NONE;
    database_close(database, text);
    return ERROR_DATABASE_AWAY;
}
