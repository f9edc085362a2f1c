#include "statement.h"

#include "poll_request.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

/* src/include/catalog/pg_type.dat */
enum { OID_INT8 = 20, OID_INT4 = 23, OID_TEXT = 25, OID_TEXT_ARRAY = 1009, OID_INT8_ARRAY = 1016 };

/* An array's head (array_recv() in PostgreSQL): dimensions, has-NULLs, element type, length, lower bound; 4 bytes each. */
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

void statement_add_int4(struct statement *statement, int32_t number)
{
    char *at = statement->numbers[statement->count];

    (void)put_int4(at, number);
    add(statement, OID_INT4, at, sizeof number);
}

void statement_add_int8(struct statement *statement, int64_t number)
{
    char *at = statement->numbers[statement->count];

    (void)put_int8(at, number);
    add(statement, OID_INT8, at, sizeof number);
}

bool statement_add_topics(struct statement *statement, const struct poll_topic *topics, int count)
{
    size_t size = ARRAY_HEAD_SIZE;
    char *array, *at;

    for (int i = 0; i < count; i++)
        size += ELEMENT_HEAD_SIZE + topics[i].length;
    array = malloc(size);
    if (!array)
        return false;
    at = put_array_head(array, OID_TEXT, count);
    for (int i = 0; i < count; i++) {
        at = put_int4(at, (int32_t)topics[i].length);
        memcpy(at, topics[i].name, topics[i].length);
        at += topics[i].length;
    }
    statement->arrays[statement->count] = array;
    add(statement, OID_TEXT_ARRAY, array, size);
    return true;
}

bool statement_add_positions(struct statement *statement, const int64_t *numbers, int count)
{
    char *array = malloc(ARRAY_HEAD_SIZE + (size_t)count * (ELEMENT_HEAD_SIZE + sizeof *numbers));
    char *at;

    if (!array)
        return false;
    at = put_array_head(array, OID_INT8, count);
    for (int i = 0; i < count; i++) {
        if (numbers[i] < 0) {
            at = put_int4(at, -1);
        } else {
            at = put_int4(at, sizeof *numbers);
            at = put_int8(at, numbers[i]);
        }
    }
    statement->arrays[statement->count] = array;
    add(statement, OID_INT8_ARRAY, array, (size_t)(at - array));
    return true;
}

void statement_release(struct statement *statement)
{
    for (int i = 0; i < statement->count; i++)
        free(statement->arrays[i]);
    *statement = (struct statement){ 0 };
}
