/*
 * The process's memory allocator: the real one, of which tests can make one allocation fail, libraries' included.
 * Counts what is allocated and not yet freed.
 */
#ifndef PGPOLL_ALLOCATION_H
#define PGPOLL_ALLOCATION_H

/*
 * Makes the nth allocation from now on fail (1: the next), once; 0: none. Returns what was left to count down of the
 * last request; negative: it has failed. Giving that value back goes on where it was.
 */
long allocation_fail(long nth);

/* Allocated and not freed, since the process began. */
long allocation_live(void);

#endif
