#include "api/topic.h"

#include "core/utf8.h"

#include <stdbool.h>

static bool is_control(uint32_t character)
{
    return character < 0x20 || (character >= 0x7f && character <= 0x9f);
}

/* Whether the character has the Unicode property White_Space. */
static bool is_space(uint32_t character)
{
    return character == ' ' || (character >= 0x09 && character <= 0x0d) || character == 0x85 ||
           character == 0xa0 || character == 0x1680 || (character >= 0x2000 && character <= 0x200a) ||
           character == 0x2028 || character == 0x2029 || character == 0x202f || character == 0x205f ||
           character == 0x3000;
}

enum topic_fault topic_check(const char *name, size_t length)
{
    size_t characters = 0, size;
    bool blank = true, control = false;
    uint32_t character;

    for (size_t at = 0; at < length && (size = utf8_decode(name + at, length - at, &character)) > 0;
         at += size) {
        characters++;
        blank = blank && is_space(character);
        control = control || is_control(character);
    }
    if (blank)
        return TOPIC_BLANK;
    if (characters > TOPIC_MAX_CHARACTERS)
        return TOPIC_TOO_LONG;
    return control ? TOPIC_CONTROL : TOPIC_OK;
}
