/*
 * Tells the host how the manager is: the statistics processes, through the file of host_state.h, and systemd,
 * through notify.h. Part of the manager, which gives it the facts in each turn of its loop. Never blocks. An
 * old manager (reexec.h) reports nothing.
 */
#ifndef PGPOLL_HOST_REPORT_H
#define PGPOLL_HOST_REPORT_H

#include "shared/host_health.h"
#include "shared/host_state.h"

#include <stdbool.h>
#include <stdint.h>

struct config;
struct scoreboard;

/* What the manager knows about itself. */
struct host_facts {
    bool ending, draining, has_old_managers;
    int running;         /* number of workers that live or that the fork server was asked for */
    int spawn_error;     /* why the last attempt to start workers failed; 0: it did not */
    int reload_failures; /* how often the program could not be executed again */
    int64_t away_since_ms;
};

struct host_report {
    const struct config *config;
    const struct scoreboard *scoreboard;
    struct host_state *state; /* NULL: there is no place for the file */
    int64_t started_ms;
    bool has_begun;        /* the workers of this program have begun */
    bool told_ready;       /* systemd knows that */
    enum host_stage stage; /* what the file says */
    bool away;             /* the file says that the database is away */
    char status[256];      /* what systemd shows */
    int64_t beat_ms;       /* when to write the file next */
    int64_t watchdog_ms;   /* when to tell systemd next that the loop turns */
};

/*
 * Creates the file. socket: the listening socket. config and scoreboard are borrowed. Logs if the file cannot
 * be created; everything else works without it.
 */
void host_report_init(struct host_report *report, const struct config *config,
                      const struct scoreboard *scoreboard, int socket, const struct host_facts *facts);
void host_report_release(struct host_report *report);

/* Returns when host_report_step() must be called next (monotonic ms). */
int64_t host_report_due_ms(const struct host_report *report);

/* Reports what is due or has changed. */
void host_report_step(struct host_report *report, const struct host_facts *facts, int64_t now_ms);

#endif
