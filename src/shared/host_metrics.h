/*
 * The metrics that a host knows without the database, in Prometheus text format: which version it runs,
 * whether the database can be read, and what its manager says in host_state.h. The statistics program writes
 * them before those of pgpoll.metrics(), which contain none of them.
 */
#ifndef PGPOLL_HOST_METRICS_H
#define PGPOLL_HOST_METRICS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct host_values;

/* Whether the statistics program can read the database. */
enum host_database {
    HOST_DATABASE_DOWN,
    HOST_DATABASE_UP,
    HOST_DATABASE_NOT_ASKED /* another request asks it; the manager may know */
};

struct host_metrics {
    const char *host; /* PGPOLL_HOST */
    enum host_database database;
    bool may_have_manager;            /* whether this host has a place for the file of host_state.h */
    const struct host_values *values; /* what host_state_read() returned; NULL: there is no file */
};

/* Writes the metrics. The caller checks the stream for errors. */
void host_metrics_write(FILE *stream, const struct host_metrics *metrics, int64_t now_ms);

#endif
