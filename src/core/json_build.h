/*
 * Adds parts to json-c objects and arrays, with errors that need no cleanup: both arguments may be NULL
 * because their allocation failed, and the added value is always taken over. So a caller builds a whole tree
 * in one chain of &&.
 */
#ifndef PGPOLL_JSON_BUILD_H
#define PGPOLL_JSON_BUILD_H

#include <stdbool.h>

struct json_object;

/*
 * Add value to object under key (copied), and item to array. Return false if an argument is NULL or memory
 * ran out: the value is freed and was not added.
 */
bool json_build_add_member(struct json_object *object, const char *key, struct json_object *value);
bool json_build_add_item(struct json_object *array, struct json_object *item);

#endif
