/*
 * The message source of a lone worker, which has no manager. It reads the table and LISTENs on the channel of
 * each topic over a connection of its own, and writes its own row of pgpoll.waiters. It needs a direct
 * connection to the primary (no transaction pooling).
 */
#ifndef PGPOLL_SOURCE_DIRECT_H
#define PGPOLL_SOURCE_DIRECT_H

#include "worker/message_source.h"

struct config;
struct counters;

/*
 * Creates the source, which connects at the first read. config and counters are borrowed for its life. The
 * source writes the worker's counters to pgpoll.counters when it writes the begin or end of a wait, after
 * other polls at most once a second, and while the worker is idle. Free the source with its operation free().
 * Returns NULL if out of memory.
 */
struct message_source *source_direct_new(const struct config *config, struct counters *counters);

#endif
