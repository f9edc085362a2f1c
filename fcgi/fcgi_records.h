/*
 * Checks the records of a FastCGI request (FastCGI specification 1.0, 3.3) while they arrive, before libfcgi
 * reads them. This is needed because libfcgi 2.4.2 trusts its peer: it allocates any length that a parameter
 * announces, and repeated FCGI_GET_VALUES records overrun the buffer for their answer. The checker knows
 * nothing of sockets, and stores only its state, no data of the request.
 */
#ifndef PGPOLL_FCGI_RECORDS_H
#define PGPOLL_FCGI_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FCGI_RECORDS_HEAD_SIZE = 8,
    /* Limit for all parameters together. Web servers send at most a tenth of it. */
    FCGI_RECORDS_PARAMETER_BYTES = 1024 * 1024
};

/* The state of the check. All zero: nothing has arrived yet. */
struct fcgi_records {
    unsigned char head[FCGI_RECORDS_HEAD_SIZE]; /* of the current record */
    size_t head_size;                           /* how many bytes of the head have arrived */
    size_t content_left, padding_left;
    unsigned request_id; /* 0: the request has not begun */
    /* Parameters are name-value pairs: two lengths, then both texts (specification, 3.4). */
    size_t parameter_bytes;
    uint32_t length, text_left;
    int length_bytes_left;
    bool has_name_length;
    uint32_t name_length;
};

/*
 * Checks the next size bytes. They must belong to a single request of protocol version 1, whose parameters
 * are within the limit and contain no NUL. Returns false if they do not; the connection must then be closed.
 */
bool fcgi_records_follow(struct fcgi_records *records, const unsigned char *bytes, size_t size);

#endif
