#include "expect.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool expect(bool condition, const char *file, int line, const char *format, ...)
{
    char text[4096] = "";
    va_list arguments;

    if (!condition) {
        va_start(arguments, format);
        (void)vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
    }
    return CU_assertImplementation(condition, (unsigned)line, text, file, "", CU_FALSE);
}

void expect_text(const char *actual, const char *expected, const char *file, int line)
{
    (void)expect(actual && strcmp(actual, expected) == 0, file, line, "\"%s\" instead of \"%s\"",
                 actual ? actual : "(null)", expected);
}

void expect_json(struct json_object *actual, const char *expected, const char *file, int line)
{
    /* Compare what a client gets: write actual as text and parse that. */
    const char *text = json_object_to_json_string_ext(actual, JSON_C_TO_STRING_NOSLASHESCAPE);
    struct json_object *sent = text ? json_tokener_parse(text) : NULL, *wanted = json_tokener_parse(expected);

    (void)expect(text && json_object_equal(sent, wanted), file, line, "%s instead of %s",
                 text ? text : "(nothing)", expected);
    json_object_put(sent);
    json_object_put(wanted);
    json_object_put(actual);
}
