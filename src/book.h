/*
 * What the manager writes down: which of its workers' polls wait (pgpoll.waiters), what they counted (pgpoll.counters), how many of
 * them are free and whether LISTEN delivers (pgpoll.listeners). In batches, at most one a second and, when nothing changed, one in
 * five seconds, over a connection of its own, so that news never wait for it. Driven by the manager's loop; never blocks.
 */
#ifndef PGPOLL_BOOK_H
#define PGPOLL_BOOK_H

#include <stdbool.h>
#include <stdint.h>

struct book;
struct config;
struct hive;

/* config and hive are borrowed for its life. NULL: out of memory. */
struct book *book_new(const struct config *config, struct hive *hive);
void book_free(struct book *book);

/* What to wait for before the next step: poll(2)'s descriptor (-1: none) and events, and until when (monotonic ms). */
int book_socket(const struct book *book);
short book_events(const struct book *book);
int64_t book_due_ms(const struct book *book);

/* Does what there is to do. ready: the socket is. */
void book_step(struct book *book, bool ready);

#endif
