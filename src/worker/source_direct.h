/*
 * The listener of a worker that stands alone: its own connection reads the table and LISTENs on the channel of each topic,
 * and its own row in pgpoll.waiters tells of the poll. Needs a direct connection to the primary (no transaction pooling).
 */
#ifndef PGPOLL_SOURCE_DIRECT_H
#define PGPOLL_SOURCE_DIRECT_H

#include "worker/message_source.h"

struct config;
struct counters;

/*
 * config is borrowed for the listener's life, and so is what the worker counts, which the listener writes to pgpoll.counters: along
 * with a wait's beginning and end, else when there is nothing to do. Nothing is connected yet. NULL: out of memory.
 */
struct message_source *source_direct_new(const struct config *config, struct counters *counters);

#endif
