/*
 * What a manager tells other processes of its host about itself, without the database: whether it lives,
 * serves polls and reaches the database. It is a small file in memory that both map. The manager creates it
 * at its start with host_state_new() and writes to it in each turn of its loop, at least every
 * HOST_STATE_BEAT_MS. The statistics processes read it with host_state_read() and never write to it.
 *
 * The file, HOST_STATE_FILE, is in PGPOLL_STATE_DIR, by default in the directory of the Unix socket that the
 * program listens on, because all pools of a host have their sockets in one directory.
 *
 * The file of a manager that was killed stays. It tells by its last beat that nobody writes to it any more. A
 * new manager, also the one after a reload, puts a file of its own in its place when that is complete. The
 * values are read one by one, so they may be of two turns of the loop.
 */
#ifndef PGPOLL_HOST_STATE_H
#define PGPOLL_HOST_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOST_STATE_FILE "pgpoll.state"

enum {
    HOST_STATE_PATH_SIZE = 512,
    HOST_STATE_BEAT_MS = 1000, /* maximum time between two writes of a manager that works */
    HOST_STATE_DEAF_MS = 5000, /* a manager that has written nothing for this long has died or is frozen */
};

enum host_stage {
    HOST_STARTING, /* no worker has begun to accept polls */
    HOST_SERVING,
    HOST_DRAINING, /* serves polls for PGPOLL_DRAIN_S, and then ends */
    HOST_ENDING,   /* answers its last polls, or has ended */
    HOST_STAGES
};

enum host_value {
    HOST_LAYOUT,          /* identifies this list; host_state_publish() sets it */
    HOST_PID,             /* process id of the manager */
    HOST_STARTED_MS,      /* when the manager's program was executed, for the first time or by a reload */
    HOST_BEAT_MS,         /* when the manager wrote the values */
    HOST_STAGE,           /* enum host_stage; during a reload the old workers count, too */
    HOST_HAS_BEGUN,       /* 1: the workers of this program have begun; 0: not all of them yet */
    HOST_RELOAD_FAILURES, /* how often the manager was told to reload and could not execute its program */
    HOST_DATABASE_AWAY_SINCE_MS, /* 0: the manager's LISTEN connection has worked at its last use */
    HOST_LISTEN_WORKS,           /* 1: LISTEN delivers */
    HOST_WORKERS,                /* number of worker processes */
    HOST_IDLE,                   /* number of them that can take a poll */
    HOST_STATISTICS_MS,          /* when statistics were last written to the database; 0: never */
    HOST_READERS_ALLOWED,        /* how many readers may read the table at a time: see read_permits.h */
    HOST_CLUSTER,                /* system identifier of the last primary, see timeline.h; 0: unknown */
    HOST_TIMELINE,               /* host_state_timeline() of the newest timeline of it that was seen */
    HOST_VALUES
};

/* A copy of the values. All times are CLOCK_MONOTONIC in ms, which is the same in all processes of a host. */
struct host_values {
    int64_t of[HOST_VALUES];
};

/*
 * Finds out where the file is. directory: PGPOLL_STATE_DIR. socket: the listening socket, for use if
 * directory is "". Returns false if there is no such place: the socket is not a Unix socket with an absolute
 * path.
 */
bool host_state_path(const char *directory, int socket, char path[static HOST_STATE_PATH_SIZE]);

/*
 * Creates the file with its first values, in place of one that is there. The caller frees it with
 * host_state_free(), which leaves the file. Returns NULL if this fails; errno is set. Nothing is borrowed.
 */
struct host_state;
struct host_state *host_state_new(const char *path, const struct host_values *values);
void host_state_free(struct host_state *state);

/* Writes all values; HOST_LAYOUT is this program's, whatever *values has. */
void host_state_publish(struct host_state *state, const struct host_values *values);

/*
 * Copies the values of the file. Returns false if there is no such file, or it is of another version of this
 * program; then *values is untouched.
 */
bool host_state_read(const char *path, struct host_values *values);

/*
 * Returns HOST_TIMELINE: the timeline, and in the upper half the lower half of the cluster's identifier, by
 * which a reader finds out whether it belongs to the HOST_CLUSTER that it has read.
 */
int64_t host_state_timeline(uint64_t cluster, uint32_t timeline);

/* Whether the manager that wrote the values wrote them within HOST_STATE_DEAF_MS. */
bool host_state_is_fresh(const struct host_values *values, int64_t now_ms);

/* Whether that manager runs: it has not ended, died or frozen. values: NULL: no manager has started. */
bool host_state_is_alive(const struct host_values *values, int64_t now_ms);

#endif
