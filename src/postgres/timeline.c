#include "postgres/timeline.h"

#include "core/fnv1a.h"
#include "core/log.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CLUSTERS = 16, /* so many clusters are remembered; those that a process meets later are not fenced */
    REPORTS = 16,
    LAYOUT = 1 /* of struct memory; a program that has another one forgets at a reload */
};

/*
 * There is no lock. An entry of seen belongs to a cluster for ever once its identifier is set, and its
 * timeline only grows.
 */
struct memory {
    uint32_t layout;
    struct seen {
        _Atomic uint64_t cluster; /* 0: free */
        _Atomic uint32_t timeline;
    } seen[CLUSTERS];
    _Atomic uint64_t primary;          /* the cluster of the last primary that was admitted; 0: unknown */
    _Atomic uint32_t copy;             /* enum timeline_copy */
    _Atomic uint64_t reports[REPORTS]; /* hashes of what was logged; 0: free */
};

static struct memory own = { .layout = LAYOUT }, *memory = &own;
static int memory_fd = -1;

/* ---- what was seen */

/* Returns the entry of this cluster, or NULL if there is none. add: make one, unless all are taken. */
static struct seen *find(uint64_t cluster, bool add)
{
    for (int i = 0; cluster && i < CLUSTERS; i++) {
        uint64_t found = atomic_load(&memory->seen[i].cluster);

        if (!found && (!add || atomic_compare_exchange_strong(&memory->seen[i].cluster, &found, cluster)))
            return add ? &memory->seen[i] : NULL;
        if (found == cluster)
            return &memory->seen[i];
    }
    return NULL;
}

static uint32_t newest_timeline(uint64_t cluster)
{
    const struct seen *seen = find(cluster, false);

    return seen ? atomic_load(&seen->timeline) : 0;
}

struct server timeline_newest(void)
{
    const uint64_t cluster = atomic_load(&memory->primary);

    return (struct server){ .cluster = cluster, .timeline = newest_timeline(cluster) };
}

void timeline_remember(const struct server *server)
{
    struct seen *seen = find(server->cluster, true);
    uint32_t newest = seen ? atomic_load(&seen->timeline) : server->timeline;

    while (newest < server->timeline &&
           !atomic_compare_exchange_weak(&seen->timeline, &newest, server->timeline))
        ;
}

bool timeline_is_behind(const struct server *server)
{
    return server->timeline < newest_timeline(server->cluster);
}

/* ---- refusing */

/* Whether this text was not reported yet. Of several processes that ask, one is told so. */
static bool is_news(const char *text)
{
    const uint64_t hash = fnv1a(FNV1A_BASIS, text, strlen(text)) | 1;

    for (int i = 0; i < REPORTS; i++) {
        uint64_t found = 0;

        if (atomic_compare_exchange_strong(&memory->reports[i], &found, hash))
            return true;
        if (found == hash)
            return false;
    }
    /* all are taken: forget one */
    return atomic_exchange(&memory->reports[hash / 2 % REPORTS], hash) != hash;
}

static void explain_behind(const struct server *server, const PGconn *connection, char *text, size_t size)
{
    const unsigned newest = newest_timeline(server->cluster);

    if (server->standby)
        (void)snprintf(text, size,
                       "not using the standby at host %.100s port %.20s: it is on timeline %u, but timeline "
                       "%u of its cluster was seen; it must follow the new primary",
                       PQhost(connection), PQport(connection), (unsigned)server->timeline, newest);
    else
        (void)snprintf(text, size,
                       "not using the server at host %.100s port %.20s: it is an old primary, on timeline "
                       "%u, and timeline %u of its cluster was seen; stop it, and make it a standby with "
                       "pg_rewind (if it is the right server after all, restart pgpoll)",
                       PQhost(connection), PQport(connection), (unsigned)server->timeline, newest);
}

/*
 * Whether the session to PGPOLL_CATCH_UP_SERVICE reaches the database that the other sessions use. Of a
 * standby that must be known.
 */
static bool is_same_database(const struct server *server)
{
    const uint64_t primary = atomic_load(&memory->primary);

    return (server->cluster && server->cluster == primary) ||
           (!server->standby && (!server->cluster || !primary));
}

static void explain_other(const struct server *server, const PGconn *connection, char *text, size_t size)
{
    (void)snprintf(text, size,
                   "not reading from the server of PGPOLL_CATCH_UP_SERVICE, host %.100s port %.20s: %s",
                   PQhost(connection), PQport(connection),
                   server->cluster ? "it is not of the cluster of the primary"
                                   : "it is a standby, and the role may not execute pg_control_system(), "
                                     "pg_control_checkpoint() and pg_control_recovery()");
}

bool timeline_admit(const struct server *server, const PGconn *connection, bool is_copy, char *text,
                    size_t size)
{
    if (timeline_is_behind(server)) {
        explain_behind(server, connection, text, size);
    } else if (is_copy && !is_same_database(server)) {
        explain_other(server, connection, text, size);
    } else {
        timeline_remember(server);
        if (!is_copy && !server->standby && server->cluster)
            atomic_store(&memory->primary, server->cluster);
        return true;
    }
    if (!is_copy && is_news(text)) /* a reader logs why it reads from the primary */
        log_write(LOG_LEVEL_WARNING, "%s", text);
    return false;
}

void timeline_note_copy(enum timeline_copy copy)
{
    atomic_store(&memory->copy, copy);
}

enum timeline_copy timeline_copy(void)
{
    return (enum timeline_copy)atomic_load(&memory->copy);
}

/* ---- sharing */

/* Maps a memory, if it is one of this layout. Returns NULL if it is not, or if this fails. */
static struct memory *map(int fd)
{
    struct stat status;
    void *mapped = MAP_FAILED;

    if (fd >= 0 && fstat(fd, &status) == 0 && status.st_size == sizeof(struct memory))
        mapped = mmap(NULL, sizeof(struct memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return NULL;
    if (((struct memory *)mapped)->layout == LAYOUT)
        return mapped;
    (void)munmap(mapped, sizeof(struct memory));
    return NULL;
}

static int new_memory(void)
{
    const int fd = memfd_create("pgpoll-timelines", MFD_CLOEXEC);

    if (fd >= 0 && write(fd, &own, sizeof own) == sizeof own)
        return fd;
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

bool timeline_share(int descriptor)
{
    struct memory *mapped = map(descriptor);

    memory_fd = descriptor;
    if (!mapped) {
        if (descriptor >= 0)
            (void)close(descriptor);
        memory_fd = new_memory();
        mapped = map(memory_fd);
    }
    if (!mapped)
        return false;
    memory = mapped;
    return fcntl(memory_fd, F_SETFD, FD_CLOEXEC) == 0;
}

int timeline_descriptor(void)
{
    return memory_fd;
}
