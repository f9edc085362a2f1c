/* Who waits, for all workers on all hosts: what GET /messages/poll/stats answers. */
#ifndef PGPOLL_STATS_H
#define PGPOLL_STATS_H

#include "error.h"

#include <libpq-fe.h>
#include <stdint.h>

struct database;

/*
 * Reads the row of pgpoll.stats as one JSON object, the text at row 0, column 0 of *result, which the caller clears.
 * The errors of database_run().
 */
enum error stats_read(struct database *database, PGresult **result, int64_t deadline_ms);

#endif
