/*
 * The manager's LISTEN connection. The relay numbers new messages, reads each message once into the message
 * ring, wakes the workers that wait for its topic, and answers the workers' questions about where their
 * topics stand. Part of the manager, which creates, drives and frees it. Never blocks. Logs its errors
 * itself.
 *
 * The relay works in cycles. Each cycle is one batch of pipelined statements. They number new messages, read
 * all messages that have a position and that the relay has not read yet, and read the newest positions of the
 * topics asked about.
 *
 * The message ring stays in order because the relay reads everything, page after page, in the order of
 * positions. Notifications only say when to read (announcements.h). See ARCHITECTURE.md, "How the ring stays
 * in order".
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

/*
 * All arguments are borrowed until relay_free(). The relay asks the database what open needs to know. Returns
 * NULL if out of memory.
 */
struct relay *relay_new(const struct config *config, struct scoreboard *scoreboard, struct open_to_all *open);
void relay_free(struct relay *relay);

/* The next relay_step() is due when poll(2) reports this descriptor, or at this time (monotonic ms). */
struct pollfd relay_pollfd(const struct relay *relay);
int64_t relay_due_ms(const struct relay *relay);

/* Returns since when the connection has not worked (monotonic ms), or 0 if it works. */
int64_t relay_away_since_ms(const struct relay *relay);

/* Does what is due. ready: whether poll(2) has reported the descriptor. */
void relay_step(struct relay *relay, bool ready);

/*
 * Takes the question of this worker, which question_take() has copied: where do its topics stand? From then
 * on the ring has the messages of these topics. Then the relay answers with question_answer().
 */
void relay_ask(struct relay *relay, int worker);

/* Drops the question of a worker that has died. */
void relay_forget_worker(struct relay *relay, int worker);

#endif
