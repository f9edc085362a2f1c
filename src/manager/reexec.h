/*
 * A reload: the manager executes the program again, under the same process id, and leaves its workers to a
 * copy of itself, the old manager (ARCHITECTURE.md, "Start, reload and end"; the protocol is in reexec.c).
 * This module has the code of both sides: in the new program it ends the old children, in the old manager it
 * ends the workers. Part of the manager, which creates, drives and releases it.
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
    REEXEC_STEP_MS = 10, /* time between two steps of a reload; in each step, a few workers start or end */
    REEXEC_LAST_WRITE_MS = 1000 /* how long a manager that ends may take to write its last statistics */
};

struct reexec {
    const struct config *config;
    struct scoreboard *scoreboard;
    char **argv;
    /* Old children: those that were started by programs that ran under this process id before. */
    pid_t *managers, *others; /* one array, with the old managers first */
    int manager_count, other_count;
    enum { OLD_MANAGERS_SERVE, OLD_MANAGERS_END, OLD_OTHERS_END } stage;
    /*
     * when the stage is ended by force; INT64_MAX: that was done, and the stage ends when the children have
     * died
     */
    int64_t stage_deadline_ms;
    /* The rest is used by an old manager only. */
    bool is_old;      /* this process is an old manager */
    int drained;      /* how many workers this old manager has told to end */
    int64_t drain_ms; /* when to tell the next few workers to end */
    /* when to exit even if polls still wait; INT64_MAX: some workers have not been told to end yet */
    int64_t exit_deadline_ms;
};

/*
 * Reads from the environment which children, and which server memory, the previous program left to this
 * process. config, argv (main's) and scoreboard are borrowed. Returns false if this fails (errno says
 * why); call reexec_release() even then.
 */
bool reexec_init(struct reexec *reexec, const struct config *config, char **argv,
                 struct scoreboard *scoreboard);
void reexec_release(struct reexec *reexec);

/* Whether a reload may begin now. */
bool reexec_may_begin(const struct reexec *reexec);

/*
 * Begins a reload. The fork server has ended. On success this function returns only in the old manager, which
 * has neither a fork server nor readers from then on. If the program cannot be executed, the function logs
 * that and returns in the process that called it.
 */
void reexec_begin(struct reexec *reexec, struct fork_server *fork_server, struct reader_pool *pool);

/* Returns how many workers are started or ended in one step of a reload. */
int reexec_step_size(const struct scoreboard *scoreboard);

/* Whether some old children have not ended yet. */
bool reexec_has_children(const struct reexec *reexec);

/*
 * Ends the old children, step by step. stopping: whether the manager itself is ending. Call this function in
 * each turn of the manager's loop.
 */
void reexec_end_old(struct reexec *reexec, bool stopping, int64_t now_ms);

/*
 * Returns when reexec_end_old() must be called next if no child dies before (monotonic ms), or INT64_MAX if
 * there are no old children.
 */
int64_t reexec_due_ms(const struct reexec *reexec);

/*
 * Tells this module that waitpid(2) has reported the death of a child. Returns whether the child was an old
 * manager.
 */
bool reexec_forget_process(struct reexec *reexec, pid_t pid);

/*
 * For an old manager that was told to end: tells a few more workers to end. Call this function in each turn
 * of the manager's loop.
 */
void reexec_drain(struct reexec *reexec, int64_t now_ms);

/* Returns when reexec_drain() or reexec_has_drained() must be called next (monotonic ms). */
int64_t reexec_drain_due_ms(const struct reexec *reexec);

/*
 * Whether an old manager may exit: all its workers have answered their last polls, or they had enough time
 * to.
 */
bool reexec_has_drained(const struct reexec *reexec, int64_t now_ms);

#endif
