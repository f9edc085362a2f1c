#include "worker/message_source.h"

#include "core/utf8.h"
#include "shared/access_memory.h"

#include <string.h>

bool source_is_usable(const char *authorization)
{
    const size_t length = strlen(authorization);

    return length <= ACCESS_TOKEN_MAX_BYTES && utf8_valid_length(authorization, length) == length;
}
