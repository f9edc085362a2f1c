/*
 * The topic table: a hash table of the topics that this host's polls wait for, in shared memory. It gives
 * each topic a number: one that was freed, else the lowest that was never used. The manager adds and removes
 * topics, and workers look them up. The scoreboard owns the memory.
 *
 * The message ring decides whether a number still means the same topic: the manager closes the topic in the
 * ring before it removes the name, and opens the topic after it has added the name.
 *
 * The memory is used from its beginning on, as topics need it. So a table takes pages for as many topics as
 * it has had at the same time, not for as many as it could have. Names are kept in blocks of 64 bytes, and
 * the index of hashes doubles when it is half full. A worker that looks a topic up while its entry moves may
 * miss the topic; it then asks the manager.
 */
#ifndef PGPOLL_TOPIC_TABLE_H
#define PGPOLL_TOPIC_TABLE_H

#include "api/topic.h"
#include "shared/message_ring.h"

#include <stddef.h>
#include <stdint.h>

enum { TOPIC_TABLE_NAME_SIZE = TOPIC_MAX_BYTES + 1 };

struct topic_table;

/* Returns the size in bytes of a table for count topics. */
size_t topic_table_memory(int count);

/*
 * Initialises an empty table in memory of the size that topic_table_memory() returns, which must be zeroed.
 * There is nothing to release. Returns NULL if getrandom(2) failed.
 */
struct topic_table *topic_table_init(void *memory, int count);

/*
 * For the manager: returns the topic's number. Adds the topic if it has none. Returns -1 if there is no room.
 */
int topic_table_add(struct topic_table *table, const char *name, size_t length);

/* For the manager: returns the topic's number, or -1 if it has none. */
int topic_table_number(const struct topic_table *table, const char *name, size_t length);

/* For the manager: removes the topic with this number. */
void topic_table_remove(struct topic_table *table, int topic);

/*
 * For the manager: copies the name of the topic with this number, with a NUL at its end. Returns the name's
 * length, or 0 if no topic has the number.
 */
size_t topic_table_name(const struct topic_table *table, int topic, char name[static TOPIC_TABLE_NAME_SIZE]);

/* Returns for how many topics the table was made. */
int topic_table_size(const struct topic_table *table);

/*
 * For workers: makes a reference to the topic in the message ring. Returns false if the topic has no number,
 * or is not open in the ring.
 */
bool topic_table_find(const struct topic_table *table, const struct message_ring *ring, const char *name,
                      size_t length, struct ring_topic_ref *ref);

#endif
