#include "postgres/statement.h"

#include "api/poll_request.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

/* From src/include/catalog/pg_type.dat in PostgreSQL. */
enum { OID_INT8 = 20, OID_INT4 = 23, OID_TEXT = 25, OID_TEXT_ARRAY = 1009, OID_INT8_ARRAY = 1016 };

/*
 * An array begins with five fields of 4 bytes: number of dimensions, has-NULLs, element type, length, lower
 * bound. Each element begins with its size in 4 bytes (array_recv() in PostgreSQL).
 */
enum { ARRAY_HEAD_SIZE = 20, ELEMENT_HEAD_SIZE = 4 };

void statement_init(struct statement *statement, const char *sql)
{
    *statement = (struct statement){ .sql = sql };
}

static void add(struct statement *statement, unsigned type, const char *value, size_t length)
{
    statement->types[statement->count] = type;
    statement->values[statement->count] = value;
    statement->lengths[statement->count] = (int)length;
    statement->count++;
}

static char *put_int4(char *at, int32_t number)
{
    uint32_t big_endian = htobe32((uint32_t)number);

    memcpy(at, &big_endian, sizeof big_endian);
    return at + sizeof big_endian;
}

static char *put_int8(char *at, int64_t number)
{
    uint64_t big_endian = htobe64((uint64_t)number);

    memcpy(at, &big_endian, sizeof big_endian);
    return at + sizeof big_endian;
}

static char *put_array_head(char *at, unsigned element_type, int count)
{
    at = put_int4(at, 1);
    at = put_int4(at, 1);
    at = put_int4(at, (int32_t)element_type);
    at = put_int4(at, count);
    return put_int4(at, 1);
}

void statement_add_text(struct statement *statement, const char *text)
{
    add(statement, OID_TEXT, text, strlen(text));
}

/* Appends a parameter of size bytes that the statement owns. Returns its memory, or NULL if out of memory. */
static char *add_owned(struct statement *statement, unsigned type, size_t size)
{
    char *value = calloc(1, size);

    if (value) {
        statement->owned[statement->count] = value;
        add(statement, type, value, size);
    }
    return value;
}

bool statement_add_int4(struct statement *statement, int32_t number)
{
    char *at = add_owned(statement, OID_INT4, sizeof number);

    return at && put_int4(at, number);
}

bool statement_add_int8(struct statement *statement, int64_t number)
{
    char *at = add_owned(statement, OID_INT8, sizeof number);

    return at && put_int8(at, number);
}

bool statement_add_topics(struct statement *statement, const struct poll_topic *topics, int count)
{
    size_t size = ARRAY_HEAD_SIZE;
    char *at;

    for (int i = 0; i < count; i++)
        size += ELEMENT_HEAD_SIZE + topics[i].length;
    at = add_owned(statement, OID_TEXT_ARRAY, size);
    if (!at)
        return false;
    at = put_array_head(at, OID_TEXT, count);
    for (int i = 0; i < count; i++) {
        at = put_int4(at, (int32_t)topics[i].length);
        memcpy(at, topics[i].name, topics[i].length);
        at += topics[i].length;
    }
    return true;
}

bool statement_add_int8s(struct statement *statement, const int64_t *numbers, int count, int64_t null)
{
    size_t size = ARRAY_HEAD_SIZE;
    char *at;

    for (int i = 0; i < count; i++)
        size += ELEMENT_HEAD_SIZE + (numbers[i] == null ? 0 : sizeof *numbers);
    at = add_owned(statement, OID_INT8_ARRAY, size);
    if (!at)
        return false;
    at = put_array_head(at, OID_INT8, count);
    for (int i = 0; i < count; i++) {
        at = put_int4(at, numbers[i] == null ? -1 : (int32_t)sizeof *numbers);
        if (numbers[i] != null)
            at = put_int8(at, numbers[i]);
    }
    return true;
}

void statement_release(struct statement *statement)
{
    for (int i = 0; i < statement->count; i++)
        free(statement->owned[i]);
    *statement = (struct statement){ 0 };
}
