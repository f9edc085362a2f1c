#include "core/cors.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { ORIGIN_SIZE = 320 }; /* a host name has at most 253 characters */

static const char SEPARATORS[] = ", \t";

/* Sets *origin to the next origin in *rest and moves *rest past it. Returns its length, 0 at the end. */
static size_t next_origin(const char **rest, const char **origin)
{
    *origin = *rest + strspn(*rest, SEPARATORS);
    *rest = *origin + strcspn(*origin, SEPARATORS);
    return (size_t)(*rest - *origin);
}

static bool consists_of(const char *text, size_t length, const char *others)
{
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr(others, text[i]))
            return false;
    return length > 0;
}

/*
 * Parses ":port", or an empty text, between text and end. Returns the port, 0 if there is none, or -1 if it
 * is invalid.
 */
static long read_port(const char *text, const char *end)
{
    char *after;
    long port;

    if (text == end)
        return 0;
    if (*text != ':' || text[1] < '1' || text[1] > '9')
        return -1;
    port = strtol(text + 1, &after, 10);
    return after == end && port <= 65535 ? port : -1;
}

/*
 * Converts text to the form in which a browser sends an origin: with a scheme, without a path, without the
 * scheme's default port. Does not change the case of letters. Returns false if text cannot be read as an
 * origin.
 */
static bool normalize(const char *text, char origin[static ORIGIN_SIZE])
{
    const char *colon = strstr(text, "://"), *scheme = colon ? text : "https",
               *host = colon ? colon + 3 : text;
    const size_t scheme_length = colon ? (size_t)(colon - text) : strlen(scheme);
    const char *end = host + strcspn(host, "/?#");
    const char *host_end = *host == '[' ? host + strcspn(host, "]") + 1 : host + strcspn(host, ":/?#");
    bool ipv6 = *host == '[';
    long port;
    int length;

    if (strcmp(text, "null") == 0 || host_end > end || !consists_of(scheme, scheme_length, "+-.") ||
        !isalpha((unsigned char)*scheme) ||
        !consists_of(host, (size_t)(host_end - host), ipv6 ? "[]:." : "-._"))
        return false;
    port = read_port(host_end, end);
    if (port < 0)
        return false;
    length = snprintf(origin, ORIGIN_SIZE, "%.*s://%.*s", (int)scheme_length, scheme, (int)(host_end - host),
                      host);
    if (port == 0 || (port == 443 && strncasecmp(origin, "https:", 6) == 0) ||
        (port == 80 && strncasecmp(origin, "http:", 5) == 0))
        return length < ORIGIN_SIZE;
    return length < ORIGIN_SIZE - 6 && snprintf(origin + length, 7, ":%ld", port) > 0;
}

/* Checks one origin of a list; the caller handles "*". */
static bool check_origin(const char *origin, size_t length, char *reason, size_t size)
{
    char text[ORIGIN_SIZE] = "", meant[ORIGIN_SIZE];
    const bool fits = length < sizeof text;

    memcpy(text, origin, fits ? length : sizeof text - 1);
    if (fits && normalize(text, meant)) {
        if (strcmp(text, meant) == 0)
            return true;
        (void)snprintf(reason, size, "\"%s\" must be an origin as browsers send it; write %s", text, meant);
    } else {
        (void)snprintf(reason, size,
                       "\"%s\" must be an origin: scheme://host or scheme://host:port, such as "
                       "https://www.example.org; list every origin, patterns are not supported",
                       text);
    }
    return false;
}

bool cors_check(const char *list, char *reason, size_t size)
{
    const char *rest = list, *origin;
    bool all = false;
    size_t length;
    int count = 0;

    while ((length = next_origin(&rest, &origin)) > 0) {
        count++;
        if (length == 1 && *origin == '*')
            all = true;
        else if (!check_origin(origin, length, reason, size))
            return false;
    }
    if (all && count > 1) {
        (void)snprintf(reason, size, "* allows every origin and must be alone; write either * or the list");
        return false;
    }
    return true;
}

bool cors_allows(const char *list, const char *origin)
{
    const size_t asked = strlen(origin);
    const char *one;
    size_t length;

    while ((length = next_origin(&list, &one)) > 0)
        if (length == asked && strncasecmp(one, origin, length) == 0)
            return true;
    return false;
}

bool cors_allows_all(const char *list)
{
    const char *origin;

    return next_origin(&list, &origin) == 1 && *origin == '*';
}
