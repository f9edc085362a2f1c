/*
 * The manager's connection for news: LISTENs for all its workers, answers their questions, and reads each new message once, into
 * the message ring. Driven by the manager's loop; never blocks. Logs for itself what an operator should know.
 *
 * How the message ring stays in order. Notifications arrive in the order of the commits, on all channels alike (PostgreSQL puts them
 * into one queue under one lock). So when those up to some message have arrived, all earlier ones have, and every topic with an
 * earlier message is known to have news. A read may see later messages too, whose notifications are still under way; another
 * topic may then have earlier ones that were not read. Therefore a read is used only up to the last message that a notification
 * had told of, by its position, before it began; the rest is read again when told of. A forged notification tells of no message,
 * and so changes nothing. A lost one is made good by a full read of all topics, now and then, which needs no such care.
 */
#ifndef PGPOLL_RELAY_H
#define PGPOLL_RELAY_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct config;
struct relay;
struct scoreboard;

/* config and scoreboard are borrowed for its life. NULL: out of memory. */
struct relay *relay_new(const struct config *config, struct scoreboard *scoreboard);
void relay_free(struct relay *relay);

/* What to wait for before the next step: as of poll(2), and until when (monotonic ms). */
struct pollfd relay_pollfd(const struct relay *relay);
int64_t relay_due_ms(const struct relay *relay);

/* Does what there is to do. ready: the socket is. */
void relay_step(struct relay *relay, bool ready);

/* The worker with this number asks, in its slot, where its topics stand; they are listened to from then on. */
void relay_ask(struct relay *relay, int number);

/* The worker with this number is dead: what it asked is dropped. */
void relay_forget_worker(struct relay *relay, int number);

#endif
