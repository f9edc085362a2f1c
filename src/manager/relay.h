/*
 * The manager's LISTEN connection: numbers new messages, reads each once into the message ring, wakes the
 * workers that wait for its topic, and answers the workers' questions about where their topics stand. Part of
 * the manager, which creates, drives and frees it. Never blocks. Logs its errors itself.
 *
 * It works in cycles. Each is one batch of pipelined statements: number new messages, read all messages that
 * have a position and that it has not read yet, and read the newest positions of the topics asked about.
 *
 * The message ring stays in order because the relay reads everything, page after page, in the order of
 * positions. Notifications only say when to read (announcements.h). ARCHITECTURE.md, "How the ring stays in
 * order".
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
 * The ring has their messages from then on; the relay then answers with question_answer().
 */
void relay_ask(struct relay *relay, int worker);

/* Drops the question of a worker that has died. */
void relay_forget_worker(struct relay *relay, int worker);

#endif
