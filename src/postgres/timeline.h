/*
 * Fences off old primaries: remembers the newest timeline of each cluster that any session has seen, and
 * refuses a server of the same cluster that is on an older one.
 *
 * PostgreSQL starts a new timeline when a standby is promoted, and when a backup is restored to a point in
 * time. Copies of a cluster share its system identifier. So a server whose timeline is older than one that
 * was seen of the same cluster is a primary that was replaced, and what was written there since is not part
 * of the database.
 *
 * The memory is that of server_memory.h. Nothing is ever taken back: only a restart forgets.
 */
#ifndef PGPOLL_TIMELINE_H
#define PGPOLL_TIMELINE_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a session has learnt about its server. */
struct server {
    uint64_t cluster; /* the system identifier; 0: unknown, because the role may not read it */
    uint32_t timeline;
    bool standby; /* in recovery */
};

/* Returns the cluster of the last primary that was admitted, and the newest timeline of it that was seen. */
struct server timeline_newest(void);

/* Remembers that the server was seen. */
void timeline_remember(const struct server *server);

/* Whether a newer timeline of the server's cluster was seen. */
bool timeline_is_behind(const struct server *server);

/*
 * Remembers the server's timeline. Returns false if the server must not be used, because it is behind or,
 * with is_copy, because it is not known to be of the same cluster as the primary, or was promoted beside it;
 * then text (size bytes) says so and what to do, and nothing is remembered. Unless is_copy is set, that was
 * also logged, once for each server and timeline. connection: names the server. is_copy: the session is one
 * to PGPOLL_CATCH_UP_SERVICE, which may name a standby.
 */
bool timeline_admit(const struct server *server, const PGconn *connection, bool is_copy, char *text,
                    size_t size);

/*
 * What a session has found last at PGPOLL_CATCH_UP_SERVICE, admitted or not: a pooler that leads to a
 * primary, or anything else.
 */
enum timeline_copy { TIMELINE_COPY_UNKNOWN, TIMELINE_COPY_POOLER, TIMELINE_COPY_SERVER };

void timeline_note_copy(enum timeline_copy copy);
enum timeline_copy timeline_copy(void);

#endif
