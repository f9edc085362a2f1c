/*
 * The scoreboard: the shared memory of a manager and its workers. It holds the message ring with its topics,
 * one slot per worker, the wait sets and a few numbers. The manager creates it with scoreboard_new(); the
 * fork server, which forks the workers, maps it with scoreboard_join(). Each process frees its own view with
 * scoreboard_free().
 *
 * There are three memories, each a sealed memfd_create(2) file. They hold no pointers, so each process may
 * map them at any address. struct scoreboard is one process's view of them, with all sizes and addresses.
 *   1. The manager's memory: the message ring, the topic table, the replies. Workers map it read-only, so
 *      they may trust it.
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
 * How a worker waits for messages: wait_sets.h. How processes wake each other: latch.h.
 * ARCHITECTURE.md, "Shared memory", explains why these protocols are right.
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
    SCOREBOARD_WORD_BITS = 64,    /* workers per word of a set */
    SCOREBOARD_BUCKETS = 256,     /* wait sets; a topic uses the one of its number modulo this */
    SCOREBOARD_ADDRESS_SIZE = 46, /* INET6_ADDRSTRLEN */
    SCOREBOARD_USER_SIZE = 1024,
    SCOREBOARD_HANDOVERS = 2,   /* a client with more than 2 * quota + this many polls is refused */
    SCOREBOARD_DESCRIPTORS = 5, /* that scoreboard_join() takes */
    SCOREBOARD_RESERVE_MAX = 32 /* idle workers that the manager tries to keep */
};

enum slot_state {
    SLOT_EMPTY, /* no process; the slot belongs to the manager */
    SLOT_IDLE,  /* accepting a connection */
    SLOT_SERVING,
    SLOT_WAITING,
    SLOT_STATES
};

/* What a worker asks the manager. */
enum question_kind {
    QUESTION_LOCATE,       /* LISTEN to these topics; where do they stand? */
    QUESTION_AUTHORIZE,    /* may this user poll these topics? */
    QUESTION_AUTHENTICATE, /* who sent this Authorization header? */
    QUESTION_KINDS
};

/* One topic of a slot: of its question (name_at, name_length) and of its waiting poll (topic). */
struct slot_topic {
    _Atomic int32_t topic;        /* the topic's number */
    _Atomic uint32_t name_at;     /* offset of the name in scoreboard_names() */
    _Atomic uint32_t name_length; /* bytes */
};

/* One worker's part of the workers' memory. */
struct slot {
    _Atomic int state; /* enum slot_state */
    _Atomic int woken; /* set before SIGUSR2 is sent; the worker clears it before it looks for work */
    _Atomic int drain; /* answer early, after this many ms; 0: no; see latch_drain() */
    _Atomic int has_read_permit; /* holds one of the permits of read_permits.h */
    /* The poll, for the choice of polls to drain and for the statistics. */
    _Atomic uint32_t wait_id; /* differs for each wait */
    _Atomic int64_t since_ms; /* the poll's start; with a quota it is set before the poll waits */
    _Atomic int64_t deadline_ms;
    char client[SCOREBOARD_ADDRESS_SIZE];
    char client_user[SCOREBOARD_USER_SIZE]; /* "": not authenticated */
    /* The question. */
    _Atomic uint32_t asked;               /* how many questions this slot has asked */
    _Atomic int question_kind;            /* enum question_kind */
    _Atomic int only_refresh;             /* the worker knows the answer, and does not wait for a newer one */
    _Atomic uint32_t token_length;        /* bytes of the token in scoreboard_names() */
    _Atomic int question_count;           /* topics asked about */
    _Atomic int64_t question_deadline_ms; /* after it the worker no longer waits for the reply */
    _Atomic uint64_t look;                /* the look that it waits for, or waited for last: see look.h */
    char user[SCOREBOARD_USER_SIZE];
    _Atomic int topic_count;    /* topics waited for */
    struct counters counters;   /* the worker adds to them, the manager empties them */
    struct slot_topic topics[]; /* max_topics entries, followed by the memory of scoreboard_names() */
};

/* In the manager's memory: the reply to a worker's question, about one topic. */
struct reply_topic {
    struct ring_topic_ref ref; /* RING_NO_TOPIC if the host already listens to as many topics as it can */
    int64_t newest;            /* its position in a snapshot taken after the question; -1: there is no ref */
    int64_t now; /* where a poll "from now" starts: newest, or the end of a backlog in progress */
};

struct reply {
    _Atomic uint32_t answered;       /* the value of asked in the question that was answered last */
    enum error error;                /* ERROR_NONE, a refusal, or why there is no answer */
    int refused_topic;               /* with ERROR_DENIED: which of the question's topics */
    char user[SCOREBOARD_USER_SIZE]; /* to QUESTION_AUTHENTICATE */
    struct reply_topic topics[];
};

/* The sizes from which the layout of all memories follows. */
struct scoreboard_plan {
    int worker_count;
    int max_topics;  /* of one poll */
    int topic_count; /* of all polls together */
    int max_readers; /* processes that read the table for the workers */
    size_t ring_messages, ring_bytes;
};

/* The head of the manager's memory. */
struct manager_memory {
    char version[16]; /* of the program that created it */
    struct scoreboard_plan plan;
    int reserve, manager_pid;
    uint64_t client_seed;               /* of the hashes in clients */
    _Atomic int64_t open_until_ms;      /* until then can_poll() is taken to allow everything */
    _Atomic int64_t anonymous_until_ms; /* until then authenticate() is taken to authenticate nobody */
    _Atomic int readers;                /* running processes that read the table for the workers */
    _Atomic int64_t
        numbers_until_ms; /* until then the manager gives new messages positions as it hears of them */
    _Atomic uint64_t looks_begun, looks_done, looks_refused; /* see look.h */
    _Atomic int looks_watched;
};

/* The head of the workers' memory. */
struct workers_memory {
    _Atomic int idle;                /* workers that accept; read it with scoreboard_idle() */
    _Atomic int stats_writer_sleeps; /* latch_wake_stats_writer() sets the latch only then */
    _Atomic int read_permits_left;   /* a futex(2) */
    _Atomic uint64_t polls;          /* polls begun */
};

/* The manager's copy of a worker's question. Each name is a valid topic name, with a NUL after it. */
struct question_topic {
    const char *name;
    size_t length;
    int number; /* the topic's number, set by the manager; -1: none yet, or the topic table is full */
};

struct question {
    enum question_kind kind;
    bool only_refresh;
    int64_t taken_ms, deadline_ms;
    uint64_t asker; /* the authorizer's: who must not occupy all its sessions */
    char user[SCOREBOARD_USER_SIZE];
    char *text; /* what the names point into, or the token */
    size_t text_size;
    struct question *next; /* in the authorizer's list */
    int topic_count;
    struct question_topic topics[];
};

struct scoreboard {
    /* The same in all processes. */
    int worker_count;
    int max_topics; /* of one poll */
    int topic_count;
    int manager_pid;
    int latch;        /* the manager's, an eventfd(2): see latch.h */
    int read_queue;   /* the workers' end of the queue of read_channel.h; the manager owns it */
    int set_words;    /* words per set */
    int reserve;      /* idle workers that the manager tries to keep */
    int read_permits; /* permits in all: as many as there may be readers */
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
    _Atomic uint64_t *askers;                        /* set of workers whose question was not looked at yet */
    _Atomic uint64_t *lookers;                       /* set of workers that wait for a look: see look.h */
    _Atomic uint64_t *wait_sets[SCOREBOARD_BUCKETS]; /* see wait_sets.h */
    _Atomic uint64_t *clients; /* by worker: its client's hash, see poll_quota.h; 0: none */
    char *slots;
    size_t workers_size, slot_stride;
    int workers_fd;
    /* The process ids. */
    _Atomic int *pids;   /* by worker; read-only in workers */
    _Atomic int *forked; /* the same memory, writable, in the fork server only */
    size_t pids_size;
    int pids_fd;
    /* Only the manager uses what follows. */
    struct question **questions; /* by worker: taken and not answered yet; NULL: none */
    int64_t missing_permits; /* taken but noted in no slot, at the last read_permits_mend(); < 0: too many */
    struct counters counters;
    /*
     * A test whether LISTEN works: the statistics writer's session NOTIFYs a channel that the relay's session
     * listens to.
     */
    char self_topic[128];         /* the channel's topic; nobody can publish to it */
    _Atomic int heartbeat_wanted; /* send a heartbeat as soon as possible */
    _Atomic int64_t heartbeat_ms; /* when the statement that sent the last heartbeat was started */
    _Atomic int listen_works;
    /* The deaf do not hear: heartbeats are sent regularly since then. */
    _Atomic int64_t heartbeats_since_ms;
    _Atomic int is_quiet; /* there were no polls for PGPOLL_IDLE_S, and no heartbeats are sent */
};

/*
 * Creates a scoreboard for so many waiting polls, with a few more workers as a reserve that stays free to
 * accept. max_topics: per poll; topics: of all polls together; ring_messages and ring_bytes: the capacity of
 * the message ring; readers: at most. The caller frees it with scoreboard_free(). NULL: no memory or no
 * descriptors; errno is set.
 */
struct scoreboard *scoreboard_new(int polls, int max_topics, int topics, size_t ring_messages,
                                  size_t ring_bytes, int readers);

/*
 * Frees a process's view; the memory itself lives as long as any view does. Leaves read_queue open: its owner
 * closes it.
 */
void scoreboard_free(struct scoreboard *scoreboard);

/* Writes the descriptors that scoreboard_join() takes. They stay the scoreboard's. */
void scoreboard_descriptors(const struct scoreboard *scoreboard,
                            int descriptors[static SCOREBOARD_DESCRIPTORS]);

/*
 * For the fork server: maps the manager's scoreboard. Takes over the descriptors, and closes those through
 * which a worker could write where it must not. Processes that the fork server forks share its view, but can
 * write only the workers' memory. NULL: the descriptors are no scoreboard, or one of another version; they
 * are closed.
 */
struct scoreboard *scoreboard_join(const int descriptors[static SCOREBOARD_DESCRIPTORS]);

/* A worker's bit in its word of a set. */
static inline uint64_t scoreboard_bit(int worker)
{
    return UINT64_C(1) << worker % SCOREBOARD_WORD_BITS;
}

/* A worker's slot, and the reply to its question. worker: from 0 to worker_count - 1. */
struct slot *scoreboard_slot(const struct scoreboard *scoreboard, int worker);
struct reply *scoreboard_reply(const struct scoreboard *scoreboard, int worker);

/*
 * The size in bytes of a slot's memory for names: max_topics names of the greatest length, or a token of the
 * greatest length.
 */
size_t scoreboard_names_size(int max_topics);

/* A slot's memory for the names in its question, or for its token, without NULs. */
char *scoreboard_names(const struct scoreboard *scoreboard, struct slot *slot);

/* For a worker whose question is answered: returns the memory of the names to the kernel. */
void scoreboard_free_names(const struct scoreboard *scoreboard, struct slot *slot);

/*
 * A worker's process id; 0: none. The fork server writes it before the worker runs, so also before it can
 * have died.
 */
int scoreboard_pid(const struct scoreboard *scoreboard, int worker);

/*
 * For a worker, now and then: drops the page tables of the manager's memory. The kernel keeps 4 KiB of page
 * table for each 2 MiB that a worker has read, which adds up to 120 KiB per worker with the default size of
 * the message ring. Exits the process if it fails.
 */
void scoreboard_trim(struct scoreboard *scoreboard);

/* ---- checked reads of the workers' memory, for the manager */

/* How many topics a worker waits for: 0 to max_topics. */
int scoreboard_topic_count(const struct scoreboard *scoreboard, const struct slot *slot);

/* The number of one of these topics; -1: the slot holds no valid number. */
int scoreboard_topic(const struct scoreboard *scoreboard, const struct slot *slot, int index);

/*
 * How many workers are idle: 0 to worker_count. A killed worker may make the count wrong; the manager
 * recounts.
 */
int scoreboard_idle(const struct scoreboard *scoreboard);

/* Whether a slot holds what a sound worker may have written; if not, the worker is broken. */
bool scoreboard_is_sound(const struct scoreboard *scoreboard, int worker);

/* ---- questions that the manager has taken (question.h) */

/* The question taken from this worker, borrowed until it is answered or dropped; NULL: none. */
struct question *scoreboard_question(const struct scoreboard *scoreboard, int worker);

/* Frees the question taken from this worker, if there is one. */
void scoreboard_drop_question(struct scoreboard *scoreboard, int worker);

/*
 * Returns the question taken from this worker, and forgets it; NULL: there is none. The caller frees it with
 * scoreboard_free_question().
 */
struct question *scoreboard_release_question(struct scoreboard *scoreboard, int worker);

/* Frees a question, and erases the token that it may hold. NULL is allowed. */
void scoreboard_free_question(struct question *question);

#endif
