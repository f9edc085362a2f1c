/*
 * The manager's side of the workers' questions (scoreboard.h describes the protocol): which workers have
 * asked, a checked copy of each question, and the answer. The copies belong to the scoreboard. A worker's
 * side is source_shared.c.
 */
#ifndef PGPOLL_QUESTION_H
#define PGPOLL_QUESTION_H

#include "core/error.h"
#include "shared/scoreboard.h"

enum question_taken {
    QUESTION_NONE,  /* there is nothing to do */
    QUESTION_TAKEN, /* scoreboard_question() returns it until it is answered */
    QUESTION_BROKEN /* no sound worker writes that */
};

/*
 * Clears and returns the first bit in askers from this worker on; -1: none is set. Going on from each result
 * + 1 visits each asker once.
 */
int question_next_asker(struct scoreboard *scoreboard, int from);

/*
 * Copies and checks this worker's question. If memory runs out, it is answered with ERROR_MEMORY, and the
 * result is QUESTION_NONE.
 */
enum question_taken question_take(struct scoreboard *scoreboard, int worker);

/*
 * Takes over a question of a worker that does not wait for the answer: the worker may ask another one at
 * once. The caller frees it with scoreboard_free_question().
 */
struct question *question_take_over(struct scoreboard *scoreboard, int worker);

/*
 * Answers the question that was taken from this worker, if there is one, frees the copy and wakes the worker.
 * The caller has written the rest of the reply before.
 */
void question_answer(struct scoreboard *scoreboard, int worker, enum error answer);

#endif
