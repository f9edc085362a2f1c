/*
 * Executes the program again, with the same process id, and hands the workers that run over to a copy of the manager, the
 * old manager (ARCHITECTURE.md, "Start, reload and end"). Both sides are here: the manager that has old children, and the old
 * manager. The manager's loop drives it.
 */
#ifndef PGPOLL_REEXEC_H
#define PGPOLL_REEXEC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct config;
struct fork_server;
struct reader_pool;
struct scoreboard;

enum {
    REEXEC_STEP_MS = 10, /* between two steps of a reload, in each of which a few workers start or end */
    REEXEC_LAST_WRITE_MS =
        1000 /* every manager that ends waits so long for its last statistics to be written */
};

struct reexec {
    const struct config *config;
    struct scoreboard *scoreboard;
    char **argv;
    /* Processes of the programs that ran in this process before. */
    pid_t *managers, *others; /* one array, managers first */
    int manager_count, other_count;
    enum { OLD_SERVE, OLD_MANAGERS_END, OLD_OTHERS_END } stage;
    int64_t due_ms; /* of the stage; INT64_MAX: only their death ends it */
    /* In an old manager. */
    bool is_old;      /* this is one */
    int drained;      /* workers that it has told to end */
    int64_t drain_ms; /* while it stops: the next step ... */
    int64_t end_ms;   /* ... and its end */
};

/*
 * Learns from the environment of the children that an earlier program left in this process. config, argv (main's) and
 * scoreboard: borrowed. false: errno says why; release it all the same.
 */
bool reexec_init(struct reexec *reexec, const struct config *config, char **argv,
                 struct scoreboard *scoreboard);
void reexec_release(struct reexec *reexec);

/* Whether the program may be executed again now. */
bool reexec_may_begin(const struct reexec *reexec);

/*
 * Executes the program again. Returns only in the old manager, which is then without a fork server and readers, and, if the
 * program could not be executed, in the process that stays as it is; that is logged.
 */
void reexec_begin(struct reexec *reexec, struct fork_server *fork_server, struct reader_pool *readers);

/* How many workers are started or ended in one step of a reload. */
int reexec_step_size(const struct scoreboard *scoreboard);

/* Whether children of an earlier program are left. */
bool reexec_has_children(const struct reexec *reexec);

/* Has the old children end, step by step. stopping: the manager itself is told to end. Call it in each turn. */
void reexec_end_old(struct reexec *reexec, bool stopping, int64_t now_ms);

/* When reexec_end_old() has something to do without any event: monotonic ms, INT64_MAX: never. */
int64_t reexec_due_ms(const struct reexec *reexec);

/* A child has died and was waited for. Returns whether it was an old manager. */
bool reexec_forget(struct reexec *reexec, pid_t pid);

/* For an old manager that was told to end: tells a few more workers to end. Call it in each turn. */
void reexec_drain(struct reexec *reexec, int64_t now_ms);

/* When reexec_drain() has something to do, or the old manager ends: monotonic ms. */
int64_t reexec_drain_due_ms(const struct reexec *reexec);

/* Whether an old manager may exit: its workers have answered their last polls, as far as they do in time. */
bool reexec_has_drained(const struct reexec *reexec, int64_t now_ms);

#endif
