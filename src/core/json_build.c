#include "core/json_build.h"

#include <json-c/json.h>

bool json_build_add_member(struct json_object *object, const char *key, struct json_object *value)
{
    if (object && value && json_object_object_add(object, key, value) == 0)
        return true;
    json_object_put(value);
    return false;
}

bool json_build_add_item(struct json_object *array, struct json_object *item)
{
    if (array && item && json_object_array_add(array, item) == 0)
        return true;
    json_object_put(item);
    return false;
}
