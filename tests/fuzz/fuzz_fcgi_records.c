/*
 * Fuzzes FastCGI records: the verdict does not depend on how they are split, and agrees with a second,
 * simpler check.
 */
#include "fcgi_records.h"
#include "fuzz.h"

#include <stdbool.h>
#include <string.h>

/* Whether the parameters that have arrived announce no text above the limit and contain no NUL. */
static bool are_valid(const uint8_t *bytes, size_t size)
{
    size_t at = 0;

    while (at < size) {
        uint64_t text = 0;

        for (int part = 0; part < 2 && at < size; part++) {
            if (bytes[at] < 0x80) {
                text += bytes[at++];
                continue;
            }
            if (size - at < 4)
                return true;
            text += (uint64_t)(bytes[at] & 0x7f) << 24 | (uint64_t)bytes[at + 1] << 16 |
                    (uint64_t)bytes[at + 2] << 8 | bytes[at + 3];
            at += 4;
            if (part == 0 && at == size)
                return true; /* the value's length is still missing */
        }
        if (text > FCGI_RECORDS_PARAMETER_BYTES)
            return false;
        for (uint64_t end = at + text; at < end && at < size; at++)
            if (bytes[at] == '\0')
                return false;
    }
    return true;
}

static bool is_one_request(const uint8_t *data, size_t size)
{
    static uint8_t parameters[1 << 20];
    size_t length = 0, content;

    for (size_t at = 0; size - at >= FCGI_RECORDS_HEAD_SIZE;
         at += content + data[at - FCGI_RECORDS_HEAD_SIZE + 6]) {
        const uint8_t *head = data + at;

        if (head[0] != 1 || (head[2] == 0 && head[3] == 0) || (head[1] == 1) != (at == 0) ||
            memcmp(head + 2, data + 2, 2) != 0)
            return false;
        at += FCGI_RECORDS_HEAD_SIZE;
        content = (size_t)head[4] << 8 | head[5];
        if (head[6] > 0 && (head[1] == 1 || content == 0))
            return false;
        if (head[1] == 4) {
            size_t there = content < size - at ? content : size - at;

            memcpy(parameters + length, head + FCGI_RECORDS_HEAD_SIZE, there);
            length += there;
        }
        if (content + head[6] >= size - at)
            break;
    }
    return are_valid(parameters, length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fcgi_records whole = { 0 }, pieces = { 0 };
    bool good = fcgi_records_follow(&whole, data, size), goes_on = true;
    uint32_t dice = size ? data[size - 1] : 0;

    if (size > 65536)
        return 0;
    for (size_t at = 0, part; at < size && goes_on; at += part) {
        dice = dice * 1103515245 + 12345;
        part = 1 + dice % 16;
        if (part > size - at)
            part = size - at;
        goes_on = fcgi_records_follow(&pieces, data + at, part);
    }
    HOLDS(goes_on == good);
    HOLDS(is_one_request(data, size) == good);
    return 0;
}
