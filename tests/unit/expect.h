/* What CUnit's assertions leave out: a failure that names the row of a table and what was got. */
#ifndef PGPOLL_EXPECT_H
#define PGPOLL_EXPECT_H

#include <CUnit/CUnit.h>
#include <stdbool.h>
#include <stddef.h>

struct json_object;

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* A test goes on after a failure. The text, as of printf, is shown with it. Returns condition. */
#define EXPECT(condition, ...) expect(condition, __FILE__, __LINE__, __VA_ARGS__)
#define EXPECT_TEXT(actual, expected) expect_text(actual, expected, __FILE__, __LINE__)
#define EXPECT_JSON(actual, expected) expect_json(actual, expected, __FILE__, __LINE__)

bool expect(bool condition, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void expect_text(const char *actual, const char *expected, const char *file, int line);

/* Both as JSON values: the order of members and white space do not matter. actual is taken over. */
void expect_json(struct json_object *actual, const char *expected, const char *file, int line);

#endif
