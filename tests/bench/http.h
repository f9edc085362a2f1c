/* As much of HTTP/1.1 as a load generator needs to read answers. */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include <stdbool.h>
#include <stddef.h>

/* What has been read of an answer. text is the caller's to free(). */
struct answer {
    char *text;
    size_t length, capacity;
    /* Once it is whole: */
    int status;
    bool last;  /* on its connection */
    char *body; /* in text, '\0'-terminated */
};

enum answer_state { ANSWER_PARTIAL, ANSWER_WHOLE, ANSWER_BROKEN };

/* A new connection to 127.0.0.1, or -1. */
int http_connect(int port);

/*
 * Reads once from a connection. ANSWER_PARTIAL: the answer is not complete yet. ANSWER_BROKEN: the data are
 * not an answer, or the connection has ended.
 */
enum answer_state answer_read(struct answer *a, int fd);

/* Copies the value of a header of an answer, '\0'-terminated; "" if there is none. */
void answer_header(const struct answer *a, const char *name, char *value, size_t size);

#endif
