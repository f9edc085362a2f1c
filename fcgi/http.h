/*
 * Reads HTTP requests and writes HTTP answers through FastCGI. Adds the headers that all answers of pgpoll
 * have. Has no knowledge of polls.
 */
#ifndef PGPOLL_HTTP_H
#define PGPOLL_HTTP_H

#include "core/error.h"

#include <fcgiapp.h>
#include <stdbool.h>
#include <stddef.h>

struct config;
struct json_object;

/*
 * Returns a FastCGI parameter of the request, or "" if the web server did not send it. Borrowed from the
 * request.
 */
const char *http_parameter(const FCGX_Request *request, const char *name);

/* Whether the request's path, as the client sent it, ends with path. Ignores the query string. */
bool http_path_is(const FCGX_Request *request, const char *path);

bool http_method_is(const FCGX_Request *request, const char *method);

/*
 * Reads the whole body, even on errors, because unread bytes would hide a later disconnect. On success *body
 * is new and owned by the caller. Returns ERROR_NONE, ERROR_TOO_LARGE (more than max bytes), ERROR_MEMORY, or
 * ERROR_CLIENT_GONE (the body ended early).
 */
enum error http_read_body(FCGX_Request *request, size_t max, char **body, size_t *length);

/* Reads the whole body and drops it. Returns false if the body ended early. */
bool http_skip_body(FCGX_Request *request);

/*
 * Sends the head of an answer of unknown length with status 200. Returns false if the client has
 * disconnected.
 */
bool http_begin(FCGX_Request *request, const struct config *config);

#define HTTP_JSON "application/json"

/*
 * Sends a complete answer with this content type and a body of length bytes. Omits the body if the method is
 * HEAD. Adds Retry-After to 429 and 503.
 */
void http_send(FCGX_Request *request, const struct config *config, int status, const char *type,
               const char *text, size_t length);

/*
 * Sends the JSON answer for an error, with detail (taken over) or, if detail is NULL, with the error's own
 * text. Adds Allow with methods to 405.
 */
void http_send_error(FCGX_Request *request, const struct config *config, enum error error,
                     struct json_object *detail, const char *methods);

/* Answers OPTIONS, including CORS preflights. methods lists the methods that this path supports. */
void http_send_options(FCGX_Request *request, const struct config *config, const char *methods);

#endif
