/*
 * The addresses of the servers that libpq's connection parameters name. connect.c tries one after the other.
 * libpq would do that by itself, but it goes on after a silent host only if its caller blocks. It also
 * resolves names inside PQconnectStart() and PQconnectPoll(), and blocks while it does.
 *
 * connect.c creates a struct addresses for an attempt to connect. The process remembers where attempts begin
 * (server_memory.h): at the address that last served a session or, after that has fallen silent, at the next
 * one. Only one thread of a process uses that memory.
 *
 * Source: PostgreSQL 15 manual, 34.1.1.3 "Specifying Multiple Hosts" and 34.1.2 "Parameter Key Words".
 */
#ifndef PGPOLL_ADDRESSES_H
#define PGPOLL_ADDRESSES_H

#include <libpq-fe.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct addresses;

/* libpq's parameters for one address. NULL: libpq's own value applies. */
struct address {
    char *host, *hostaddr, *port;
    uint64_t server; /* equal for addresses with the same host and port */
    uint64_t id;     /* equal for equal addresses, in every attempt; 0 if libpq will reject the parameters */
};

#define ADDRESSES_NOT_SET LONG_MIN

/* What the operator has set, by environment variables or in a service file. */
struct addresses_options {
    long connect_timeout_s; /* ADDRESSES_NOT_SET: not set; 0 or less: no limit */
    bool prefer_standby;    /* target_session_attrs is prefer-standby */
    bool keepalives_idle, keepalives_interval, keepalives_count, tcp_user_timeout; /* whether they are set */
};

/*
 * Reads host, hostaddr and port from options or, if that is NULL, from libpq's environment variables and
 * service file. Returns NULL if out of memory.
 */
struct addresses *addresses_new(const PQconninfoOption *options);
void addresses_free(struct addresses *addresses);

/*
 * Returns the value of this parameter, or "" if it is not set or this libpq does not know it. Borrowed from
 * options.
 */
const char *addresses_option(const PQconninfoOption *options, const char *keyword);

/* Whether a name must be resolved. Socket paths, numeric addresses and PGHOSTADDR need no resolver. */
bool addresses_need_resolver(const struct addresses *addresses);

/* Borrowed. */
const struct addresses_options *addresses_options(const struct addresses *addresses);

/*
 * Makes the list of addresses. If names must be resolved, blocks for as long as the system's resolver
 * (getaddrinfo(3)) does.
 */
void addresses_resolve(struct addresses *addresses);

/* Returns when addresses_resolve() ended, in monotonic milliseconds. */
int64_t addresses_resolved_ms(const struct addresses *addresses);

/* Returns why there is no address, or "" if at least one is known. Borrowed. */
const char *addresses_error(const struct addresses *addresses);

int addresses_count(const struct addresses *addresses);

/* Returns the address with this index, counted from 0. After the last one follows the first one. Borrowed. */
const struct address *addresses_at(const struct addresses *addresses, int index);

/* Identifies the operator's list of hosts, together with target_session_attrs, in the functions below. */
uint64_t addresses_list(const struct addresses *addresses);

/* Returns the index of the address to begin with. */
int addresses_first(const struct addresses *addresses);

/* Makes later attempts of this process begin with the address of this id, because it serves a session. */
void addresses_prefer(uint64_t list, uint64_t id);

/*
 * The server at the address of this id is silent, or a standby: makes later attempts that would begin with it
 * begin with the next one.
 */
void addresses_avoid(uint64_t list, uint64_t id, uint64_t next);

#endif
