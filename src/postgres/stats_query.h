/* Reads statistics from the database: the waiting polls and the counters. */
#ifndef PGPOLL_STATS_QUERY_H
#define PGPOLL_STATS_QUERY_H

#include "core/error.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct database;

/*
 * Both delete stale rows of pgpoll.waiters first. The text is in row 0, column 0 of *result, which the caller
 * clears. They return the errors of database_run().
 */

/* Reads the row of pgpoll.stats, which is about all hosts, as a JSON object. */
enum error stats_read(struct database *database, PGresult **result, int64_t deadline_ms);

/*
 * Reads the metrics of this host in Prometheus text format. has_manager: omits the gauges that the host knows
 * from its manager.
 */
enum error stats_read_metrics(struct database *database, const char *host, bool has_manager,
                              PGresult **result, int64_t deadline_ms);

#endif
