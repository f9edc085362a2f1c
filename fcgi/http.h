/*
 * HTTP as a FastCGI application sees it: what was asked, and answers with the headers that every answer of ours has.
 * Knows nothing of polls.
 */
#ifndef PGPOLL_HTTP_H
#define PGPOLL_HTTP_H

#include "core/error.h"

#include <fcgiapp.h>
#include <stdbool.h>
#include <stddef.h>

struct config;
struct json_object;

/* A parameter of the request, "" when the web server did not send it. Borrowed from the request. */
const char *http_parameter(const FCGX_Request *request, const char *name);

/* Whether the request's path, as the client sent it, ends in path; a query string does not matter. */
bool http_path_is(const FCGX_Request *request, const char *path);

bool http_method_is(const FCGX_Request *request, const char *method);

/*
 * Reads the whole body, so that the client's leaving becomes visible later. *body: new, owned by the caller.
 * ERROR_TOO_LARGE: it has more than max bytes. ERROR_MEMORY. Both read the body to its end all the same.
 * ERROR_CLIENT_GONE: it ended early.
 */
enum error http_read_body(FCGX_Request *request, size_t max, char **body, size_t *length);

/* Reads the whole body and drops it. false: it ended early. */
bool http_skip_body(FCGX_Request *request);

/* Starts an answer of unknown length with status 200 and sends what there is of it. false: the client has left. */
bool http_begin(FCGX_Request *request, const struct config *config);

#define HTTP_JSON "application/json"

/* Sends a whole answer of this content type; HEAD gets its headers only. text: length bytes. */
void http_send(FCGX_Request *request, const struct config *config, int status, const char *type,
               const char *text, size_t length);

/*
 * Sends the JSON answer for an error: detail (taken over) or, with NULL, the error's own text; 429 and 503 come with Retry-After,
 * 405 with Allow, which lists methods.
 */
void http_send_error(FCGX_Request *request, const struct config *config, enum error error,
                     struct json_object *detail, const char *methods);

/* Answers OPTIONS, also as a CORS preflight. methods: what may be used on this path. */
void http_send_options(FCGX_Request *request, const struct config *config, const char *methods);

#endif
