#include "postgres/timeline.h"

#include "core/fnv1a.h"
#include "core/log.h"
#include "postgres/server_memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* ---- what was seen */

/* Returns the entry of this cluster, or NULL if there is none. add: make one, unless all are taken. */
static struct seen *find(uint64_t cluster, bool add)
{
    for (int i = 0; cluster && i < SERVER_MEMORY_CLUSTERS; i++) {
        uint64_t found = atomic_load(&server_memory()->seen[i].cluster);

        if (!found &&
            (!add || atomic_compare_exchange_strong(&server_memory()->seen[i].cluster, &found, cluster)))
            return add ? &server_memory()->seen[i] : NULL;
        if (found == cluster)
            return &server_memory()->seen[i];
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
    const uint64_t cluster = atomic_load(&server_memory()->primary);

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

/*
 * Notes that this text is reported, for all processes that share the server memory. Returns true to the first
 * one that calls this, which then reports it.
 */
static bool is_news(const char *text)
{
    const uint64_t hash = fnv1a(FNV1A_BASIS, text, strlen(text)) | 1;

    for (int i = 0; i < SERVER_MEMORY_REPORTS; i++) {
        uint64_t found = 0;

        if (atomic_compare_exchange_strong(&server_memory()->reports[i], &found, hash))
            return true;
        if (found == hash)
            return false;
    }
    /* all are taken: forget one */
    return atomic_exchange(&server_memory()->reports[hash / 2 % SERVER_MEMORY_REPORTS], hash) != hash;
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
 * Whether the session to PGPOLL_CATCH_UP_SERVICE reaches the database that the other sessions use. If the
 * cluster of either is unknown, a primary is taken for that database, and a standby is not.
 */
static bool is_same_database(const struct server *server)
{
    const uint64_t primary = atomic_load(&server_memory()->primary);

    return (server->cluster && server->cluster == primary) ||
           (!server->standby && (!server->cluster || !primary));
}

/*
 * Whether the server of PGPOLL_CATCH_UP_SERVICE was promoted, and no other session has come to its new
 * timeline. It may have been promoted for a test, so it does not make the primary an old one. If it is the
 * new primary, the other sessions will find that out.
 */
static bool was_promoted(const struct server *server)
{
    const uint32_t newest = newest_timeline(server->cluster);

    return !server->standby && newest && server->timeline > newest;
}

/* Returns why the server of PGPOLL_CATCH_UP_SERVICE must not be used, or NULL if it may be. */
static const char *find_fault(const struct server *server)
{
    if (!is_same_database(server))
        return server->cluster ? "it is not of the cluster of the primary"
                               : "it is a standby, and the role may not execute pg_control_system(), "
                                 "pg_control_checkpoint() and pg_control_recovery()";
    return was_promoted(server) ? "it was promoted, and is not the primary that pgpoll uses" : NULL;
}

bool timeline_admit(const struct server *server, const PGconn *connection, bool is_copy, char *text,
                    size_t size)
{
    const char *fault = is_copy ? find_fault(server) : NULL;

    if (timeline_is_behind(server)) {
        explain_behind(server, connection, text, size);
    } else if (fault) {
        (void)snprintf(text, size,
                       "not reading from the server of PGPOLL_CATCH_UP_SERVICE, host %.100s port %.20s: %s",
                       PQhost(connection), PQport(connection), fault);
    } else {
        timeline_remember(server);
        if (!is_copy && !server->standby && server->cluster)
            atomic_store(&server_memory()->primary, server->cluster);
        return true;
    }
    if (!is_copy && is_news(text)) /* a reader logs why it reads from the primary */
        log_write(LOG_LEVEL_WARNING, "%s", text);
    return false;
}

void timeline_note_copy(enum timeline_copy copy)
{
    atomic_store(&server_memory()->copy, copy);
}

enum timeline_copy timeline_copy(void)
{
    return (enum timeline_copy)atomic_load(&server_memory()->copy);
}
