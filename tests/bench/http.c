#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int http_connect(int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

/* The line after the one that ends in line's head; the head ends with an empty one. */
static const char *find_header(const char *line, const char *name)
{
    size_t length = strlen(name);
    while ((line = strstr(line, "\r\n")) && strncmp(line, "\r\n\r\n", 4) != 0) {
        line += 2;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " ");
    }
    return NULL;
}

void answer_header(const struct answer *a, const char *name, char *value, size_t size)
{
    const char *found = find_header(a->text, name);
    size_t length = found ? strcspn(found, "\r") : 0;
    length = length < size ? length : 0;
    memcpy(value, found ? found : "", length);
    value[length] = '\0';
}

/* Joins the chunks of a body in place. */
static enum answer_state join_chunks(struct answer *a)
{
    static const char ending[] = "0\r\n\r\n";
    const char *end = a->text + a->length, *at = a->body;
    char *joined = a->body;
    /* JSON has no line ends of its own, unless somebody published some. */
    if ((size_t)(end - at) < sizeof ending - 1 || strcmp(end - (sizeof ending - 1), ending) != 0)
        return ANSWER_PARTIAL;
    for (;;) {
        char *data;
        size_t size = strtoul(at, &data, 16);
        if (data == at || strncmp(data, "\r\n", 2) != 0 || size + 4 > (size_t)(end - data))
            return ANSWER_BROKEN;
        if (size == 0)
            break;
        memmove(joined, data + 2, size);
        joined += size;
        at = data + 2 + size + 2;
    }
    *joined = '\0';
    return ANSWER_WHOLE;
}

static enum answer_state answer_parse(struct answer *a)
{
    char *blank = strstr(a->text, "\r\n\r\n"), connection[16];
    if (!blank)
        return ANSWER_PARTIAL;
    if (strncmp(a->text, "HTTP/1.1 ", 9) != 0)
        return ANSWER_BROKEN;
    a->status = (int)strtol(a->text + 9, NULL, 10);
    a->body = blank + 4;
    answer_header(a, "Connection", connection, sizeof connection);
    a->last = strcasecmp(connection, "close") == 0;
    if (a->status == 304 || a->status == 204)
        return ANSWER_WHOLE;
    if (find_header(a->text, "Transfer-Encoding"))
        return join_chunks(a);
    const char *length = find_header(a->text, "Content-Length");
    if (!length)
        return ANSWER_BROKEN;
    return a->length - (size_t)(a->body - a->text) >= strtoul(length, NULL, 10) ? ANSWER_WHOLE
                                                                                : ANSWER_PARTIAL;
}

enum answer_state answer_read(struct answer *a, int fd)
{
    if (a->capacity - a->length < 2) {
        size_t capacity = a->capacity ? a->capacity * 2 : 2048;
        char *text = realloc(a->text, capacity);
        if (!text)
            return ANSWER_BROKEN;
        a->text = text;
        a->capacity = capacity;
        a->text[a->length] = '\0';
    }
    ssize_t got = recv(fd, a->text + a->length, a->capacity - a->length - 1, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return ANSWER_PARTIAL;
    if (got <= 0)
        return ANSWER_BROKEN;
    a->length += (size_t)got;
    a->text[a->length] = '\0';
    return answer_parse(a);
}
