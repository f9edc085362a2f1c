/* Fuzzes UTF-8 and topic names, compared with iconv(3). */
#include "api/topic.h"
#include "core/utf8.h"
#include "fuzz.h"

#include <errno.h>
#include <iconv.h>

enum { MOST = 4096 };

/* Decodes with iconv(3) up to the first error, at *valid. Returns the number of characters. */
static size_t convert(const uint8_t *data, size_t size, uint32_t characters[MOST], size_t *valid)
{
    static iconv_t converter;
    char *in = (char *)(uintptr_t)data, *out = (char *)characters;
    size_t in_left = size, out_left = MOST * sizeof *characters;

    if (!converter)
        converter = iconv_open("UTF-32LE", "UTF-8");
    (void)iconv(converter, NULL, NULL, NULL, NULL);
    HOLDS(iconv(converter, &in, &in_left, &out, &out_left) != (size_t)-1 || errno == EILSEQ ||
          errno == EINVAL);
    *valid = size - in_left;
    return MOST - out_left / sizeof *characters;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint32_t characters[MOST];
    const char *text = (const char *)data;
    size_t valid, count, at = 0, controls = 0;
    enum topic_fault fault;

    if (size > MOST)
        return 0;
    count = convert(data, size, characters, &valid);
    HOLDS(utf8_valid_length(text, size) == valid);
    for (size_t i = 0; i < count; i++) {
        uint32_t character;
        size_t length = utf8_decode(text + at, size - at, &character);

        HOLDS(length > 0 && character == characters[i]);
        controls += character < 0x20 || (character >= 0x7f && character < 0xa0);
        at += length;
    }
    HOLDS(at == valid);

    fault = topic_check(text, valid);
    HOLDS(count > 0 || fault == TOPIC_BLANK);
    if (fault != TOPIC_BLANK) {
        HOLDS((count > TOPIC_MAX_CHARACTERS) == (fault == TOPIC_TOO_LONG));
        HOLDS(fault == TOPIC_TOO_LONG || (controls > 0) == (fault == TOPIC_CONTROL));
    }
    return 0;
}
