/*
 * Resolves the host names of libpq's connection parameters before libpq sees them. libpq itself resolves
 * names inside PQconnectStart() and PQconnectPoll(), and blocks while it does. connect.c creates a struct
 * addresses for an attempt to connect.
 *
 * Source: PostgreSQL 15 manual, 34.1.1.3 "Specifying Multiple Hosts" and 34.1.2, host and hostaddr.
 */
#ifndef PGPOLL_ADDRESSES_H
#define PGPOLL_ADDRESSES_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct addresses;

/*
 * Reads host, hostaddr and port from options or, if that is NULL, from libpq's environment variables and
 * service file. Returns NULL if out of memory.
 */
struct addresses *addresses_new(const PQconninfoOption *options);
void addresses_free(struct addresses *addresses);

/* Whether a name must be resolved. Socket paths, numeric addresses and PGHOSTADDR need no resolver. */
bool addresses_need_resolver(const struct addresses *addresses);

/* Resolves the names. Blocks for as long as the system's resolver (getaddrinfo(3)) does. */
void addresses_resolve(struct addresses *addresses);

/* Returns when addresses_resolve() ended, in monotonic milliseconds. */
int64_t addresses_resolved_ms(const struct addresses *addresses);

/* Returns why no name could be resolved, or "" if at least one address is known. Borrowed. */
const char *addresses_error(const struct addresses *addresses);

/*
 * Return libpq's parameters host, hostaddr and port, each as a list with one entry per address, or NULL if
 * libpq's own value applies. Borrowed.
 */
const char *addresses_host(const struct addresses *addresses);
const char *addresses_hostaddr(const struct addresses *addresses);
const char *addresses_port(const struct addresses *addresses);

#endif
