/*
 * Configuration: PGPOLL_* environment variables, read once at start. The table in config.c is the only place that knows
 * their names, defaults and limits; --help prints it. The database is configured by libpq's own PG* variables.
 */
#ifndef PGPOLL_CONFIG_H
#define PGPOLL_CONFIG_H

#include "core/log_level.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Strings are borrowed from the environment or constant, and never NULL. */
struct config {
    int64_t workers; /* 0: one process, which LISTENs itself */
    int64_t window_bytes;
    int64_t connections;
    int64_t max_topics;
    int64_t max_polls_per_client; /* 0: no limit */
    int64_t page_bytes;
    int64_t reread_s;
    int64_t query_timeout_s;
    int64_t peer_timeout_s;
    int64_t heartbeat_s;          /* 0: none */
    const char *catch_up_service; /* "": none */
    const char *cors_origin;      /* a list for cors_allows() */
    const char *host;
    const char *log;
    enum log_level log_level;
};

/*
 * Variables with our prefix that are no settings. config_load() accepts them; every other unknown PGPOLL_ name it refuses,
 * for it is a typing error. Whoever gives our programs another one in their environment adds it here.
 */
#define CONFIG_OLD_WORKERS "PGPOLL_OLD_WORKERS" /* a manager gives it to the program that it becomes */
#define CONFIG_PROGRAM "PGPOLL_PROGRAM"         /* pgpoll-check: the pgpoll.fcgi to run */
#define CONFIG_URL "PGPOLL_URL"                 /* deploy/local: where the web server of $RUN/env answers */

/*
 * Reads the environment. false: a value is bad, or a PGPOLL_ name is unknown; error (size bytes) says which, why and what
 * to write instead, and *config is untouched.
 */
bool config_load(struct config *config, char *error, size_t size);

/* Prints every variable with its default and limits. */
void config_print_help(FILE *stream);

#endif
