/*
 * The web server's end of a FastCGI connection, as something that may be slow, silent or mad. libfcgi reads, writes and closes
 * through three functions of its operating system layer (fcgios.h), which would wait for ever; they are defined here, and a
 * definition in the program goes before the library's (ld.so(8)). So a worker is bound to one connection for a known time at most.
 *
 * One connection at a time.
 */
#ifndef PGPOLL_FCGI_IO_H
#define PGPOLL_FCGI_IO_H

#include <stdint.h>

/*
 * How long a request may take to come in whole, from its first byte, and an answer to be taken a bit further. Then, as for what is
 * no FastCGI request at all, libfcgi is told of an error, and that is logged.
 */
void fcgi_io_set_timeout(int64_t timeout_ms);

#endif
