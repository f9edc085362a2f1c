#include "http.h"

#include "core/config.h"
#include "core/cors.h"
#include "oom.h"
#include "worker/answer.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *http_parameter(const FCGX_Request *request, const char *name)
{
    const char *value = FCGX_GetParam(name, request->envp);

    return value ? value : "";
}

bool http_path_is(const FCGX_Request *request, const char *path)
{
    /*
     * Uses REQUEST_URI, because web servers differ in how they split a path into SCRIPT_NAME and PATH_INFO.
     * The path also ends at '#', as it does in the access rules of web servers; only hostile clients send a
     * fragment.
     */
    const char *uri = http_parameter(request, "REQUEST_URI");
    size_t length = strcspn(uri, "?#"), path_length = strlen(path);

    return length >= path_length && memcmp(uri + length - path_length, path, path_length) == 0;
}

bool http_method_is(const FCGX_Request *request, const char *method)
{
    return strcmp(http_parameter(request, "REQUEST_METHOD"), method) == 0;
}

bool http_skip_body(FCGX_Request *request)
{
    char some[4096];

    while (FCGX_GetStr(some, sizeof some, request->in) > 0)
        ;
    return FCGX_GetError(request->in) == 0;
}

enum error http_read_body(FCGX_Request *request, size_t max, char **body, size_t *length)
{
    enum { FIRST_BYTES = 1024 };
    size_t size = 0, got = 0;
    char *bytes = NULL, *more;
    enum error error = ERROR_NONE;

    /* Read up to max + 1 bytes: the additional byte shows that the body is too large. */
    do {
        size = size == 0 ? FIRST_BYTES : 2 * size;
        if (size > max)
            size = max + 1;
        more = realloc(bytes, size);
        if (!more) {
            error = ERROR_MEMORY;
            break;
        }
        bytes = more;
        got += (size_t)FCGX_GetStr(bytes + got, (int)(size - got), request->in);
    } while (got == size && got <= max);
    if (got > max)
        error = ERROR_TOO_LARGE;
    if (!http_skip_body(request))
        error = ERROR_CLIENT_GONE;
    if (!error) {
        *body = bytes;
        *length = got;
        bytes = NULL;
    }
    free(bytes);
    return error;
}

static const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "200 OK";
    case 204:
        return "204 No Content";
    case 400:
        return "400 Bad Request";
    case 401:
        return "401 Unauthorized";
    case 403:
        return "403 Forbidden";
    case 404:
        return "404 Not Found";
    case 405:
        return "405 Method Not Allowed";
    case 413:
        return "413 Content Too Large";
    case 422:
        return "422 Unprocessable Entity";
    case 429:
        return "429 Too Many Requests";
    case 503:
        return "503 Service Unavailable";
    default:
        return "500 Internal Server Error";
    }
}

/* Writes to libfcgi's buffer. An error is returned by the next flush or by FCGX_Finish_r(). */
static void put(FCGX_Request *request, const char *text)
{
    (void)FCGX_PutS(text, request->out);
}

static void put_header(FCGX_Request *request, const char *name, const char *value)
{
    put(request, name);
    put(request, ": ");
    put(request, value);
    put(request, "\r\n");
}

static void put_number_header(FCGX_Request *request, const char *name, size_t number)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%zu", number);
    put_header(request, name, text);
}

/* Writes the CORS headers. They make a browser let the requesting page read the answer. */
static void put_cors(FCGX_Request *request, const struct config *config)
{
    const char *origin = http_parameter(request, "HTTP_ORIGIN");

    if (!*config->cors_origin)
        return;
    if (cors_allows_all(config->cors_origin)) {
        origin = "*";
    } else {
        put_header(request, "Vary", "Origin"); /* caches must not send one origin's answer to another */
        if (!cors_allows(config->cors_origin, origin))
            return;
        put_header(request, "Access-Control-Allow-Credentials", "true"); /* browsers refuse it with "*" */
    }
    put_header(request, "Access-Control-Allow-Origin", origin);
    put_header(request, "Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate");
}

/* Writes the headers of every answer. type is NULL if there is no content. */
static void put_head(FCGX_Request *request, const struct config *config, int status, const char *type)
{
    put(request, "Status: ");
    put(request, status_text(status));
    put(request, "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
    put_cors(request, config);
    if (type)
        put_header(request, "Content-Type", type);
}

bool http_begin(FCGX_Request *request, const struct config *config)
{
    put_head(request, config, 200, HTTP_JSON);
    put(request, "\r\n");
    return FCGX_FFlush(request->out) == 0;
}

static void put_body(FCGX_Request *request, const char *text, size_t length)
{
    put_number_header(request, "Content-Length", length);
    put(request, "\r\n");
    if (!http_method_is(request, "HEAD"))
        (void)FCGX_PutStr(text, (int)length, request->out);
}

/* Writes a random time, so that clients that are refused together do not return together. */
static void put_retry_after(FCGX_Request *request, int status)
{
    if (status == 503 || status == 429)
        put_number_header(request, "Retry-After", (size_t)(1 + random() % 5));
}

void http_send(FCGX_Request *request, const struct config *config, int status, const char *type,
               const char *text, size_t length)
{
    put_head(request, config, status, type);
    put_retry_after(request, status);
    put_body(request, text, length);
}

void http_send_error(FCGX_Request *request, const struct config *config, enum error error,
                     struct json_object *detail, const char *methods)
{
    static const char out_of_memory[] = "{\"detail\":\"Service Unavailable\"}";
    int status = error_http_status(error);
    struct json_object *answer = answer_error(error, detail);
    const char *text = NULL;

    oom_set_fatal(true);
    if (answer)
        text = json_object_to_json_string_ext(answer, JSON_C_TO_STRING_NOSLASHESCAPE);
    oom_set_fatal(false);
    if (!text) {
        text = out_of_memory;
        status = error_http_status(ERROR_MEMORY);
    }
    put_head(request, config, status, HTTP_JSON);
    if (status == 401)
        put_header(request, "WWW-Authenticate", "Bearer");
    if (status == 405)
        put_header(request, "Allow", methods);
    put_retry_after(request, status);
    put_body(request, text, strlen(text));
    json_object_put(answer);
}

void http_send_options(FCGX_Request *request, const struct config *config, const char *methods)
{
    put_head(request, config, 204, NULL);
    put_header(request, "Allow", methods);
    if (*config->cors_origin) {
        put_header(request, "Access-Control-Allow-Methods", methods);
        put_header(request, "Access-Control-Allow-Headers", "Authorization, Content-Type");
        put_header(request, "Access-Control-Max-Age", "86400");
    }
    put(request, "\r\n");
}
