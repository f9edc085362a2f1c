#include "postgres/addresses.h"

#include "core/clock.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* A comma-separated list, written one entry at a time. */
struct list {
    char *text;
    size_t size;
    FILE *stream;
};

struct addresses {
    char *host, *hostaddr, *port; /* libpq's parameters, "" if not set */
    bool need_resolver;
    struct list hosts, hostaddrs, ports; /* the resolved parameters */
    int count;                           /* the number of entries in each list */
    int64_t resolved_ms;
    char error[256];
};

/* ---- libpq's parameters */

static char *option(const PQconninfoOption *options, const char *keyword)
{
    for (; options->keyword; options++)
        if (strcmp(options->keyword, keyword) == 0)
            return strdup(options->val ? options->val : "");
    return strdup("");
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

/*
 * Sets need_resolver if a host is a name. Ignores lists of different lengths, because libpq rejects them.
 * Returns false if out of memory.
 */
static bool look_for_names(struct addresses *addresses)
{
    const int count = count_entries(addresses->host);
    const int ports = count_entries(addresses->port);

    if ((*addresses->hostaddr && count_entries(addresses->hostaddr) != count) ||
        (ports != 1 && ports != count))
        return true;
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

struct addresses *addresses_new(const PQconninfoOption *options)
{
    struct addresses *addresses = calloc(1, sizeof *addresses);
    PQconninfoOption *defaults = options ? NULL : PQconndefaults();
    bool made;

    if (!options)
        options = defaults;
    made = addresses && options;

    if (made) {
        addresses->host = option(options, "host");
        addresses->hostaddr = option(options, "hostaddr");
        addresses->port = option(options, "port");
        made = addresses->host && addresses->hostaddr && addresses->port && look_for_names(addresses);
    }
    PQconninfoFree(defaults);
    if (made)
        return addresses;
    addresses_free(addresses);
    return NULL;
}

static void list_release(struct list *list)
{
    if (list->stream)
        (void)fclose(list->stream);
    free(list->text);
}

void addresses_free(struct addresses *addresses)
{
    if (!addresses)
        return;
    free(addresses->host);
    free(addresses->hostaddr);
    free(addresses->port);
    list_release(&addresses->hosts);
    list_release(&addresses->hostaddrs);
    list_release(&addresses->ports);
    free(addresses);
}

bool addresses_need_resolver(const struct addresses *addresses)
{
    return addresses->need_resolver;
}

/* ---- resolving */

static bool list_open(struct list *list)
{
    list->stream = open_memstream(&list->text, &list->size);
    return list->stream;
}

static bool list_close(struct list *list)
{
    const bool complete = list->stream && fclose(list->stream) == 0;

    list->stream = NULL;
    return complete;
}

static void add(struct addresses *addresses, const char *host, const char *hostaddr, const char *port)
{
    const char *comma = addresses->count++ > 0 ? "," : "";

    (void)fprintf(addresses->hosts.stream, "%s%s", comma, host);
    (void)fprintf(addresses->hostaddrs.stream, "%s%s", comma, hostaddr);
    (void)fprintf(addresses->ports.stream, "%s%s", comma, port);
}

/*
 * Adds an entry for each address of this host name. The entry keeps the name as its host, because TLS
 * verifies the name and libpq looks it up in the password file.
 */
static void resolve_name(struct addresses *addresses, const char *host, const char *port)
{
    int failure;
    struct addrinfo *found = look_up(host, 0, &failure);
    char hostaddr[NI_MAXHOST];

    if (failure)
        (void)snprintf(addresses->error, sizeof addresses->error,
                       "could not translate host name \"%.100s\" to address: %s", host,
                       gai_strerror(failure));
    for (const struct addrinfo *at = found; at; at = at->ai_next)
        if (getnameinfo(at->ai_addr, at->ai_addrlen, hostaddr, sizeof hostaddr, NULL, 0, NI_NUMERICHOST) == 0)
            add(addresses, host, hostaddr, port);
    if (found)
        freeaddrinfo(found);
}

/* Adds the addresses of the host with this index. Returns false if out of memory. */
static bool resolve_entry(struct addresses *addresses, int index)
{
    char *host = entry(addresses->host, index), *hostaddr = entry(addresses->hostaddr, index),
         *port = entry(addresses->port, index);
    const bool made = host && hostaddr && port;

    if (made && is_name(host, hostaddr))
        resolve_name(addresses, host, port);
    else if (made)
        add(addresses, host, hostaddr, port);
    free(host);
    free(hostaddr);
    free(port);
    return made;
}

void addresses_resolve(struct addresses *addresses)
{
    bool made =
        list_open(&addresses->hosts) && list_open(&addresses->hostaddrs) && list_open(&addresses->ports);

    for (int i = 0; made && i < count_entries(addresses->host); i++)
        made = resolve_entry(addresses, i);
    made = list_close(&addresses->hosts) && made;
    made = list_close(&addresses->hostaddrs) && made;
    made = list_close(&addresses->ports) && made;
    addresses->resolved_ms = clock_monotonic_ms();
    if (!made) {
        addresses->count = 0;
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
    return addresses->need_resolver && addresses->count == 0 ? addresses->error : "";
}

static const char *text_of(const struct addresses *addresses, const struct list *list)
{
    return addresses->count > 0 ? list->text : NULL;
}

const char *addresses_host(const struct addresses *addresses)
{
    return text_of(addresses, &addresses->hosts);
}

const char *addresses_hostaddr(const struct addresses *addresses)
{
    return text_of(addresses, &addresses->hostaddrs);
}

const char *addresses_port(const struct addresses *addresses)
{
    return text_of(addresses, &addresses->ports);
}
