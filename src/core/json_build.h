/*
 * Adds parts to json-c objects and arrays so that a caller can build a whole tree in one chain of && and
 * needs no cleanup for the parts: an argument may be NULL because its allocation failed, and the functions
 * always take over the added value.
 */
#ifndef PGPOLL_JSON_BUILD_H
#define PGPOLL_JSON_BUILD_H

#include <stdbool.h>

struct json_object;

/*
 * Add value to object under key (copied), and item to array. Return false if an argument is NULL or memory
 * ran out; then the value or item is freed instead of added.
 */
bool json_build_add_member(struct json_object *object, const char *key, struct json_object *value);
bool json_build_add_item(struct json_object *array, struct json_object *item);

#endif
