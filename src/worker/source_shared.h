/*
 * The message source of a worker that has a manager. It has no database connection. It reads the message
 * ring, and has a reader process read from the table what the ring does not hold (read_channel.h). It asks
 * the manager what only the database knows: whether the user may poll, and where new topics begin
 * (scoreboard.h). Signals wake it (latch.h).
 */
#ifndef PGPOLL_SOURCE_SHARED_H
#define PGPOLL_SOURCE_SHARED_H

#include "worker/message_source.h"

struct config;
struct scoreboard;

/*
 * Creates the source of this worker, an index into the scoreboard, in its own process. config and scoreboard
 * are borrowed for its life. Free it with its operation free(). NULL: out of memory.
 */
struct message_source *source_shared_new(const struct config *config, struct scoreboard *scoreboard,
                                         int worker);

#endif
