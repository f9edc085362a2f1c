/*
 * The scoreboard: the shared memory of a manager and its workers. It holds the message ring with its topics,
 * one slot per worker, the wait sets and a few numbers. The manager creates it with scoreboard_new(). The
 * fork server, which forks the workers, maps it with scoreboard_join(). Each process frees its own view with
 * scoreboard_free().
 *
 * There are three memories, each a sealed memfd_create(2) file. They hold no pointers, so each process may
 * map them at any address. struct scoreboard is one process's view of them, with all sizes and addresses.
 *   1. The manager's memory: the message ring, the topic table, the access memories, the replies. Workers map
 *      it read-only, so they may trust it.
 *   2. The workers' memory: slots, wait sets, counters. The manager reads and writes it too, but a broken
 *      worker may have written anything there at any moment. Therefore the manager copies what it uses and
 *      checks the copy, uses no number from there as an index without a check, and keeps nothing there that
 *      it relies on.
 *   3. The workers' process ids. The manager and the fork server write them; workers may read them.
 *
 * How a worker asks the manager (question.h, source_shared.c):
 *   1. The worker writes the question into its slot, increments asked, sets its bit in askers and sets the
 *      manager's latch.
 *   2. The manager clears the latch, then clears the bit, then copies and checks the question.
 *   3. The manager writes the reply, then sets answered to asked, then wakes the worker.
 *   4. Until answered equals asked, the worker does not touch the question.
 * How a worker waits for messages: wait_sets.h. How processes wake each other: latch.h. ARCHITECTURE.md,
 * "Shared memory", explains why these protocols are right.
 */
#ifndef PGPOLL_SCOREBOARD_H
#define PGPOLL_SCOREBOARD_H

#include "core/error.h"
#include "shared/access_memory.h"
#include "shared/counters.h"
#include "shared/message_ring.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SCOREBOARD_WORD_BITS = 64,    /* number of workers per word of a set */
    SCOREBOARD_BUCKETS = 4096,    /* number of wait sets; topic n uses set n % SCOREBOARD_BUCKETS */
    SCOREBOARD_ADDRESS_SIZE = 46, /* INET6_ADDRSTRLEN */
    SCOREBOARD_USER_SIZE = 1024,
    SCOREBOARD_HANDOVERS = 2,   /* a client with more than 2 * quota + this many polls is refused */
    SCOREBOARD_DESCRIPTORS = 5, /* number of descriptors that scoreboard_join() takes */
    SCOREBOARD_RESERVE_MAX = 32 /* maximum number of idle workers that the manager tries to keep */
};

enum slot_state {
    SLOT_EMPTY, /* no process; the slot belongs to the manager */
    SLOT_IDLE,  /* the worker waits for a connection to accept */
    SLOT_SERVING,
    SLOT_WAITING,
    SLOT_STATES
};

/* What a worker asks the manager. */
enum question_kind {
    QUESTION_LOCATE,       /* keep the messages of these topics in the ring, and say where the topics stand */
    QUESTION_AUTHORIZE,    /* say whether this user may poll these topics */
    QUESTION_AUTHENTICATE, /* say which user sent this Authorization header */
    QUESTION_KINDS
};

/*
 * One topic of a slot. name_at and name_length belong to the slot's question, topic belongs to its waiting
 * poll.
 */
struct slot_topic {
    _Atomic int32_t topic;        /* the topic's number */
    _Atomic uint32_t name_at;     /* offset of the name in scoreboard_names() */
    _Atomic uint32_t name_length; /* length of the name in bytes */
};

/* One worker's part of the workers' memory. */
struct slot {
    _Atomic int state; /* enum slot_state */
    /* set by the waker before it sends SIGUSR2; the worker clears it before it looks for work */
    _Atomic int woken;
    /* the poll is to be answered early, when it has lasted this many ms; 0: it is not; see latch_drain() */
    _Atomic int drain;
    /* About the poll: for the choice of polls to drain, and for the statistics. */
    _Atomic uint32_t wait_id; /* identifies the wait; differs for each wait of the worker */
    /* the poll's start; with a quota it is set before the poll waits, see poll_quota_claim() */
    _Atomic int64_t since_ms;
    _Atomic int64_t deadline_ms;
    char client[SCOREBOARD_ADDRESS_SIZE];
    char client_user[SCOREBOARD_USER_SIZE]; /* the client's user; "": not authenticated */
    /* The question. */
    _Atomic uint32_t asked;    /* how many questions this slot has asked */
    _Atomic int question_kind; /* enum question_kind */
    _Atomic int only_refresh;  /* the worker knows the answer already, and does not wait for a newer one */
    _Atomic uint32_t token_length;        /* length in bytes of the token in scoreboard_names() */
    _Atomic int question_count;           /* number of topics asked about */
    _Atomic int64_t question_deadline_ms; /* after this time the worker no longer waits for the reply */
    _Atomic uint64_t look; /* number of the look that the worker waits for, or waited for last: see look.h */
    char user[SCOREBOARD_USER_SIZE];
    _Atomic int topic_count;    /* number of topics that the poll waits for */
    struct counters counters;   /* the worker adds to them, the manager empties them */
    struct slot_topic topics[]; /* max_topics entries, followed by the memory of scoreboard_names() */
};

/* In the manager's memory: the reply to a worker's question, about one topic. */
struct reply_topic {
    struct ring_topic_ref ref;
    /* the topic's newest position, in a snapshot taken after the question */
    int64_t newest;
    int64_t now; /* where a poll "from now" starts: at newest, or after a backlog that is being numbered */
};

struct reply {
    _Atomic uint32_t answered;       /* the value that asked had for the question that was answered last */
    enum error error;                /* ERROR_NONE, a refusal, or why there is no answer */
    int refused_topic;               /* with ERROR_DENIED: index of the refused topic in the question */
    char user[SCOREBOARD_USER_SIZE]; /* the answer to QUESTION_AUTHENTICATE */
    struct reply_topic topics[];
};

/* The sizes from which the layout of all memories follows. */
struct scoreboard_plan {
    int worker_count;
    int max_topics;  /* number of topics that one poll may have */
    int topic_count; /* how many topic numbers there are, see scoreboard_new() */
    int max_readers; /* number of processes that read the table for the workers */
    size_t ring_messages, ring_bytes;
};

/* The head of the manager's memory. */
struct manager_memory {
    char version[16]; /* version of the program that created this memory */
    struct scoreboard_plan plan;
    int reserve, manager_pid;
    uint64_t client_seed;          /* seed of the hashes in clients */
    _Atomic int64_t open_until_ms; /* until this time workers rely on can_poll() to allow everything */
    /* until this time workers rely on authenticate() to authenticate nobody */
    _Atomic int64_t anonymous_until_ms;
    _Atomic int readers;              /* number of processes that read the table for the workers now */
    _Atomic int read_permits_allowed; /* number of permits that may be taken at a time: see read_permits.h */
    /* until this time workers rely on the manager to give new messages positions as it hears of them */
    _Atomic int64_t numbers_until_ms;
    _Atomic uint64_t looks_begun, looks_done, looks_refused; /* see look.h */
    _Atomic int looks_watched;
};

/* The head of the workers' memory. */
struct workers_memory {
    _Atomic int idle; /* number of workers that wait for a connection; read it with scoreboard_idle() */
    /* the statistics writer sleeps, so latch_wake_stats_writer() must set the latch */
    _Atomic int stats_writer_sleeps;
    /* number of permits that are free; below 0: more are taken than are allowed now */
    _Atomic int read_permits_left;
    _Atomic uint64_t read_tickets; /* number of tickets for permits that workers have taken */
    _Atomic uint64_t polls;        /* number of polls that have begun */
};

/* The manager's copy of a worker's question. Each name is a valid topic name, with a NUL after it. */
struct question_topic {
    const char *name;
    size_t length;
    uint32_t name_at; /* offset of the name in the worker's scoreboard_names() */
    int number;       /* the topic's number, set by the manager; -1: none yet */
};

struct question {
    enum question_kind kind;
    bool only_refresh;
    int64_t taken_ms, deadline_ms;
    uint64_t asker; /* set by the authorizer: identifies the asker, who must not occupy all sessions */
    char user[SCOREBOARD_USER_SIZE];
    char *text; /* the memory of the topics' names, or the token */
    size_t text_size;
    struct question *next; /* the next question in the authorizer's list */
    int topic_count;
    struct question_topic topics[];
};

struct scoreboard {
    /* The same in all processes. */
    int worker_count;
    int max_topics; /* number of topics that one poll may have */
    int topic_count;
    int manager_pid;
    int latch;        /* the manager's latch, an eventfd(2): see latch.h */
    int read_queue;   /* the workers' end of the queue of read_channel.h; the manager owns it */
    int set_words;    /* number of words per set */
    int reserve;      /* number of idle workers that the manager tries to keep */
    int read_permits; /* number of permits in all: as many as there may be readers */
    /* The manager's memory. */
    struct manager_memory *manager;
    struct message_ring *ring;
    struct topic_table *topics;
    struct access_memory *permissions; /* by user and topic: a bool, whether can_poll() allows it */
    struct access_memory *users;       /* by token: the user's name, from authenticate() */
    char *replies;
    size_t manager_size, reply_stride;
    int manager_fd; /* -1: closed */
    /* The workers' memory. */
    struct workers_memory *workers;
    /* set of workers that have asked a question at which the manager has not looked yet */
    _Atomic uint64_t *askers;
    _Atomic uint64_t *lookers;   /* set of workers that wait for a look: see look.h */
    _Atomic uint64_t *wait_sets; /* SCOREBOARD_BUCKETS sets: see wait_sets.h */
    _Atomic uint64_t *clients;   /* by worker: the hash of its client, see poll_quota.h; 0: none */
    /* by worker: 0, or 1: it holds a permit of read_permits.h, or the ticket with which it waits for one */
    _Atomic uint64_t *read_turns;
    char *slots;
    size_t workers_size, slot_stride;
    int workers_fd;
    /* The process ids. */
    _Atomic int *pids;   /* by worker; read-only in workers */
    _Atomic int *forked; /* the same memory, writable, in the fork server only */
    size_t pids_size;
    int pids_fd;
    /* Only the manager uses what follows. */
    /* by worker: its question, if that is taken and not answered yet; NULL: none */
    struct question **questions;
    /*
     * how many permits were taken but noted in no slot at the last read_permits_mend(); < 0: there were too
     * many
     */
    int64_t missing_permits;
    struct counters counters;
    /*
     * How the manager tests whether LISTEN works: the statistics writer's session sends heartbeats, that is,
     * NOTIFYs on a channel that the relay's session LISTENs to.
     */
    char self_topic[128];         /* the topic of that channel; nobody can publish to it */
    _Atomic int heartbeat_wanted; /* the statistics writer is to send a heartbeat as soon as possible */
    _Atomic int64_t heartbeat_ms; /* when the statement that sent the last heartbeat was started */
    _Atomic int listen_works;
    int64_t statistics_ms; /* when the statistics writer wrote its last report; 0: never */
    /* Heartbeats have been sent regularly since this time. That none arrived before proves nothing. */
    _Atomic int64_t heartbeats_since_ms;
    _Atomic int is_quiet; /* there was no poll for PGPOLL_IDLE_S, and no heartbeats are sent */
};

/*
 * Creates a scoreboard for a number of waiting polls, with a few more workers as a reserve that stays free to
 * accept. max_topics: of one poll. ring_messages and ring_bytes: the capacity of the message ring. readers:
 * the maximum number of readers. The caller frees the scoreboard with scoreboard_free(). Returns NULL if
 * there is no memory or no descriptor; errno is set.
 *
 * There are numbers for twice as many topics as the workers can ask about together, because each worker may
 * wait for max_topics, and ask about as many others. So no poll is refused for lack of numbers. Memory is
 * taken only for numbers that are used.
 */
struct scoreboard *scoreboard_new(int polls, int max_topics, size_t ring_messages, size_t ring_bytes,
                                  int readers);

/*
 * Frees a process's view. The memory itself lives as long as any view does. Leaves read_queue open, because
 * its owner closes it.
 */
void scoreboard_free(struct scoreboard *scoreboard);

/* Writes the descriptors that scoreboard_join() takes. The scoreboard still owns them. */
void scoreboard_descriptors(const struct scoreboard *scoreboard,
                            int descriptors[static SCOREBOARD_DESCRIPTORS]);

/*
 * For the fork server: maps the manager's scoreboard. Takes over the descriptors, and closes those through
 * which a worker could write where it must not. Processes that the fork server forks share its view, but can
 * write only the workers' memory. Returns NULL if the descriptors are no scoreboard, or one of another
 * version; then all of them but read_queue are closed.
 */
struct scoreboard *scoreboard_join(const int descriptors[static SCOREBOARD_DESCRIPTORS]);

/* Returns a worker's bit in its word of a set. */
static inline uint64_t scoreboard_bit(int worker)
{
    return UINT64_C(1) << worker % SCOREBOARD_WORD_BITS;
}

/* Return a worker's slot, and the reply to its question. worker: from 0 to worker_count - 1. */
struct slot *scoreboard_slot(const struct scoreboard *scoreboard, int worker);
struct reply *scoreboard_reply(const struct scoreboard *scoreboard, int worker);

/*
 * Returns the size in bytes of a slot's memory for names. It has room for max_topics names of the greatest
 * length, and for a token of the greatest length.
 */
size_t scoreboard_names_size(int max_topics);

/* Returns a slot's memory for the names in its question, or for its token. They are stored without NULs. */
char *scoreboard_names(const struct scoreboard *scoreboard, struct slot *slot);

/* For a worker whose question is answered: gives the memory of the names back to the kernel. */
void scoreboard_free_names(const struct scoreboard *scoreboard, struct slot *slot);

/*
 * Returns a worker's process id, or 0 if it has no process. The fork server writes the id before the worker
 * runs, so it is there even if the worker dies at once.
 */
int scoreboard_pid(const struct scoreboard *scoreboard, int worker);

/* Returns how many workers have begun to accept requests, whether they are idle or busy now. */
int scoreboard_begun(const struct scoreboard *scoreboard);

/*
 * For a worker, now and then: drops the page tables of the manager's memory. The kernel keeps 4 KiB of page
 * table for each 2 MiB that a worker has read. With the default size of the message ring, that adds up to 120
 * KiB per worker. If this fails, exits the process.
 */
void scoreboard_trim(struct scoreboard *scoreboard);

/* ---- checked reads of the workers' memory, for the manager */

/* Returns how many topics a worker waits for: 0 to max_topics. */
int scoreboard_topic_count(const struct scoreboard *scoreboard, const struct slot *slot);

/* Returns the number of the worker's topic with this index, or -1 if the slot holds no valid number. */
int scoreboard_topic(const struct scoreboard *scoreboard, const struct slot *slot, int index);

/*
 * Returns how many workers are idle: 0 to worker_count. A killed worker may make the count wrong, until the
 * manager recounts.
 */
int scoreboard_idle(const struct scoreboard *scoreboard);

/* Whether a slot holds what a sound worker may have written. If not, the worker is broken. */
bool scoreboard_is_sound(const struct scoreboard *scoreboard, int worker);

/* ---- questions that the manager has taken (question.h) */

/*
 * Returns the question that was taken from this worker, borrowed until it is answered or dropped, or NULL if
 * there is none.
 */
struct question *scoreboard_question(const struct scoreboard *scoreboard, int worker);

/* Frees the question that was taken from this worker, if there is one. */
void scoreboard_drop_question(struct scoreboard *scoreboard, int worker);

/*
 * Returns the question that was taken from this worker, and forgets it, or returns NULL if there is none. The
 * caller frees the question with scoreboard_free_question().
 */
struct question *scoreboard_release_question(struct scoreboard *scoreboard, int worker);

/* Frees a question, and erases the token that it may hold. Accepts NULL. */
void scoreboard_free_question(struct question *question);

#endif
