/* Assertions that show, when they fail, the row of a table and the actual value. CUnit's own do not. */
#ifndef PGPOLL_EXPECT_H
#define PGPOLL_EXPECT_H

#include <CUnit/CUnit.h>
#include <stdbool.h>
#include <stddef.h>

struct json_object;

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Fails with the printf-style text if condition is false. The test goes on. Returns condition. */
#define EXPECT(condition, ...) expect(condition, __FILE__, __LINE__, __VA_ARGS__)
#define EXPECT_TEXT(actual, expected) expect_text(actual, expected, __FILE__, __LINE__)
#define EXPECT_JSON(actual, expected) expect_json(actual, expected, __FILE__, __LINE__)

bool expect(bool condition, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void expect_text(const char *actual, const char *expected, const char *file, int line);

/* Compares JSON values, regardless of white space and the order of members. Takes over actual. */
void expect_json(struct json_object *actual, const char *expected, const char *file, int line);

#endif
