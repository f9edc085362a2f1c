/*
 * Marks, for the thread sanitizer, reads of shared memory that a writer may overwrite at the same time (a
 * seqlock). Code between RACY_READ_BEGIN and RACY_READ_END copies or compares bytes, and uses none of them as
 * an offset or a length. The reader uses the result only after it has checked that its topic, entry or name
 * is still valid. Atomics and fences keep the order: the writer invalidates the old bytes before it
 * overwrites them, and the reader checks after it has read them.
 *
 * In C11 only atomic reads may race, but memcpy() is not atomic, and copying large messages word by word
 * would be slow. The thread sanitizer still watches everything outside the marks.
 */
#ifndef PGPOLL_RACY_READ_H
#define PGPOLL_RACY_READ_H

#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#define RACY_READ_BEGIN AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
#define RACY_READ_END AnnotateIgnoreReadsEnd(__FILE__, __LINE__)
#else
#define RACY_READ_BEGIN ((void)0)
#define RACY_READ_END ((void)0)
#endif

#endif
