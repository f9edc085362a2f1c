#include "fcgi_records.h"

#include <string.h>

/* Constants of the FastCGI specification, 8. */
enum { VERSION_1 = 1, BEGIN_REQUEST = 1, PARAMS = 4 };
enum { VERSION_AT = 0, TYPE_AT = 1, REQUEST_ID_AT = 2, CONTENT_LENGTH_AT = 4, PADDING_LENGTH_AT = 6 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static unsigned two_bytes(const unsigned char *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

/*
 * Checks the complete head of a record. The first record must begin a request, and all others must belong to
 * it.
 */
static bool begin_record(struct fcgi_records *records)
{
    const unsigned id = two_bytes(records->head + REQUEST_ID_AT);
    const bool begins = records->head[TYPE_AT] == BEGIN_REQUEST;

    /* Request id 0 marks management records (4.1). */
    if (records->head[VERSION_AT] != VERSION_1 || id == 0 || begins != (records->request_id == 0) ||
        (!begins && id != records->request_id))
        return false;
    records->request_id = id;
    records->content_left = two_bytes(records->head + CONTENT_LENGTH_AT);
    records->padding_left = records->head[PADDING_LENGTH_AT];
    /*
     * libfcgi does not skip the padding of FCGI_BEGIN_REQUEST and of empty records. It would take the padding
     * for the next record.
     */
    return records->padding_left == 0 || (!begins && records->content_left > 0);
}

/*
 * Reads one byte of a name or value length. A length has four bytes if the high bit of its first byte is set,
 * otherwise one.
 */
static void follow_length(struct fcgi_records *records, unsigned char byte)
{
    if (records->length_bytes_left > 0) {
        records->length = records->length << 8 | byte;
        records->length_bytes_left--;
    } else {
        records->length = byte & 0x7f;
        records->length_bytes_left = byte & 0x80 ? 3 : 0;
    }
    if (records->length_bytes_left > 0)
        return;
    if (records->has_name_length)
        records->text_left = records->name_length + records->length; /* no overflow: both are below 2^31 */
    else
        records->name_length = records->length;
    records->has_name_length = !records->has_name_length;
}

static bool follow_parameters(struct fcgi_records *records, const unsigned char *bytes, size_t size)
{
    records->parameter_bytes += size;
    for (size_t at = 0; at < size;) {
        size_t text = least(records->text_left, size - at);

        if (text == 0)
            follow_length(records, bytes[at++]);
        else if (memchr(bytes + at, '\0', text)) /* a C string would end at the NUL */
            return false;
        if (records->text_left > FCGI_RECORDS_PARAMETER_BYTES)
            return false;
        records->text_left -= (uint32_t)text;
        at += text;
    }
    return records->parameter_bytes <= FCGI_RECORDS_PARAMETER_BYTES;
}

bool fcgi_records_follow(struct fcgi_records *records, const unsigned char *bytes, size_t size)
{
    for (size_t at = 0, part; at < size; at += part) {
        if (records->content_left > 0) {
            part = least(records->content_left, size - at);
            records->content_left -= part;
            if (records->head[TYPE_AT] == PARAMS && !follow_parameters(records, bytes + at, part))
                return false;
        } else if (records->padding_left > 0) {
            part = least(records->padding_left, size - at);
            records->padding_left -= part;
        } else {
            part = least(sizeof records->head - records->head_size, size - at);
            memcpy(records->head + records->head_size, bytes + at, part);
            records->head_size = (records->head_size + part) % sizeof records->head;
            if (records->head_size == 0 && !begin_record(records))
                return false;
        }
    }
    return true;
}
