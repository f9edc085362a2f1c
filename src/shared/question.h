/*
 * The manager's side of the workers' questions (scoreboard.h describes the protocol): finding the workers
 * that have asked, taking a checked copy of each question, and answering it. The copies belong to the
 * scoreboard. The worker's side is in source_shared.c.
 */
#ifndef PGPOLL_QUESTION_H
#define PGPOLL_QUESTION_H

#include "core/error.h"
#include "shared/scoreboard.h"

enum question_taken {
    QUESTION_NONE,  /* the worker has no question that is to be answered */
    QUESTION_TAKEN, /* scoreboard_question() returns the question until it is answered */
    QUESTION_BROKEN /* the question is not what a sound worker writes */
};

/*
 * Returns the first worker, from this one on, whose bit is set in askers, and clears the bit. Returns -1 if
 * there is none. To visit each asker once, start at 0 and go on from the last result + 1.
 */
int question_next_asker(struct scoreboard *scoreboard, int from);

/*
 * Copies and checks this worker's question. If memory runs out, answers the question with ERROR_MEMORY and
 * returns QUESTION_NONE.
 */
enum question_taken question_take(struct scoreboard *scoreboard, int worker);

/*
 * Takes over the question that was taken from this worker, which does not wait for the answer. The worker may
 * ask another question at once. The caller frees the returned question with scoreboard_free_question().
 */
struct question *question_take_over(struct scoreboard *scoreboard, int worker);

/*
 * Answers the question that was taken from this worker, if there is one, frees the copy and wakes the worker.
 * The caller must write the rest of the reply before.
 */
void question_answer(struct scoreboard *scoreboard, int worker, enum error answer);

#endif
