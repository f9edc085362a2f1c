/*
 * What a manager and its workers share: the window with its topics, a slot for each worker, wait sets, a doorbell, a few numbers.
 * The manager makes it; the nursery, which forks the workers, joins it.
 *
 * There are three shared memories, each a file in memory that a process maps where it likes; they hold no pointers. struct scoreboard
 * is a process's own view of them, with all sizes and addresses.
 *   1. The manager's memory: the window, the topic table, replies. Workers map it read-only, so they may trust it.
 *   2. The workers' memory: slots, wait sets, counts. The manager reads and writes it as well, but a broken worker may have written
 *      anything there at any moment. Therefore the manager copies what it uses and checks the copy, uses no number from there as an
 *      index without a check, and keeps nothing there that it relies on.
 *   3. The workers' process ids, written by the manager and by the nursery when it forks. Workers may read it.
 *
 * How a worker asks: it fills the question in its slot, increments asked, sets its bit in askers and rings. The manager copies the
 * question, writes the reply, and sets the reply's answered to asked. Until then the worker leaves the question as it is.
 * How a worker waits: it enters its topics and itself into the wait sets, and then looks at the window once more; the manager appends
 * to the window and then looks at the wait sets: one of the two sees the other.
 */
#ifndef PGPOLL_SCOREBOARD_H
#define PGPOLL_SCOREBOARD_H

#include "error.h"
#include "tally.h"
#include "window.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SCOREBOARD_BUCKETS = 256,     /* wait sets, by topic number */
    SCOREBOARD_ADDRESS_SIZE = 46, /* INET6_ADDRSTRLEN */
    SCOREBOARD_USER_SIZE = 1024,
    SCOREBOARD_HANDOVERS = 2, /* polls of a client that may be answered early at a time, beyond its number of places */
    SCOREBOARD_SHORTEST_WAIT_MS = 500, /* a poll is not answered early before it has lasted so long */
    SCOREBOARD_DESCRIPTORS = 5         /* that scoreboard_join() needs */
};

enum slot_state {
    SLOT_EMPTY, /* no process; the manager's */
    SLOT_IDLE,  /* accepting */
    SLOT_SERVING,
    SLOT_WAITING,
    SLOT_STATES
};

/* One topic of a slot's question and of its poll. */
struct slot_topic {
    _Atomic int32_t number;       /* while waiting */
    _Atomic uint32_t name_at;     /* question: where in scoreboard_names() */
    _Atomic uint32_t name_length; /* question: bytes */
};

/* In the workers' memory: what one worker says. */
struct slot {
    _Atomic int state;    /* enum slot_state */
    _Atomic int woken;    /* set by who sends the signal, cleared by the worker before it looks */
    _Atomic int released; /* answer early: set by the manager or a newer poll of the same client */
    _Atomic int reading;  /* holds one of the scoreboard's reads */
    /* The poll, to choose whom to release and for the statistics. since_ms: also before it waits, if it has a place. */
    _Atomic uint32_t wait_number; /* another one for each wait */
    _Atomic int64_t since_ms, deadline_ms;
    char client[SCOREBOARD_ADDRESS_SIZE];
    /* The question. */
    _Atomic uint32_t asked;
    _Atomic int authorize;      /* whether the user may poll is to be asked, too */
    _Atomic int question_count; /* topics asked about */
    _Atomic int64_t give_up_ms; /* nobody waits for the answer any more */
    char user[SCOREBOARD_USER_SIZE];
    _Atomic int topic_count;    /* topics waited for */
    struct tally tally;         /* the manager takes what is counted */
    struct slot_topic topics[]; /* as many as a poll may have; behind them, scoreboard_names() */
};

/* In the manager's memory: the answer to a worker's question. */
struct reply_topic {
    struct window_topic_ref ref; /* WINDOW_NO_TOPIC: too many topics are listened to already */
    int64_t newest;              /* the newest position, in a snapshot taken after the question; of no topic: -1 */
};

struct reply {
    _Atomic uint32_t answered; /* what asked was in the question that was answered last */
    enum error error;          /* ERROR_NONE, ERROR_DENIED, or why can_poll() could not be asked */
    struct reply_topic topics[];
};

/* The sizes that say where everything is. */
struct scoreboard_plan {
    int worker_count;
    int max_topics;   /* of a poll */
    int topic_count;  /* of all polls */
    int most_readers; /* processes that read the table for the workers */
    size_t window_messages, window_bytes;
};

/* The beginning of the manager's memory. */
struct manager_memory {
    char version[16]; /* of the program that made it */
    struct scoreboard_plan plan;
    int reserve, manager_pid;
    uint64_t client_seed;
    _Atomic int64_t open_until_ms; /* can_poll() was seen to allow everything, and that is believed until then */
    _Atomic int readers;           /* processes that read the table for the workers */
};

/* The beginning of the workers' memory. */
struct workers_memory {
    _Atomic int idle;                /* workers that accept; scoreboard_idle() */
    _Atomic int stats_writer_sleeps; /* the statistics were up to date: who changes them rings */
    _Atomic int reads_left;          /* pages of the table that may still be asked for now; a futex */
    _Atomic uint64_t polls;          /* begun */
};

/* The manager's copy of a worker's question. Every name is valid as a topic's and ends with a NUL. */
struct question_topic {
    const char *name;
    size_t length;
    int number; /* the manager's: in the topic table, -1: no room */
};

struct question {
    bool authorize;
    int64_t give_up_ms;
    char user[SCOREBOARD_USER_SIZE];
    char *text; /* of all names */
    int topic_count;
    struct question_topic topics[];
};

enum question_taken {
    QUESTION_NONE,  /* nothing to do */
    QUESTION_TAKEN, /* scoreboard_question() has it until it is answered */
    QUESTION_BROKEN /* no worker that works writes that */
};

struct scoreboard {
    /* The same in all processes. */
    int worker_count;
    int max_topics; /* of a poll */
    int topic_count;
    int manager_pid;
    int doorbell;   /* an eventfd: rung for questions, and when few workers are left to accept */
    int read_queue; /* where workers ask for a page of the table (reading.h); the readers' end is the manager's */
    int words;      /* in each set */
    int reserve;    /* so many idle workers the manager tries to keep */
    int most_reads; /* at a time: as many as there may be readers */
    /* The manager's memory. */
    struct manager_memory *manager;
    struct window *window;
    struct topic_table *topics;
    char *replies;
    size_t manager_size, reply_stride;
    int manager_fd; /* -1: closed */
    /* The workers' memory. */
    struct workers_memory *workers;
    _Atomic uint64_t *askers;                      /* a bit a worker */
    _Atomic uint64_t *waiting[SCOREBOARD_BUCKETS]; /* a bit a worker */
    _Atomic uint64_t *clients;                     /* by worker: whose place its poll has, as a number; 0: nobody's */
    char *slots;
    size_t workers_size, slot_stride;
    int workers_fd;
    /* The process ids. */
    _Atomic int *pids;   /* by worker; read-only in workers */
    _Atomic int *forked; /* the same memory, for the nursery to write; workers do not have it */
    size_t pids_size;
    int pids_fd;
    /* Only the manager uses what follows. */
    struct question **questions; /* by worker: taken and not yet answered */
    int64_t astray_reads;        /* taken and held by nobody, when it last looked */
    struct tally tally;
    /* Whether LISTEN delivers: what one of the manager's connections sends to the other is heard, or not. */
    char self_topic[128];    /* one that cannot be published to */
    _Atomic int beat_wanted; /* a beat is to be sent at the next occasion */
    _Atomic int64_t sent_ms; /* when the last one that got to the database was begun */
    _Atomic int hears;
};

/*
 * Everything a scoreboard needs: for so many polls that wait at a time, and a few workers more, which stay free to accept; so
 * many topics altogether; a window of so many messages and bytes; so many readers. NULL: no memory or descriptors.
 */
struct scoreboard *scoreboard_new(int polls, int max_topics, int topics, size_t window_messages, size_t window_bytes,
                                  int readers);

/* Frees a view, and the memory when it was the last one. The read queue stays open, it is the caller's. */
void scoreboard_free(struct scoreboard *scoreboard);

/* The descriptors that scoreboard_join() takes; the scoreboard keeps them. */
void scoreboard_descriptors(const struct scoreboard *scoreboard, int descriptors[static SCOREBOARD_DESCRIPTORS]);

/*
 * For the nursery: maps the manager's scoreboard. Takes the descriptors; those that would let a worker write where it must not are
 * closed. Processes that it forks have the same view, but can write only the workers' memory. NULL: it is none, or another version's.
 */
struct scoreboard *scoreboard_join(const int descriptors[static SCOREBOARD_DESCRIPTORS]);

struct slot *scoreboard_slot(const struct scoreboard *scoreboard, int number);
struct reply *scoreboard_reply(const struct scoreboard *scoreboard, int number);

/* A slot's memory for the names of its question: room for as many of the longest as a poll may have. */
char *scoreboard_names(const struct scoreboard *scoreboard, struct slot *slot);

/* A worker's process id, 0: there is none. The nursery writes it before the worker runs, and so before it can have died. */
int scoreboard_pid(const struct scoreboard *scoreboard, int number);

/*
 * For a worker, now and then: has the kernel forget which parts of the manager's memory it has looked at. Each 2 MiB of them cost it 4
 * KiB of page table, which in time makes 120 KiB a worker with the window's usual size.
 */
void scoreboard_trim(struct scoreboard *scoreboard);

/* For a worker, once its question is answered: gives back the memory of the names in it. */
void scoreboard_forget_names(const struct scoreboard *scoreboard, struct slot *slot);

/* Rings the manager's doorbell. */
void scoreboard_ring(const struct scoreboard *scoreboard);

/* After anything in the statistics changed: they are to be written. */
void scoreboard_wake_stats_writer(struct scoreboard *scoreboard);

/* ---- reads: pages of the table that workers ask for at a time */

/* How many are being asked for. */
int scoreboard_reads(const struct scoreboard *scoreboard);

/* For a worker: takes one by give_up_ms, asleep until one is free; false: none was. */
bool scoreboard_take_read(struct scoreboard *scoreboard, int number, int64_t give_up_ms);

/* Gives back the one that the worker has, if it has one. For a worker, and for the manager of a dead one. */
void scoreboard_give_read(struct scoreboard *scoreboard, int number);

/*
 * For the manager, now and then: gives back reads that a worker had just taken, or was just giving back, when it was killed. They are
 * held by nobody at two looks running; so, once in a while, are those of living workers, and then there is one more until the next two.
 */
void scoreboard_mend_reads(struct scoreboard *scoreboard);

/* ---- waiting */

/* For a worker: enters or leaves the sets of those who wait for the slot's topics. */
void scoreboard_enter(struct scoreboard *scoreboard, int number);
void scoreboard_leave(struct scoreboard *scoreboard, int number);

/* How many topics a worker waits for, and the number of one of them, -1: it is none. */
int scoreboard_topic_count(const struct scoreboard *scoreboard, const struct slot *slot);
int scoreboard_topic(const struct scoreboard *scoreboard, const struct slot *slot, int index);

/*
 * For a worker: claims a place for this client's poll. The client is the user or, if that is "", the address. When it has
 * more polls than places, its oldest is answered early, and the new one goes on. A poll that is being answered early still
 * counts until it gives its place back: false when there are more than places + SCOREBOARD_HANDOVERS of those, beside the
 * places. The manager gives back what a dead worker had.
 */
bool scoreboard_take_place(struct scoreboard *scoreboard, int number, const char *user, const char *address,
                           int places);
void scoreboard_give_place(struct scoreboard *scoreboard, int number);

/* ---- the manager */

/* How many workers accept, as far as is known: 0 to worker_count. */
int scoreboard_idle(const struct scoreboard *scoreboard);

/* Takes a bit out of askers: the first worker from this number on that has one; -1: none. So one pass hears each of them once. */
int scoreboard_next_asker(struct scoreboard *scoreboard, int from);

/* Copies and checks the question of such a worker. */
enum question_taken scoreboard_take_question(struct scoreboard *scoreboard, int number);

/* The question that was taken; borrowed until it is answered. NULL: there is none. */
struct question *scoreboard_question(const struct scoreboard *scoreboard, int number);

/* Answers the question that was taken, if there is one; the topics of the reply are there already. */
void scoreboard_answer(struct scoreboard *scoreboard, int number, enum error answer);

/* Wakes every worker that waits for this topic. */
void scoreboard_wake_topic(struct scoreboard *scoreboard, int topic);

/* Wakes one worker, whatever it sleeps for. */
void scoreboard_wake(struct scoreboard *scoreboard, int number);

/* Has a poll answered early; a worker may call it, too. */
void scoreboard_release(struct scoreboard *scoreboard, int number);

/* Whether a slot has what a worker may have written there; if not, the worker is broken. */
bool scoreboard_is_sound(const struct scoreboard *scoreboard, int number);

/* Empties the slot of a dead worker: everything that it held is free. */
void scoreboard_forget_worker(struct scoreboard *scoreboard, int number);

#endif
