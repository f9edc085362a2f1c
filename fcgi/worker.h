/*
 * A worker serves POST /messages/poll, one poll at a time, either alone or as one of a manager's workers. A
 * program's main creates it: all zero except for the members that main sets.
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
    /* Set by main: */
    struct accept_loop loop; /* main sets only its member argv */
    struct config config;
    struct scoreboard *scoreboard; /* NULL: no manager */
    int index;                     /* index of the worker's slot, if there is a scoreboard */
    struct slot *slot;             /* the worker's slot, if there is a scoreboard */
    struct counters *counters;     /* the slot's counters; without a manager, those of main */
    /* Set by worker_run(): */
    struct message_source *source;
    struct printbuf *answer; /* the buffer of the current answer */
    unsigned served;         /* how many requests the worker has served */
    bool is_large;           /* the current request or its answer uses much memory */
};

/*
 * Serves polls until a signal ends the worker. source is taken over; NULL means that memory ran out. Returns
 * the exit status; errors have been logged.
 */
int worker_run(struct worker *worker, struct message_source *source);

#endif
