/* Stops the compilation, with a reason, on systems that pgpoll does not support. */
#ifndef PGPOLL_PLATFORM_H
#define PGPOLL_PLATFORM_H

_Static_assert(sizeof(void *) == 8,
               "pgpoll needs a 64-bit system: processes share 64-bit counters without locks");

#include <features.h>

#ifndef __GLIBC__
#error "pgpoll needs glibc: its malloc() calls __libc_malloc(), and it calls malloc_trim()"
#endif

#endif
