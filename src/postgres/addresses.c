#include "postgres/addresses.h"

#include "core/clock.h"
#include "core/fnv1a.h"
#include "postgres/server_memory.h"

#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct addresses {
    char *host, *hostaddr, *port; /* libpq's parameters, "" if not set */
    char *default_port;
    uint64_t id; /* of the operator's list and of what it is used for */
    struct addresses_options options;
    bool need_resolver;
    bool balanced; /* the operator wants load_balance_hosts=random */
    struct address *list;
    int count;
    int64_t resolved_ms;
    char error[256];
};

/* ---- libpq's parameters */

static const PQconninfoOption *find_option(const PQconninfoOption *options, const char *keyword)
{
    while (options->keyword && strcmp(options->keyword, keyword) != 0)
        options++;
    return options->keyword ? options : NULL;
}

const char *addresses_option(const PQconninfoOption *options, const char *keyword)
{
    const PQconninfoOption *found = find_option(options, keyword);

    return found && found->val ? found->val : "";
}

static int count_entries(const char *list)
{
    int count = 1;

    for (; *list; list++)
        count += *list == ',';
    return count;
}

/*
 * Returns a copy of the list's entry with this index, counted from 0, or NULL if out of memory. A list with a
 * single entry has the same entry at every index.
 */
static char *entry(const char *list, int index)
{
    if (count_entries(list) > 1)
        for (; index > 0; index--)
            list += strcspn(list, ",") + 1;
    return strndup(list, strcspn(list, ","));
}

/*
 * Whether host is the path of a Unix socket, which begins with "/", or with "@" in the abstract namespace.
 * Also true if host is empty, because libpq's default is such a path.
 */
static bool is_socket(const char *host)
{
    return *host == '/' || *host == '@' || *host == '\0';
}

static struct addrinfo *look_up(const char *host, int flags, int *failure)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags };
    struct addrinfo *found = NULL;

    *failure = getaddrinfo(host, NULL, &hints, &found);
    return *failure ? NULL : found;
}

static bool is_numeric(const char *host)
{
    int failure;
    struct addrinfo *found = look_up(host, AI_NUMERICHOST, &failure);

    if (found)
        freeaddrinfo(found);
    return found;
}

static bool is_name(const char *host, const char *hostaddr)
{
    return *hostaddr == '\0' && !is_socket(host) && !is_numeric(host);
}

/* ---- creating and freeing */

/* Returns a hash of the text, with its NUL, after the text with the hash so far. It is never 0. */
static uint64_t hash(uint64_t so_far, const char *text)
{
    return fnv1a(so_far, text, strlen(text) + 1) | 1;
}

/* Returns how many hosts libpq's parameters name, or 0 if libpq rejects lists of these lengths. */
static int count_hosts(const struct addresses *addresses)
{
    const int hosts = count_entries(addresses->host), ports = count_entries(addresses->port);
    const int count = *addresses->hostaddr ? count_entries(addresses->hostaddr) : hosts;

    return (*addresses->host && hosts != count) || (ports != 1 && ports != count) ? 0 : count;
}

/* Sets need_resolver if a host is a name. Returns false if out of memory. */
static bool look_for_names(struct addresses *addresses)
{
    const int count = count_hosts(addresses);

    for (int i = 0; i < count; i++) {
        char *host = entry(addresses->host, i), *hostaddr = entry(addresses->hostaddr, i);
        const bool made = host && hostaddr;

        if (made && is_name(host, hostaddr))
            addresses->need_resolver = true;
        free(host);
        free(hostaddr);
        if (!made)
            return false;
    }
    return true;
}

static void read_options(struct addresses *addresses, const PQconninfoOption *options)
{
    static const char *const identifying[] = { "host", "hostaddr", "port", "target_session_attrs" };
    const char *timeout = addresses_option(options, "connect_timeout");

    addresses->id = FNV1A_BASIS;
    for (size_t i = 0; i < sizeof identifying / sizeof *identifying; i++)
        addresses->id = hash(addresses->id, addresses_option(options, identifying[i]));
    addresses->balanced = strcmp(addresses_option(options, "load_balance_hosts"), "random") == 0;
    addresses->options = (struct addresses_options){
        .connect_timeout_s = *timeout ? clock_min(strtol(timeout, NULL, 10), INT_MAX) : ADDRESSES_NOT_SET,
        .prefer_standby = strcmp(addresses_option(options, "target_session_attrs"), "prefer-standby") == 0,
        .keepalives_idle = *addresses_option(options, "keepalives_idle"),
        .keepalives_interval = *addresses_option(options, "keepalives_interval"),
        .keepalives_count = *addresses_option(options, "keepalives_count"),
        .tcp_user_timeout = *addresses_option(options, "tcp_user_timeout"),
    };
}

struct addresses *addresses_new(const PQconninfoOption *options)
{
    struct addresses *addresses = calloc(1, sizeof *addresses);
    PQconninfoOption *defaults = options ? NULL : PQconndefaults();
    bool made;

    if (!options)
        options = defaults;
    made = addresses && options;

    if (made) {
        addresses->host = strdup(addresses_option(options, "host"));
        addresses->hostaddr = strdup(addresses_option(options, "hostaddr"));
        addresses->port = strdup(addresses_option(options, "port"));
        addresses->default_port = strdup(find_option(options, "port")->compiled);
        read_options(addresses, options);
        made = addresses->host && addresses->hostaddr && addresses->port && addresses->default_port &&
               look_for_names(addresses);
    }
    PQconninfoFree(defaults);
    if (made)
        return addresses;
    addresses_free(addresses);
    return NULL;
}

static void free_list(struct addresses *addresses)
{
    for (int i = 0; i < addresses->count; i++) {
        free(addresses->list[i].host);
        free(addresses->list[i].hostaddr);
        free(addresses->list[i].port);
    }
    free(addresses->list);
    addresses->list = NULL;
    addresses->count = 0;
}

void addresses_free(struct addresses *addresses)
{
    if (!addresses)
        return;
    free_list(addresses);
    free(addresses->host);
    free(addresses->hostaddr);
    free(addresses->port);
    free(addresses->default_port);
    free(addresses);
}

bool addresses_need_resolver(const struct addresses *addresses)
{
    return addresses->need_resolver;
}

const struct addresses_options *addresses_options(const struct addresses *addresses)
{
    return &addresses->options;
}

/* ---- resolving */

/*
 * Sets *value to a new value of a libpq parameter for one host; list is the operator's value for all hosts.
 * libpq ignores an empty value and takes the list instead. Therefore, if a parameter of this host is empty
 * (twice), all of them name the host twice. Returns false if out of memory.
 */
static bool set_value(char **value, const char *list, const char *text, bool twice)
{
    if (*text == '\0' && *list == '\0')
        return true;
    if (asprintf(value, "%s%s%s", text, twice ? "," : "", twice ? text : "") < 0)
        *value = NULL;
    return *value;
}

/* Adds an address. Returns false if out of memory. */
static bool add(struct addresses *addresses, const char *host, const char *hostaddr, const char *port)
{
    struct address *list = realloc(addresses->list, (size_t)(addresses->count + 1) * sizeof *list);
    const bool twice = (*host == '\0' && *addresses->host) || (*hostaddr == '\0' && *addresses->hostaddr);
    struct address *made;

    if (!list)
        return false;
    addresses->list = list;
    made = &list[addresses->count++];
    *made = (struct address){ .server = hash(hash(FNV1A_BASIS, *host ? host : hostaddr), port) };
    made->id = hash(made->server, hostaddr);
    return set_value(&made->host, addresses->host, host, twice) &&
           set_value(&made->hostaddr, addresses->hostaddr, hostaddr, twice) &&
           set_value(&made->port, addresses->port,
                     *port || *addresses->port == '\0' ? port : addresses->default_port, twice);
}

static void note_failure(struct addresses *addresses, const char *host, int failure)
{
    (void)snprintf(addresses->error, sizeof addresses->error,
                   "could not translate host name \"%.100s\" to address: %s", host, gai_strerror(failure));
}

/*
 * Adds each address of this host name. The address keeps the name as its host, because TLS verifies the name
 * and libpq looks it up in the password file.
 */
static bool resolve_name(struct addresses *addresses, const char *host, const char *port)
{
    int failure;
    struct addrinfo *found = look_up(host, 0, &failure);
    char hostaddr[NI_MAXHOST];
    bool made = true;

    if (failure)
        note_failure(addresses, host, failure);
    for (const struct addrinfo *at = found; at && made; at = at->ai_next) {
        failure =
            getnameinfo(at->ai_addr, at->ai_addrlen, hostaddr, sizeof hostaddr, NULL, 0, NI_NUMERICHOST);
        if (failure == 0)
            made = add(addresses, host, hostaddr, port);
        else
            note_failure(addresses, host, failure);
    }
    if (found)
        freeaddrinfo(found);
    return made;
}

/* Adds the addresses of the host with this index. Returns false if out of memory. */
static bool resolve_entry(struct addresses *addresses, int index)
{
    char *host = entry(addresses->host, index), *hostaddr = entry(addresses->hostaddr, index),
         *port = entry(addresses->port, index);
    bool made = host && hostaddr && port;

    if (made && is_name(host, hostaddr))
        made = resolve_name(addresses, host, port);
    else if (made)
        made = add(addresses, host, hostaddr, port);
    free(host);
    free(hostaddr);
    free(port);
    return made;
}

void addresses_resolve(struct addresses *addresses)
{
    const int count = count_hosts(addresses);
    bool made = true;

    for (int i = 0; made && i < count; i++)
        made = resolve_entry(addresses, i);
    if (count == 0) { /* libpq takes its own values and says what is wrong with them */
        addresses->list = calloc(1, sizeof *addresses->list);
        made = addresses->list;
        addresses->count = made;
    }
    addresses->resolved_ms = clock_monotonic_ms();
    if (!made) {
        free_list(addresses);
        (void)snprintf(addresses->error, sizeof addresses->error, "out of memory");
    }
}

/* ---- results */

int64_t addresses_resolved_ms(const struct addresses *addresses)
{
    return addresses->resolved_ms;
}

const char *addresses_error(const struct addresses *addresses)
{
    return addresses->count == 0 ? addresses->error : "";
}

int addresses_count(const struct addresses *addresses)
{
    return addresses->count;
}

const struct address *addresses_at(const struct addresses *addresses, int index)
{
    return &addresses->list[index % addresses->count];
}

/* ---- where attempts begin */

/* Returns the id of the address to begin with, to be read or changed. */
static _Atomic uint64_t *begin_of(uint64_t list)
{
    struct begin *begins = server_memory()->begins;
    int i = 0;

    while (i < SERVER_MEMORY_LISTS - 1 && begins[i].list && begins[i].list != list)
        i++;
    if (begins[i].list != list) {
        begins[i].list = list;
        begins[i].id = 0;
    }
    return &begins[i].id;
}

uint64_t addresses_list(const struct addresses *addresses)
{
    return addresses->id;
}

int addresses_first(const struct addresses *addresses)
{
    const uint64_t id = *begin_of(addresses_list(addresses));

    if (addresses->balanced)
        return (int)(random() % addresses->count);
    for (int i = 0; i < addresses->count; i++)
        if (addresses->list[i].id == id)
            return i;
    return 0;
}

void addresses_prefer(uint64_t list, uint64_t id)
{
    *begin_of(list) = id;
}

void addresses_avoid(uint64_t list, uint64_t id, uint64_t next)
{
    _Atomic uint64_t *begin = begin_of(list);

    if (*begin == id || *begin == 0)
        *begin = next;
}
