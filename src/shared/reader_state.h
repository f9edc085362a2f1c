/*
 * What a reader tells the manager about itself: until when it works, and how many questions it has taken.
 * So the manager notices a reader that hangs. One page of shared memory for each reader: the manager creates
 * it with reader_state_new() and passes its descriptor to the reader, which maps it with
 * reader_state_join(). The memory is a file of memfd_create(2), which ends with the last process that has
 * mapped it.
 */
#ifndef PGPOLL_READER_STATE_H
#define PGPOLL_READER_STATE_H

#include <stdatomic.h>
#include <stdint.h>

struct reader_state {
    /*
     * When the reader must have finished what it does, in monotonic ms; 0: it waits for a question. The
     * manager sets it before it starts the reader, and from then on the reader does.
     */
    _Atomic int64_t due_ms;
    _Atomic uint64_t taken; /* how many questions the reader has taken from the queue */
};

/*
 * Creates the memory. Stores the descriptor, which the caller closes. Returns NULL if this fails; errno says
 * why. The caller frees the memory with reader_state_free().
 */
struct reader_state *reader_state_new(int *descriptor);

/* Maps the memory and closes the descriptor. Returns NULL if this fails; errno says why. */
struct reader_state *reader_state_join(int descriptor);

/* Unmaps the memory from this process. Accepts NULL. */
void reader_state_free(struct reader_state *state);

#endif
