/*
 * FastCGI input and output with timeouts, so that a slow, silent or broken web server occupies a worker only
 * for a limited time. libfcgi reads, writes and closes through OS_Read(), OS_Write() and OS_IpcClose()
 * (fcgios.h), which wait without a limit. fcgi_io.c replaces these three functions: the program's definitions
 * take precedence over the library's (ld.so(8)).
 *
 * Handles one connection at a time.
 */
#ifndef PGPOLL_FCGI_IO_H
#define PGPOLL_FCGI_IO_H

#include <stdint.h>

/*
 * Sets the time within which a whole request must arrive, counted from the first read, and within which the
 * web server must accept more of an answer. After this time, or if the data are not a FastCGI request, the
 * call into libfcgi fails and the reason is logged.
 */
void fcgi_io_set_timeout(int64_t timeout_ms);

#endif
