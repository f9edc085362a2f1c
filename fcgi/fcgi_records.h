/*
 * The records of one FastCGI request (FastCGI specification 1.0, 3.3), looked at as they come in and before libfcgi reads them,
 * because libfcgi (2.4.2) takes its peer's word for more than it can bear: it allocates any length that a parameter announces, and
 * repeated FCGI_GET_VALUES overrun its answer's buffer. Knows nothing of sockets; keeps nothing but where it is.
 */
#ifndef PGPOLL_FCGI_RECORDS_H
#define PGPOLL_FCGI_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FCGI_RECORDS_HEAD_SIZE = 8,
    FCGI_RECORDS_PARAMETER_BYTES =
        1024 * 1024 /* of all parameters together; web servers pass on a tenth of it at most */
};

/* All zero: nothing has come yet. */
struct fcgi_records {
    unsigned char head[FCGI_RECORDS_HEAD_SIZE]; /* of the present record */
    size_t head_size;                           /* so much of it is there */
    size_t content_left, padding_left;
    unsigned request_id; /* 0: not begun */
    /* Within the parameters: lengths of name and value in turn, then their text (3.4). */
    size_t parameter_bytes;
    uint32_t length, text_left;
    int length_bytes_left;
    bool has_name_length;
    uint32_t name_length;
};

/*
 * Takes in the next size bytes. false: they are not part of one request on a connection of its own, by version 1 of the protocol,
 * with parameters of bearable size; there is nothing to be made of the rest.
 */
bool fcgi_records_follow(struct fcgi_records *records, const unsigned char *bytes, size_t size);

#endif
