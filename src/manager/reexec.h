/*
 * A reload: the manager executes the program again, under the same process id, and leaves its workers to a
 * copy of itself, the old manager (ARCHITECTURE.md, "Start, reload and end"; the protocol is in reexec.c).
 * This module is both sides: in the new program it ends the old children, in the old manager it ends the
 * workers. Part of the manager, which creates, drives and releases it.
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
    REEXEC_STEP_MS = 10,        /* between two steps of a reload; in each, a few workers start or end */
    REEXEC_LAST_WRITE_MS = 1000 /* how long a manager that ends tries to write its last statistics */
};

struct reexec {
    const struct config *config;
    struct scoreboard *scoreboard;
    char **argv;
    /* Old children: the children of the programs that ran under this process id before. */
    pid_t *managers, *others; /* one array, old managers first */
    int manager_count, other_count;
    enum { OLD_MANAGERS_SERVE, OLD_MANAGERS_END, OLD_OTHERS_END } stage;
    int64_t stage_deadline_ms; /* INT64_MAX: all were killed, and only their death ends the stage */
    /* For an old manager. */
    bool is_old;              /* this process is an old manager */
    int drained;              /* how many workers it has told to end */
    int64_t drain_ms;         /* when it tells the next ones */
    int64_t exit_deadline_ms; /* exits then even if polls are left; INT64_MAX: not all workers were told */
};

/*
 * Reads from the environment which children the previous program left to this process. config, argv (main's)
 * and scoreboard are borrowed. false: errno says why; call reexec_release() all the same.
 */
bool reexec_init(struct reexec *reexec, const struct config *config, char **argv,
                 struct scoreboard *scoreboard);
void reexec_release(struct reexec *reexec);

/* Whether a reload may begin now. */
bool reexec_may_begin(const struct reexec *reexec);

/*
 * Begins a reload. Ends the fork server. Returns in the old manager, which has neither a fork server nor
 * readers from then on, and, if the program cannot be executed, in the process that called it; the failure is
 * logged.
 */
void reexec_begin(struct reexec *reexec, struct fork_server *fork_server, struct reader_pool *pool);

/* How many workers are started or ended in one step of a reload. */
int reexec_step_size(const struct scoreboard *scoreboard);

/* Whether old children are left. */
bool reexec_has_children(const struct reexec *reexec);

/*
 * Ends the old children, step by step. stopping: the manager itself is ending. To be called in each turn of
 * the loop.
 */
void reexec_end_old(struct reexec *reexec, bool stopping, int64_t now_ms);

/*
 * When reexec_end_old() must be called next if no child dies before; monotonic ms, INT64_MAX: no old children
 * are left.
 */
int64_t reexec_due_ms(const struct reexec *reexec);

/* Removes a child that was waited for. Returns whether it was an old manager. */
bool reexec_forget_process(struct reexec *reexec, pid_t pid);

/*
 * In an old manager that was told to end: tells a few more workers to end. To be called in each turn of the
 * loop.
 */
void reexec_drain(struct reexec *reexec, int64_t now_ms);

/* When reexec_drain() or reexec_has_drained() must be called next; monotonic ms. */
int64_t reexec_drain_due_ms(const struct reexec *reexec);

/*
 * Whether an old manager may exit: its workers have answered their last polls, or the time for that is over.
 */
bool reexec_has_drained(const struct reexec *reexec, int64_t now_ms);

#endif
