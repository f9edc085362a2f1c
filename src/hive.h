/*
 * What a manager and its workers share: the window with its topics, a cell for each worker, a doorbell, a few numbers.
 * Made by the manager and joined by the process that forks the workers: one file in memory, mapped at one address in all.
 *
 * A cell is written by its worker, but for the fields that say otherwise. A worker asks the manager by filling its question,
 * raising asked and ringing; the question is the manager's until answered has caught up. A worker waits by entering its topics
 * and itself, and then looking at the window once more; the manager appends to the window and then looks who waits: one of the two
 * sees the other.
 */
#ifndef PGPOLL_HIVE_H
#define PGPOLL_HIVE_H

#include "error.h"
#include "tally.h"
#include "window.h"

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    HIVE_BUCKETS = 256,     /* sets of waiting workers, by topic number */
    HIVE_ADDRESS_SIZE = 46, /* INET6_ADDRSTRLEN */
    HIVE_USER_SIZE = 1024,
    HIVE_NAMES_SIZE = 64 * 1024 /* of all topics of one poll; POLL_REQUEST_MAX_BYTES */
};

enum cell_state {
    CELL_EMPTY, /* no process; the manager's */
    CELL_IDLE,  /* accepting */
    CELL_SERVING,
    CELL_WAITING
};

/* One topic of a cell's question and of its poll. */
struct cell_topic {
    _Atomic int32_t number;      /* while waiting */
    uint32_t name_at;            /* question: where in names */
    uint32_t name_length;        /* question: bytes */
    struct window_topic_ref ref; /* answer; WINDOW_NO_TOPIC: too many topics are listened to already */
    int64_t newest; /* answer: the newest position, in a snapshot taken after the question; of no topic: -1 */
};

struct cell {
    _Atomic int pid;      /* the manager's */
    _Atomic int state;    /* enum cell_state */
    _Atomic int woken;    /* set by who sends the signal, cleared by the worker before it looks */
    _Atomic int released; /* set by the manager: answer now, somebody else wants to poll */
    _Atomic int reading;  /* holds one of the hive's reads */
    /* The poll, for the manager to choose whom to release and for the statistics. */
    _Atomic uint32_t wait_number; /* another one for each wait */
    _Atomic int64_t since_ms, deadline_ms;
    char client[HIVE_ADDRESS_SIZE];
    /* Question and answer. */
    _Atomic uint32_t asked, answered;
    bool authorize;
    enum error answer; /* ERROR_NONE, ERROR_DENIED, or why can_poll() could not be asked */
    char user[HIVE_USER_SIZE];
    int question_count;        /* topics asked about */
    int64_t give_up_ms;        /* nobody waits for the answer any more */
    _Atomic int topic_count;   /* topics waited for */
    struct cell_topic *topics; /* as many as a poll may have */
    char *names;               /* HIVE_NAMES_SIZE */
    struct tally tally;        /* the manager takes what is counted */
};

struct hive {
    char version[16];  /* of the program that made it */
    struct hive *self; /* where it is mapped */
    size_t size;       /* of the memory, all that the pointers below point into */
    int fd;            /* of the file; descriptors have the same numbers in all processes */
    int worker_count;
    int max_topics;
    int manager_pid;
    int doorbell;   /* an eventfd: rung for questions, and when few workers are left to accept */
    int read_queue; /* where workers ask for a page of the table (reading.h); the readers' end is the manager's */
    char *cells;
    struct window *window;
    struct topic_table *topics;
    _Atomic uint64_t *askers;                /* a bit a worker */
    _Atomic uint64_t *waiting[HIVE_BUCKETS]; /* a bit a worker */
    int words;                               /* in each of those */
    _Atomic uint64_t *clients;               /* by worker: whose place its poll has, as a number; 0: nobody's */
    uint64_t client_seed;                    /* so that nobody can choose an address that shares another's places */
    _Atomic int idle;                        /* workers that accept */
    int reserve;                             /* so many of them the manager tries to keep */
    _Atomic int book_sleeps;                 /* the statistics were up to date: who changes them rings */
    _Atomic int64_t open_until_ms; /* can_poll() was seen to allow everything, and that is believed until then */
    sem_t reads;                   /* pages of the table that may still be asked for now */
    int most_reads;                /* at a time: as many as there may be readers */
    _Atomic int readers;           /* processes that read the table for the workers */
    _Atomic uint64_t polls;        /* begun */
    struct tally tally;            /* the manager's own */
    /* Whether LISTEN delivers: what one of the manager's connections sends to the other is heard, or not. */
    char self_topic[128];    /* one that cannot be published to */
    _Atomic int beat_wanted; /* a beat is to be sent at the next occasion */
    _Atomic int64_t sent_ms; /* when the last one that got to the database was begun */
    _Atomic int hears;
};

/*
 * Everything a hive needs: for so many polls that wait at a time, and a few workers more, which stay free to accept; so many topics
 * altogether; a window of so many messages and bytes; so many readers. NULL: no memory or descriptors.
 */
struct hive *hive_new(int polls, int max_topics, int topics, size_t window_messages, size_t window_bytes, int readers);
void hive_free(struct hive *hive);

/* For the process that forks the workers: maps a hive, given its file. NULL: it is none, or another version's. */
struct hive *hive_join(int fd);

struct cell *hive_cell(const struct hive *hive, int number);

/*
 * For a worker, now and then: has the kernel forget which parts of the hive it has looked at. Each 2 MiB of them cost it 4 KiB of page
 * table, which in time makes 120 KiB a worker with the window's usual size.
 */
void hive_trim(struct hive *hive);

/* How many pages of the table are being asked for. */
int hive_reads(const struct hive *hive);

/* Rings the manager's doorbell. */
void hive_ring(const struct hive *hive);

/* After anything in the statistics changed: they are to be written. */
void hive_wake_book(struct hive *hive);

/* For a worker: enters or leaves the set of those who wait for one of the cell's topics. */
void hive_enter(struct hive *hive, int number);
void hive_leave(struct hive *hive, int number);

/*
 * For a worker: takes one of the places that a client has, the user or, if that is "", the address. false: all are taken, or several
 * polls came for the last one at the same moment. What a dead worker had the manager gives back.
 */
bool hive_take_place(struct hive *hive, int number, const char *user, const char *address, int places);
void hive_give_place(struct hive *hive, int number);

/* For the manager: wakes every worker that waits for this topic. */
void hive_wake_topic(struct hive *hive, int topic);

/* For the manager: answers the cell's question; the rest of the answer is there already. */
void hive_answer(struct cell *cell, enum error answer);

/* For the manager: wakes one worker, whatever it sleeps for. */
void hive_wake(struct cell *cell);

#endif
