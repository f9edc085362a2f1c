/* Fuzzes all bytes that a web server may send: libfcgi accepts the request and its body is read. */
#include "core/log.h"
#include "fcgi_io.h"
#include "fuzz.h"
#include "http.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BODY_MAX = 2000, INPUT_MAX = 65536 };

static void check_request(FCGX_Request *request)
{
    char *body = NULL;
    size_t length = 0;
    enum error error = http_read_body(request, BODY_MAX, &body, &length);

    HOLDS(error == ERROR_NONE || error == ERROR_TOO_LARGE || error == ERROR_CLIENT_GONE);
    HOLDS(length <= BODY_MAX && (error == ERROR_NONE) == (body != NULL));
    free(body);
    (void)http_path_is(request, "/messages/poll");
    for (char **at = request->envp; *at; at++)
        HOLDS(strchr(*at, '='));
}

static void begin(void)
{
    static bool begun;

    HOLDS(begun || (FCGX_Init() == 0 && log_open("/dev/null", LOG_LEVEL_ERROR, "fuzz")));
    begun = true;
    fcgi_io_set_timeout(10000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FCGX_Request request;
    int ends[2];

    if (size > INPUT_MAX)
        return 0;
    begin();
    HOLDS(FCGX_InitRequest(&request, -1, FCGI_FAIL_ACCEPT_ON_INTR) == 0);
    HOLDS(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    HOLDS(send(ends[0], data, size, MSG_DONTWAIT) == (ssize_t)size && shutdown(ends[0], SHUT_WR) == 0);
    /* The connection looks like an accepted one that is kept. */
    request.ipcFd = ends[1];
    request.keepConnection = 1;
    if (FCGX_Accept_r(&request) == 0 && !FCGX_GetError(request.in)) /* as in accept_loop.c */
        check_request(&request);
    request.keepConnection = 0;
    FCGX_Finish_r(&request);
    (void)close(ends[0]);
    return 0;
}
