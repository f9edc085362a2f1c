/*
 * A worker: POST /messages/poll, one poll at a time; alone, or one of many that have a manager. Set up by a program's main, all zero
 * but for what is said here.
 */
#ifndef PGPOLL_WORKER_H
#define PGPOLL_WORKER_H

#include "accept_loop.h"
#include "core/config.h"

#include <stdbool.h>

struct message_source;
struct printbuf;
struct scoreboard;
struct slot;
struct counters;

struct worker {
    struct accept_loop server;     /* main sets argv or leaves it */
    struct config config;          /* main's */
    struct scoreboard *scoreboard; /* main's; NULL: no manager */
    int number;                    /* main's, in the scoreboard */
    struct slot *slot;             /* main's, with the scoreboard */
    struct counters *counters;     /* main's, or the slot's */
    struct message_source *source;
    struct printbuf *answer; /* used for one after the other */
    unsigned served;
    bool is_large; /* this request or its answer takes much memory */
};

/* Its life. listener: taken; NULL: there was no memory for one. Returns the status to exit with; what went wrong is logged. */
int worker_run(struct worker *worker, struct message_source *source);

#endif
