/*
 * Building JSON (json-c), where making any part may run out of memory and give NULL: neither side minds that, and what is put in is
 * taken over in any case. false: it is not there. So a whole tree is one chain of &&.
 */
#ifndef PGPOLL_JSON_BUILD_H
#define PGPOLL_JSON_BUILD_H

#include <stdbool.h>

struct json_object;

/* key: copied. */
bool json_build_add_member(struct json_object *object, const char *key, struct json_object *value);
bool json_build_add_item(struct json_object *array, struct json_object *item);

#endif
