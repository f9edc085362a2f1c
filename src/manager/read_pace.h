/*
 * Decides how many permits to read the table (read_permits.h) may be taken at a time. Readers compete with
 * publishers and with the relay for the database's processors: each that works takes as large a share as a
 * publisher. So when the relay's cycles take several times as long as they do while nobody reads, fewer
 * readers may work, and more again when cycles are fast or rare. The relay, which is the owner, reports its
 * cycles, which it makes anyway. This module only decides and logs. Holds no resources.
 *
 * The measure is relative, so that a slow or distant database has as many readers as a fast one. What is
 * usual is learnt whenever nobody reads. If reads never pause, it rises slowly while only the fewest readers
 * work: then cycles are slow for another reason.
 *
 * When clients begin to read while messages are published, or come back after a fault, the fewest readers may
 * work, and soon more if cycles stay fast. Otherwise thousands of clients that come back in the same moment
 * would meet the readers at full strength, when the web server and the workers need the processors as well.
 */
#ifndef PGPOLL_READ_PACE_H
#define PGPOLL_READ_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { READ_PACE_SAMPLES = 32 };

struct read_pace {
    int max;                            /* PGPOLL_CONNECTIONS */
    int allowed;                        /* how many permits may be taken now, from 1 to max */
    int64_t samples[READ_PACE_SAMPLES]; /* the cost of each cycle of this interval, in ns */
    int sample_count;
    int64_t busy_us;  /* how long these cycles took together */
    bool reads;       /* readers worked in this interval */
    int64_t since_ms; /* when the interval began */
    bool follows;     /* the cycles are those of a manager that follows another one: set by the relay */
    /* what a cycle usually costs while nobody reads, of one that leads and one that follows; 0: unknown */
    int64_t usual_ns[2];
    int fast_intervals; /* how many in a row were fast */
    int patience;       /* after how many of them one more reader may work */
    bool raised;        /* the last change of allowed was to a higher number */
    bool begins;        /* reads have begun, and cycles have not been slow since */
    int64_t reads_ms;   /* when readers were last seen at work */
    int64_t judged_ms;  /* when an interval last had enough cycles */
    bool is_held_back;  /* fewer than max are allowed, since changed_ms */
    int64_t changed_ms;
    bool logged; /* the last line in the log says so */
};

/* Allows max permits. Nothing is known of what is usual. */
void read_pace_init(struct read_pace *pace, int max);

/*
 * Allows the fewest permits, because clients may come back in the same moment: the database was away, or the
 * manager that led. If cycles are fast or rare, that lasts for a second at most.
 */
void read_pace_begin(struct read_pace *pace, int64_t now_ms);

/*
 * Reports a cycle that numbered or read something. work: how many messages and topics it handled. reads:
 * whether permits are taken now. Times are monotonic.
 */
void read_pace_take(struct read_pace *pace, int64_t cycle_us, int64_t work, bool reads, int64_t now_ms);

/*
 * Allows few permits if reads begin, and all if cycles have become rare. To be called between cycles, at
 * least when that is due. reads: whether permits are taken now.
 */
void read_pace_step(struct read_pace *pace, bool reads, int64_t now_ms);
int64_t read_pace_due_ms(const struct read_pace *pace);

#endif
