/*
 * The numbers of the topics that this host listens to, in shared memory: one writer (the manager) gives and takes them, workers
 * look them up. Whether a number still means the topic is the message ring's to say: it is closed before a name is taken out and
 * opened after one is put in.
 */
#ifndef PGPOLL_TOPIC_TABLE_H
#define PGPOLL_TOPIC_TABLE_H

#include "shared/message_ring.h"

#include <stddef.h>
#include <stdint.h>

struct topic_table;

/* The memory that a table for count topics takes. */
size_t topic_table_memory(int count);

/* Makes an empty one in that much memory, which is all zero. Needs no release. NULL: no random numbers are to be had. */
struct topic_table *topic_table_init(void *memory, int count);

/* For the writer: the topic's number, given now if it has none; -1: no room. */
int topic_table_add(struct topic_table *table, const char *name, size_t length);

/* For the writer: takes a number back. */
void topic_table_remove(struct topic_table *table, int number);

/* For the writer: the name of a number that is given, with its NUL; NULL: it is not. */
const char *topic_table_name(const struct topic_table *table, int number);

int topic_table_size(const struct topic_table *table);

/* For workers: the topic as it stands in the message ring, if it is open there. */
bool topic_table_find(const struct topic_table *table, const struct message_ring *ring, const char *name,
                      size_t length, struct ring_topic_ref *ref);

#endif
