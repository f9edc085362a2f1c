/*
 * Wraps the process's memory allocator, so that a test can make one allocation fail, also inside a library,
 * and can count the allocations that have not been freed.
 */
#ifndef PGPOLL_ALLOCATION_H
#define PGPOLL_ALLOCATION_H

/*
 * Makes the nth allocation from now on fail, once (1: the next one; 0: none). Returns how many allocations
 * were left until the one that an earlier call had made fail (0: none was to fail), or a negative number if
 * that one has failed. Passing the returned value resumes the earlier request.
 */
long allocation_fail(long nth);

/* Returns the number of allocations that have not been freed. */
long allocation_live(void);

#endif
