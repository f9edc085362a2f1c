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
    struct accept_loop loop; /* main sets argv only */
    struct config config;
    struct scoreboard *scoreboard; /* NULL: no manager */
    int index;                     /* of the worker in the scoreboard, if there is one */
    struct slot *slot;             /* the worker's in the scoreboard, if there is one */
    struct counters *counters;     /* the slot's; without a manager, main's own */
    /* Set by worker_run(): */
    struct message_source *source;
    struct printbuf *answer; /* the buffer of the current answer */
    unsigned served;         /* how many requests */
    bool is_large;           /* the current request or its answer uses much memory */
};

/*
 * Serves polls until a signal ends the worker. source is taken over; NULL means that memory ran out. Returns
 * the exit status; errors have been logged.
 */
int worker_run(struct worker *worker, struct message_source *source);

#endif
