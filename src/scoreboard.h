/*
 * What a manager and its workers share: the window with its topics, a slot for each worker, a doorbell, a few numbers.
 * Made by the manager and joined by the process that forks the workers: one file in memory, mapped at one address in all.
 *
 * A slot is written by its worker, but for the fields that say otherwise. A worker asks the manager by filling its question,
 * raising asked and ringing; the question is the manager's until answered has caught up. A worker waits by entering its topics
 * and itself, and then looking at the window once more; the manager appends to the window and then looks who waits: one of the two
 * sees the other.
 */
#ifndef PGPOLL_SCOREBOARD_H
#define PGPOLL_SCOREBOARD_H

#include "error.h"
#include "tally.h"
#include "window.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    SCOREBOARD_BUCKETS = 256,     /* sets of waiting workers, by topic number */
    SCOREBOARD_ADDRESS_SIZE = 46, /* INET6_ADDRSTRLEN */
    SCOREBOARD_USER_SIZE = 1024,
    SCOREBOARD_HANDOVERS = 2, /* polls of a client that may be answered early at a time, beyond its number of places */
    SCOREBOARD_SHORTEST_WAIT_MS = 500, /* a poll is not answered early before it has lasted so long */
    SCOREBOARD_NAMES_SIZE = 64 * 1024  /* of all topics of one poll; POLL_REQUEST_MAX_BYTES */
};

enum slot_state {
    SLOT_EMPTY, /* no process; the manager's */
    SLOT_IDLE,  /* accepting */
    SLOT_SERVING,
    SLOT_WAITING
};

/* One topic of a slot's question and of its poll. */
struct slot_topic {
    _Atomic int32_t number;      /* while waiting */
    uint32_t name_at;            /* question: where in names */
    uint32_t name_length;        /* question: bytes */
    struct window_topic_ref ref; /* answer; WINDOW_NO_TOPIC: too many topics are listened to already */
    int64_t newest; /* answer: the newest position, in a snapshot taken after the question; of no topic: -1 */
};

struct slot {
    _Atomic int pid;      /* the manager's */
    _Atomic int state;    /* enum slot_state */
    _Atomic int woken;    /* set by who sends the signal, cleared by the worker before it looks */
    _Atomic int released; /* answer early: set by the manager or a newer poll of the same client */
    _Atomic int reading;  /* holds one of the scoreboard's reads */
    /* The poll, to choose whom to release and for the statistics. since_ms: also before it waits, if it has a place. */
    _Atomic uint32_t wait_number; /* another one for each wait */
    _Atomic int64_t since_ms, deadline_ms;
    char client[SCOREBOARD_ADDRESS_SIZE];
    /* Question and answer. */
    _Atomic uint32_t asked, answered;
    bool authorize;
    enum error answer; /* ERROR_NONE, ERROR_DENIED, or why can_poll() could not be asked */
    char user[SCOREBOARD_USER_SIZE];
    int question_count;        /* topics asked about */
    int64_t give_up_ms;        /* nobody waits for the answer any more */
    _Atomic int topic_count;   /* topics waited for */
    struct slot_topic *topics; /* as many as a poll may have */
    char *names;               /* SCOREBOARD_NAMES_SIZE */
    struct tally tally;        /* the manager takes what is counted */
};

struct scoreboard {
    char version[16];        /* of the program that made it */
    struct scoreboard *self; /* where it is mapped */
    size_t size;             /* of the memory, all that the pointers below point into */
    int fd;                  /* of the file; descriptors have the same numbers in all processes */
    int worker_count;
    int max_topics;
    int manager_pid;
    int doorbell;   /* an eventfd: rung for questions, and when few workers are left to accept */
    int read_queue; /* where workers ask for a page of the table (reading.h); the readers' end is the manager's */
    char *slots;
    struct window *window;
    struct topic_table *topics;
    _Atomic uint64_t *askers;                      /* a bit a worker */
    _Atomic uint64_t *waiting[SCOREBOARD_BUCKETS]; /* a bit a worker */
    int words;                                     /* in each of those */
    _Atomic uint64_t *clients;                     /* by worker: whose place its poll has, as a number; 0: nobody's */
    uint64_t client_seed;            /* so that nobody can choose an address that shares another's places */
    _Atomic int idle;                /* workers that accept */
    int reserve;                     /* so many of them the manager tries to keep */
    _Atomic int manager_left;        /* it answers nothing any more: who has finished a poll ends */
    _Atomic int stats_writer_sleeps; /* the statistics were up to date: who changes them rings */
    _Atomic int64_t open_until_ms;   /* can_poll() was seen to allow everything, and that is believed until then */
    sem_t reads;                     /* pages of the table that may still be asked for now */
    int most_reads;                  /* at a time: as many as there may be readers */
    int astray_reads;                /* the manager's: taken and held by nobody, when it last looked */
    _Atomic int readers;             /* processes that read the table for the workers */
    _Atomic uint64_t polls;          /* begun */
    struct tally tally;              /* the manager's own */
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
void scoreboard_free(struct scoreboard *scoreboard);

/* For the process that forks the workers: maps a scoreboard, given its file. NULL: it is none, or another version's. */
struct scoreboard *scoreboard_join(int fd);

struct slot *scoreboard_slot(const struct scoreboard *scoreboard, int number);

/*
 * For a worker, now and then: has the kernel forget which parts of the scoreboard it has looked at. Each 2 MiB of them cost it 4
 * KiB of page table, which in time makes 120 KiB a worker with the window's usual size.
 */
void scoreboard_trim(struct scoreboard *scoreboard);

/* How many pages of the table are being asked for. */
int scoreboard_reads(const struct scoreboard *scoreboard);

/*
 * For the manager, now and then: gives back reads that a worker had just taken, or was just giving back, when it was killed. They are
 * held by nobody at two looks running; so, once in a while, are those of living workers, and then there is one more until the next two.
 */
void scoreboard_mend_reads(struct scoreboard *scoreboard);

/* Rings the manager's doorbell. */
void scoreboard_ring(const struct scoreboard *scoreboard);

/* After anything in the statistics changed: they are to be written. */
void scoreboard_wake_stats_writer(struct scoreboard *scoreboard);

/* For a worker, and for the manager of a dead one: enters or leaves the sets of those who wait for the slot's topics. */
void scoreboard_enter(struct scoreboard *scoreboard, int number);
void scoreboard_leave(struct scoreboard *scoreboard, int number);

/*
 * For a worker: claims a place for this client's poll. The client is the user or, if that is "", the address. When it has
 * more polls than places, its oldest is answered early, and the new one goes on. A poll that is being answered early still
 * counts until it gives its place back: false when there are more than places + SCOREBOARD_HANDOVERS of those, beside the
 * places. The manager gives back what a dead worker had.
 */
bool scoreboard_take_place(struct scoreboard *scoreboard, int number, const char *user, const char *address,
                           int places);
void scoreboard_give_place(struct scoreboard *scoreboard, int number);

/* For the manager: wakes every worker that waits for this topic. */
void scoreboard_wake_topic(struct scoreboard *scoreboard, int topic);

/* For the manager: answers the slot's question; the rest of the answer is there already. */
void scoreboard_answer(struct slot *slot, enum error answer);

/* For the manager, and for workers: has a poll answered early. */
void scoreboard_release(struct slot *slot);

/* For the manager: wakes one worker, whatever it sleeps for. */
void scoreboard_wake(struct slot *slot);

#endif
