/* Reads the statistics of all workers on all hosts from the database: the waiting polls and the counters. */
#ifndef PGPOLL_STATS_QUERY_H
#define PGPOLL_STATS_QUERY_H

#include "core/error.h"

#include <libpq-fe.h>
#include <stdint.h>

struct database;

enum stats_kind {
    STATS_JSON,   /* the row of pgpoll.stats, as a JSON object */
    STATS_METRICS /* all metrics, in Prometheus text format */
};

/*
 * Deletes stale rows of pgpoll.waiters and reads the statistics by deadline_ms. The text is in row 0, column
 * 0 of *result, which the caller clears. Returns the errors of database_run().
 */
enum error stats_read(struct database *database, enum stats_kind kind, PGresult **result,
                      int64_t deadline_ms);

#endif
