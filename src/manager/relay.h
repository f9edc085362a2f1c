/*
 * The manager's LISTEN connection: numbers new messages, reads each once into the message ring, wakes the
 * workers that wait for its topic, and answers the workers' questions about where their topics stand. Part of
 * the manager, which creates, drives and frees it. Never blocks. Logs its errors itself.
 *
 * It works in cycles. Each is one batch of pipelined statements: LISTEN to new topics, number new messages,
 * read the newest positions of the topics asked about, read the topics that have news, UNLISTEN unused
 * topics.
 *
 * How the message ring stays in order:
 *  1. Notifications arrive in the order of the commits, on all channels alike, because PostgreSQL puts them
 *     into one queue under one lock. So when the notification of a message has arrived, those of all earlier
 *     messages have, and every topic with an earlier message is known to have news.
 *  2. A read may also see later messages, whose notifications have not arrived. Another topic, which was not
 *     read, may have messages before those. Therefore a read is used only up to the last message whose
 *     position was announced before the read began. The rest is read again when it is announced.
 *  3. A forged notification announces no existing message, and so changes nothing.
 *  4. A lost notification delays a message until the next full read of all topics, which needs no such care.
 */
#ifndef PGPOLL_RELAY_H
#define PGPOLL_RELAY_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct config;
struct open_to_all;
struct relay;
struct scoreboard;

/* All are borrowed until relay_free(). open: the relay asks for it. NULL: out of memory. */
struct relay *relay_new(const struct config *config, struct scoreboard *scoreboard, struct open_to_all *open);
void relay_free(struct relay *relay);

/* What to wait for before the next relay_step(): a descriptor as for poll(2), and a time (monotonic ms). */
struct pollfd relay_pollfd(const struct relay *relay);
int64_t relay_due_ms(const struct relay *relay);

/* Does what is due. ready: poll(2) has reported the descriptor. */
void relay_step(struct relay *relay, bool ready);

/*
 * Takes the question of this worker, which question_take() has copied: where do its topics stand?
 * The relay LISTENs to them from then on, and answers with question_answer() once LISTEN has taken effect.
 */
void relay_ask(struct relay *relay, int worker);

/* Drops the question of a worker that has died. */
void relay_forget_worker(struct relay *relay, int worker);

#endif
