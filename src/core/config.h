/*
 * The configuration, which a program reads once, at start, from the PGPOLL_* environment variables. The table
 * in config.c is the only place that knows their names, defaults and limits, and --help prints it. libpq's
 * PG* variables configure the database connection.
 */
#ifndef PGPOLL_CONFIG_H
#define PGPOLL_CONFIG_H

#include "core/log_level.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * One member for each setting; the names follow the settings' names. Strings are borrowed from the
 * environment or constant, and never NULL.
 */
struct config {
    int64_t workers; /* 0: no manager; the process serves polls over its own connection */
    int64_t window_bytes;
    int64_t connections;
    int64_t max_topics;
    int64_t max_polls_per_client; /* 0: no limit */
    int64_t page_bytes;
    int64_t reread_s;
    int64_t idle_s;
    int64_t query_timeout_s;
    int64_t peer_timeout_s;
    int64_t heartbeat_s; /* 0: no heartbeats */
    int64_t access_connections;
    int64_t access_memory_s; /* 0: nothing is remembered */
    int64_t drain_s;         /* 0: SIGTERM ends the manager at once */
    int64_t health_away_s;
    const char *state_dir;        /* "": the directory of the listening socket */
    const char *catch_up_service; /* "": readers connect as other processes do */
    const char *cors_origin;      /* an origin list (cors.h) */
    const char *host;
    const char *log;
    enum log_level log_level;
};

/*
 * PGPOLL_ variables that are not settings but may be in the environment. config_load() accepts these names.
 * It refuses every other PGPOLL_ name that is not a setting, because it may be a typing error. Therefore code
 * that passes a new variable to the programs must add its name here.
 */
#define CONFIG_OLD_WORKERS "PGPOLL_OLD_WORKERS" /* set by a manager before it re-execs, for the new program */
#define CONFIG_PROGRAM "PGPOLL_PROGRAM"         /* read by pgpoll-check: the pgpoll.fcgi to run */
#define CONFIG_URL "PGPOLL_URL"                 /* set by deploy/local in $RUN/env: the web server's URL */

/*
 * Fills *config from the environment. Returns false if a value is invalid or a PGPOLL_ name is unknown; then
 * *config is untouched, and error (size bytes) says which variable is wrong, why, and what to write instead.
 */
bool config_load(struct config *config, char *error, size_t size);

/* Prints every setting with its help text, default and limits. */
void config_print_help(FILE *stream);

#endif
