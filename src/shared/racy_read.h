/*
 * Reads of shared memory that may run into a write, and are told afterwards whether they did (a seqlock). The bytes between
 * RACY_READ_BEGIN and RACY_READ_END are copied or compared, never followed: until the reader has seen that its topic, entry or name
 * is still the same, it uses no result. The order is kept by atomics and fences: the writer first says that the old bytes are no
 * longer valid, and then writes over them; the reader looks whether they are valid after it has read them.
 *
 * C11 knows no such reads except atomic ones, which cannot be memcpy() and would make large messages slow. The thread sanitizer reports
 * them unless it is told; it goes on watching everything else.
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
