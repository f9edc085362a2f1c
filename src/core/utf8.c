#include "core/utf8.h"

#include <string.h>

size_t utf8_decode(const char *text, size_t length, uint32_t *character)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    const unsigned char *bytes = (const unsigned char *)text;
    size_t size = bytes[0] < 0x80   ? 1
                  : bytes[0] < 0xc0 ? 0
                  : bytes[0] < 0xe0 ? 2
                  : bytes[0] < 0xf0 ? 3
                  : bytes[0] < 0xf8 ? 4
                                    : 0;
    uint32_t value;

    if (size == 0 || size > length)
        return 0;
    value = size == 1 ? bytes[0] : bytes[0] & (0x7fU >> size);
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (bytes[i] & 0x3fU);
    }
    if (value < least[size] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
        return 0;
    *character = value;
    return size;
}

size_t utf8_encode(uint32_t character, char bytes[static UTF8_MAX_BYTES])
{
    const size_t size = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    static const unsigned first[] = { 0, 0, 0xc0, 0xe0, 0xf0 };

    for (size_t i = size; i-- > 1; character >>= 6)
        bytes[i] = (char)(0x80 | (character & 0x3f));
    bytes[0] = (char)(first[size] | character);
    return size;
}

size_t utf8_valid_length(const char *text, size_t length)
{
    size_t at = 0, size;
    uint32_t character;

    while (at < length && (size = utf8_decode(text + at, length - at, &character)) > 0)
        at += size;
    return at;
}

const char *utf8_or_empty(const char *text)
{
    const size_t length = strlen(text);

    return utf8_valid_length(text, length) == length ? text : "";
}
