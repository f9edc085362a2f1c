#include "api/json_text.h"

#include "core/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT_DEPTH = 2, UNIT_LENGTH = 6, BYTE_ORDER_MARK_LENGTH = 3, END = -1 };

/* The state of one rewrite. The input has been read up to at, and its rewritten form is in out. */
struct rewriter {
    const char *text;
    size_t length, at;
    const char *const *members;
    char *out;
    size_t written;
    const char *message; /* the fault at the offset at, if reading failed */
};

static int peek_at(const struct rewriter *rewriter, size_t at)
{
    return at < rewriter->length ? (unsigned char)rewriter->text[at] : END;
}

static int peek(const struct rewriter *rewriter)
{
    return peek_at(rewriter, rewriter->at);
}

static bool is_digit(const struct rewriter *rewriter, size_t at)
{
    return peek_at(rewriter, at) >= '0' && peek_at(rewriter, at) <= '9';
}

static bool is_at(const struct rewriter *rewriter, char c)
{
    return peek(rewriter) == (unsigned char)c;
}

static void skip_space(struct rewriter *rewriter)
{
    while (is_at(rewriter, ' ') || is_at(rewriter, '\t') || is_at(rewriter, '\n') || is_at(rewriter, '\r'))
        rewriter->at++;
}

static bool refuse(struct rewriter *rewriter, const char *message)
{
    rewriter->message = message;
    return false;
}

/* Reports the next byte, or the end of the text, as a fault. */
static bool refuse_next(struct rewriter *rewriter)
{
    return refuse(rewriter, peek(rewriter) == END ? "unexpected end of data" : "unexpected character");
}

static void put(struct rewriter *rewriter, const char *bytes, size_t length)
{
    memcpy(rewriter->out + rewriter->written, bytes, length);
    rewriter->written += length;
}

/* Copies the next length bytes unchanged. */
static void copy(struct rewriter *rewriter, size_t length)
{
    put(rewriter, rewriter->text + rewriter->at, length);
    rewriter->at += length;
}

/* Skips white space and copies the character c. Any other character is a fault. */
static bool copy_after_space(struct rewriter *rewriter, char c)
{
    skip_space(rewriter);
    if (!is_at(rewriter, c))
        return refuse_next(rewriter);
    copy(rewriter, 1);
    return true;
}

/* ---- strings */

/* Reads the escape \uXXXX at offset at into *unit. Returns false if there is no such escape. */
static bool read_unit(const struct rewriter *rewriter, size_t at, uint32_t *unit)
{
    char digits[5] = "";

    if (at + UNIT_LENGTH > rewriter->length || rewriter->text[at] != '\\' || rewriter->text[at + 1] != 'u')
        return false;
    memcpy(digits, rewriter->text + at + 2, 4);
    if (strspn(digits, "0123456789abcdefABCDEF") != 4)
        return false;
    *unit = (uint32_t)strtoul(digits, NULL, 16);
    return true;
}

static bool rewrite_unicode_escape(struct rewriter *rewriter, bool is_name)
{
    uint32_t character, low;
    char encoded[UTF8_MAX_BYTES];
    size_t length = UNIT_LENGTH, encoded_length;

    if (!read_unit(rewriter, rewriter->at, &character))
        return refuse(rewriter, "invalid escape");
    if (character >= 0xd800 && character <= 0xdfff) {
        if (character >= 0xdc00 || !read_unit(rewriter, rewriter->at + UNIT_LENGTH, &low) || low < 0xdc00 ||
            low > 0xdfff)
            return refuse(rewriter, "half a surrogate pair");
        character = 0x10000 + ((character - 0xd800) << 10) + (low - 0xdc00);
        length = 2 * UNIT_LENGTH;
    }
    if (character == 0 && is_name)
        return refuse(rewriter, "\\u0000 in a name");
    if (character < ' ') {
        copy(rewriter, length);
        return true;
    }
    if (character == '"' || character == '\\')
        put(rewriter, "\\", 1);
    encoded_length = utf8_encode(character, encoded);
    put(rewriter, encoded, encoded_length);
    rewriter->at += length;
    return true;
}

static bool rewrite_escape(struct rewriter *rewriter, bool is_name)
{
    const int escaped = peek_at(rewriter, rewriter->at + 1);

    if (escaped == 'u' || escaped == END || escaped == '\0' || !strchr("\"\\/bfnrt", escaped))
        return rewrite_unicode_escape(rewriter, is_name);
    if (escaped == '/')
        rewriter->at++; /* the loop copies the slash itself next */
    else
        copy(rewriter, 2);
    return true;
}

static bool rewrite_character(struct rewriter *rewriter)
{
    uint32_t character;
    size_t length;

    if (peek(rewriter) == END)
        return refuse_next(rewriter);
    if (peek(rewriter) < ' ')
        return refuse(rewriter, "control character in a string");
    length = utf8_decode(rewriter->text + rewriter->at, rewriter->length - rewriter->at, &character);
    if (length == 0)
        return refuse(rewriter, "invalid UTF-8");
    copy(rewriter, length);
    return true;
}

static bool rewrite_string(struct rewriter *rewriter, bool is_name)
{
    bool good;

    copy(rewriter, 1);
    do {
        if (is_at(rewriter, '"')) {
            copy(rewriter, 1);
            return true;
        }
        good = is_at(rewriter, '\\') ? rewrite_escape(rewriter, is_name) : rewrite_character(rewriter);
    } while (good);
    return false;
}

/* ---- numbers and words */

static size_t end_of_digits(const struct rewriter *rewriter, size_t at)
{
    while (is_digit(rewriter, at))
        at++;
    return at;
}

/*
 * Copies a number. Stops before a dot or an exponent that no digit follows, which the caller then reports as
 * a fault.
 */
static bool rewrite_number(struct rewriter *rewriter)
{
    size_t end = rewriter->at + is_at(rewriter, '-'), digits;

    if (!is_digit(rewriter, end)) {
        rewriter->at = end;
        return refuse_next(rewriter);
    }
    end = peek_at(rewriter, end) == '0' ? end + 1 : end_of_digits(rewriter, end);
    if (peek_at(rewriter, end) == '.' && is_digit(rewriter, end + 1))
        end = end_of_digits(rewriter, end + 1);
    if (peek_at(rewriter, end) == 'e' || peek_at(rewriter, end) == 'E') {
        digits = end + 1;
        if (peek_at(rewriter, digits) == '+' || peek_at(rewriter, digits) == '-')
            digits++;
        if (is_digit(rewriter, digits))
            end = end_of_digits(rewriter, digits);
    }
    copy(rewriter, end - rewriter->at);
    return true;
}

static bool rewrite_word(struct rewriter *rewriter, const char *word)
{
    for (; *word; word++) {
        if (!is_at(rewriter, *word))
            return refuse_next(rewriter);
        copy(rewriter, 1);
    }
    return true;
}

/* ---- values; depth is the number of arrays and objects around the value */

static bool rewrite_value(struct rewriter *rewriter, int depth);

static bool is_kept(const struct rewriter *rewriter, const char *name, size_t length)
{
    for (const char *const *member = rewriter->members; *member; member++)
        if (strlen(*member) == length && memcmp(*member, name, length) == 0)
            return true;
    return false;
}

/*
 * Rewrites one member of an object, with a comma before it unless it is the first kept member. If the member
 * is not to be kept, removes it from the output again.
 */
static bool rewrite_member(struct rewriter *rewriter, int depth)
{
    const size_t start = rewriter->written;
    size_t name;
    bool kept;

    skip_space(rewriter);
    if (!is_at(rewriter, '"'))
        return refuse_next(rewriter);
    if (rewriter->out[start - 1] != '{')
        put(rewriter, ",", 1);
    name = rewriter->written;
    if (!rewrite_string(rewriter, true))
        return false;
    kept = depth > 1 || is_kept(rewriter, rewriter->out + name, rewriter->written - name);
    if (!copy_after_space(rewriter, ':') || !rewrite_value(rewriter, depth))
        return false;
    if (!kept)
        rewriter->written = start;
    return true;
}

static bool rewrite_object(struct rewriter *rewriter, int depth)
{
    copy(rewriter, 1);
    skip_space(rewriter);
    if (!is_at(rewriter, '}')) {
        if (!rewrite_member(rewriter, depth))
            return false;
        for (skip_space(rewriter); is_at(rewriter, ','); skip_space(rewriter)) {
            rewriter->at++;
            if (!rewrite_member(rewriter, depth))
                return false;
        }
    }
    return copy_after_space(rewriter, '}');
}

static bool rewrite_array(struct rewriter *rewriter, int depth)
{
    copy(rewriter, 1);
    skip_space(rewriter);
    if (!is_at(rewriter, ']')) {
        if (!rewrite_value(rewriter, depth))
            return false;
        for (skip_space(rewriter); is_at(rewriter, ','); skip_space(rewriter)) {
            copy(rewriter, 1);
            if (!rewrite_value(rewriter, depth))
                return false;
        }
    }
    return copy_after_space(rewriter, ']');
}

static bool rewrite_container(struct rewriter *rewriter, int depth)
{
    const size_t start = rewriter->written;

    if (depth > JSON_TEXT_MAX_DEPTH)
        return refuse(rewriter, "nesting too deep");
    if (!(is_at(rewriter, '{') ? rewrite_object(rewriter, depth) : rewrite_array(rewriter, depth)))
        return false;
    if (depth > KEPT_DEPTH) {
        rewriter->written = start;
        put(rewriter, "0", 1);
    }
    return true;
}

static bool rewrite_value(struct rewriter *rewriter, int depth)
{
    skip_space(rewriter);
    switch (peek(rewriter)) {
    case '{':
    case '[':
        return rewrite_container(rewriter, depth + 1);
    case '"':
        return rewrite_string(rewriter, false);
    case 't':
        return rewrite_word(rewriter, "true");
    case 'f':
        return rewrite_word(rewriter, "false");
    case 'n':
        return rewrite_word(rewriter, "null");
    default:
        if (is_at(rewriter, '-') || is_digit(rewriter, rewriter->at))
            return rewrite_number(rewriter);
        return refuse_next(rewriter);
    }
}

bool json_text_rewrite(const char *text, size_t length, const char *const *members, char *out,
                       size_t *written, struct json_text_fault *fault)
{
    static const char byte_order_mark[] = "\xef\xbb\xbf";
    struct rewriter rewriter = { .text = text, .length = length, .members = members, .out = out };

    if (length >= BYTE_ORDER_MARK_LENGTH && memcmp(text, byte_order_mark, BYTE_ORDER_MARK_LENGTH) == 0)
        rewriter.at = BYTE_ORDER_MARK_LENGTH;
    if (rewrite_value(&rewriter, 0)) {
        skip_space(&rewriter);
        if (rewriter.at == length) {
            *written = rewriter.written;
            return true;
        }
        (void)refuse_next(&rewriter);
    }
    *fault = (struct json_text_fault){ rewriter.message, rewriter.at };
    return false;
}
