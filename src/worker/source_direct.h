/*
 * The message source of a lone worker, one without a manager. Its own connection reads the table and LISTENs
 * on the channel of each topic, and it writes its own row of pgpoll.waiters. It needs a direct connection to
 * the primary (no transaction pooling).
 */
#ifndef PGPOLL_SOURCE_DIRECT_H
#define PGPOLL_SOURCE_DIRECT_H

#include "worker/message_source.h"

struct config;
struct counters;

/*
 * Creates the source; it connects with the first read. config and counters are borrowed for its life.
 * counters are the worker's: the source writes them to pgpoll.counters together with a wait's begin and end,
 * or else while the worker is idle. Free it with its operation free(). NULL: out of memory.
 */
struct message_source *source_direct_new(const struct config *config, struct counters *counters);

#endif
