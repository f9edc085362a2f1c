/*
 * Where libpq is to connect to, with host names resolved beforehand. libpq itself resolves them inside PQconnectStart() and
 * PQconnectPoll(), and blocks meanwhile.
 *
 * Source: PostgreSQL 15 manual, 34.1.1.3 "Specifying Multiple Hosts" and 34.1.2, host and hostaddr.
 */
#ifndef PGPOLL_ADDRESSES_H
#define PGPOLL_ADDRESSES_H

#include <stdbool.h>
#include <stdint.h>

struct addresses;

/* Reads libpq's variables and service file. NULL: out of memory. Sockets' paths, numeric addresses and PGHOSTADDR need no resolver. */
struct addresses *addresses_new(void);
void addresses_free(struct addresses *addresses);

/* Whether some host's name has to be resolved. */
bool addresses_need_resolver(const struct addresses *addresses);

/* Resolves the names; blocks as long as the system's resolver does. */
void addresses_resolve(struct addresses *addresses);

/* When they were resolved; monotonic ms. */
int64_t addresses_resolved_ms(const struct addresses *addresses);

/* Why there is no address at all; "": there are some. Borrowed. */
const char *addresses_error(const struct addresses *addresses);

/* libpq's parameters of these names, lists with an entry for each address. NULL: as libpq has it anyway. Borrowed. */
const char *addresses_host(const struct addresses *addresses);
const char *addresses_hostaddr(const struct addresses *addresses);
const char *addresses_port(const struct addresses *addresses);

#endif
