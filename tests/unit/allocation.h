/*
 * Wraps the process's memory allocator, so that a test can make one allocation fail, also in libraries.
 * Counts allocations that are not yet freed.
 */
#ifndef PGPOLL_ALLOCATION_H
#define PGPOLL_ALLOCATION_H

/*
 * Makes the nth allocation from now on fail, once (1: the next; 0: none). Returns the remaining count of the
 * previous request, or a negative number if that allocation has failed. Passing the returned value resumes
 * the previous request.
 */
long allocation_fail(long nth);

/* Returns the number of allocations that have not been freed. */
long allocation_live(void);

#endif
