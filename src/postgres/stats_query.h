/* For all workers on all hosts: who waits, and what they counted. */
#ifndef PGPOLL_STATS_QUERY_H
#define PGPOLL_STATS_QUERY_H

#include "core/error.h"

#include <libpq-fe.h>
#include <stdint.h>

struct database;

enum stats_kind {
    STATS_JSON,   /* the row of pgpoll.stats as one JSON object */
    STATS_METRICS /* Prometheus text format */
};

/* Reads one as the text at row 0, column 0 of *result, which the caller clears. The errors of database_run(). */
enum error stats_read(struct database *database, enum stats_kind kind, PGresult **result,
                      int64_t deadline_ms);

#endif
