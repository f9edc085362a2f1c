/*
 * The topic table: a hash table of the topics that this host listens to, in shared memory. It gives each
 * topic a number. The manager adds and removes topics, workers look them up; the scoreboard owns the memory.
 * The message ring decides whether a number still means the topic: the manager closes the topic in the ring
 * before it removes the name, and opens it after it has added the name.
 */
#ifndef PGPOLL_TOPIC_TABLE_H
#define PGPOLL_TOPIC_TABLE_H

#include "shared/message_ring.h"

#include <stddef.h>
#include <stdint.h>

struct topic_table;

/* The size in bytes of a table for count topics. */
size_t topic_table_memory(int count);

/*
 * Initialises an empty table in memory of that size, which must be zeroed. There is nothing to release. NULL:
 * getrandom(2) failed.
 */
struct topic_table *topic_table_init(void *memory, int count);

/* For the manager: returns the topic's number, and adds the topic if it has none. -1: no room. */
int topic_table_add(struct topic_table *table, const char *name, size_t length);

/* For the manager: removes the topic with this number. */
void topic_table_remove(struct topic_table *table, int topic);

/*
 * For the manager: the name of the topic with this number, with a NUL; borrowed until it is removed. NULL: no
 * topic has it.
 */
const char *topic_table_name(const struct topic_table *table, int topic);

/* How many topics the table was made for. */
int topic_table_size(const struct topic_table *table);

/*
 * For workers: makes a reference to the topic in the message ring. false: it has no number, or is not open
 * there.
 */
bool topic_table_find(const struct topic_table *table, const struct message_ring *ring, const char *name,
                      size_t length, struct ring_topic_ref *ref);

#endif
