/*
 * Any number of long-polling clients in one event loop, and one publisher beside them, so that all times are
 * from one clock. The messages published are {"n":0,...}, {"n":1,...} and so on; every client must get each
 * of them once and in this order.
 *
 *   storm MODE --target pgpoll|herd|notify|nchan --port P --topic T ...      (storm --help)
 *
 * Prints one JSON object for tests/bench/run. It does not parse JSON: it searches for what it published. It
 * exits with status 1 if anything happens that should not.
 */
#include <argp.h>
#include <errno.h>
#include <libpq-fe.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "http.h"

/* Clients begin after message 0 (but for drain), and message 1 warms up. */
enum { FIRST_MEASURED = 2 };
enum {
    SECOND_NS = 1000 * 1000 * 1000,
    MS_NS = 1000 * 1000,
    POLL_S = 60,
    PAYLOAD_BYTES = 200,
    PATIENCE_S = 20
};

__attribute__((format(printf, 1, 2))) static _Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)fputs("storm: ", stderr);
    (void)vfprintf(stderr, format, arguments);
    (void)fputc('\n', stderr);
    va_end(arguments);
    _exit(1); /* the publisher may be at work */
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory)
        die("out of memory");
    return memory;
}

static int64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

static void sleep_until(int64_t when_ns)
{
    struct timespec t = { when_ns / SECOND_NS, when_ns % SECOND_NS };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

/* --- what is asked for */

/*
 * Where polls and publications are sent. The paths of Nchan end with the topic. A publication is a POST or an
 * SQL statement.
 */
static const struct target {
    const char *name, *poll_path, *ask_path, *publish_path, *publish_sql;
} targets[] = {
    { "pgpoll", "/messages/poll", "/messages/poll", NULL,
      "INSERT INTO pgpoll.messages (topic, payload) VALUES ($1, $2)" },
    { "herd", "/messages/poll", "/messages/poll", "/herd/publish", NULL },
    { "notify", "/messages/poll", "/messages/poll", NULL,
      "WITH m AS (INSERT INTO messages (topic, payload) VALUES ($1, $2) RETURNING payload)"
      " SELECT pg_notify('herd', payload::text) FROM m" },
    { "nchan", "/sub/", "/ask/", "/pub/", NULL },
};

enum mode { PACED, FANOUT, HOLD, DRAIN, ASK, REREAD, OWN };
static const char *const modes[] = { "paced", "fanout", "hold", "drain", "ask", "reread", "own" };

static struct options {
    enum mode mode;
    const struct target *target;
    const char *topic;
    unsigned port, clients, topics, messages, rate, gap_ms, seconds;
} opt = { .clients = 10, .messages = 10, .rate = 100, .gap_ms = 300, .seconds = 5 };

static const struct argp_option option_list[] = {
    { "target", 't', "NAME", 0,
      "pgpoll, notify (both published to by SQL; the database by PG* variables), herd or nchan", 0 },
    { "port", 'p', "PORT", 0, "of the web server, on 127.0.0.1", 0 },
    { "topic", 'T', "NAME", 0, "nothing was published to it before", 0 },
    { "clients", 'c', "N", 0, "that poll at a time", 0 },
    { "messages", 'm', "M", 0,
      "to publish, beside two that come first; reread: how many there are in all topics, 0: nothing comes",
      0 },
    { "rate", 'r', "R", 0, "paced, own: messages a second", 0 },
    { "gap", 'g', "MS", 0,
      "fanout: between a message's last delivery and the next message; reread: before the first poll", 0 },
    { "seconds", 's', "S", 0, "ask, reread: for how long", 0 },
    { "topics", 'n', "N", 0, "reread: how many topics each client reads; own: that no other client polls",
      0 },
    { 0 },
};

static unsigned number_of(const char *text, struct argp_state *state)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || value > 10000000)
        argp_error(state, "%s is no number", text);
    return (unsigned)value;
}

static void choose_target(const char *name)
{
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
        if (strcmp(targets[i].name, name) == 0)
            opt.target = &targets[i];
}

static void choose_mode(const char *name, struct argp_state *state)
{
    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(modes[i], name) == 0) {
            opt.mode = (enum mode)i;
            return;
        }
    argp_error(state, "no such mode: %s", name);
}

static error_t parse_option(int key, char *value, struct argp_state *state)
{
    switch (key) {
    case 't':
        choose_target(value);
        break;
    case 'p':
        opt.port = number_of(value, state);
        break;
    case 'T':
        opt.topic = value;
        break;
    case 'c':
        opt.clients = number_of(value, state);
        break;
    case 'm':
        opt.messages = number_of(value, state);
        break;
    case 'r':
        opt.rate = number_of(value, state);
        break;
    case 'g':
        opt.gap_ms = number_of(value, state);
        break;
    case 'n':
        opt.topics = number_of(value, state);
        break;
    case 's':
        opt.seconds = number_of(value, state);
        break;
    case ARGP_KEY_ARG:
        choose_mode(value, state);
        break;
    case ARGP_KEY_END:
        if (!opt.topics)
            opt.topics = opt.mode == REREAD ? 10 : 1;
        if (state->arg_num != 1 || !opt.target || !opt.topic || !opt.port || !opt.clients || !opt.topics ||
            !opt.rate)
            argp_usage(state);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static const struct argp argp = {
    option_list,
    parse_option,
    "paced|fanout|hold|drain|ask|reread|own",
    "Load generator and delivery checker for long polling.\v"
    "paced: publishes at a steady rate. fanout: publishes when the message "
    "before has reached all. hold: says so when "
    "all poll, until its "
    "stdin ends. drain: clients that have read nothing read what was published "
    "before. ask: polls that do not wait, of "
    "clients that have read all. reread: clients read the topics T-0, T-1, ... "
    "page by page, and "
    "then from the start again, until the time is up and each has read all once; other programs publish "
    "there. own: like paced, "
    "but each message goes to one topic of one client, and the first when stdin "
    "has a line.",
    NULL,
    NULL,
    NULL
};

static bool speaks_json(void)
{
    return opt.target->poll_path[strlen(opt.target->poll_path) - 1] != '/';
}

/* --- what is published */

struct message {
    int64_t start_ns, return_ns;
    uint32_t deliveries;
    int64_t *delivered_ns; /* in the order in which it reached clients */
};

static struct message *messages;

static uint32_t message_count(void)
{
    return FIRST_MEASURED + opt.messages;
}

static sem_t reached_all; /* posted for each message */
static int published_event;
static PGconn *db;
static int publish_fd = -1;

static void sql(PGresult *result)
{
    if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
        die("%s", PQerrorMessage(db));
    PQclear(result);
}

static void publisher_open(void)
{
    if (sem_init(&reached_all, 0, 0) != 0 || (published_event = eventfd(0, 0)) < 0)
        die("%s", strerror(errno));
    if (opt.target->publish_path) {
        publish_fd = http_connect((int)opt.port);
        return;
    }
    db = PQconnectdb("");
    sql(PQprepare(db, "publish", opt.target->publish_sql, 2, NULL));
}

/* In mode own: whose topic message n goes to, and which of them. */
static uint32_t owner_of(uint32_t n)
{
    return n * 2654435761U % opt.clients;
}

enum { TOPIC_BYTES = 128 };

static void name_topic(char name[static TOPIC_BYTES], uint32_t owner, uint32_t topic)
{
    if (opt.mode == OWN)
        (void)snprintf(name, TOPIC_BYTES, "%s-%u-%u", opt.topic, owner, topic);
    else
        (void)snprintf(name, TOPIC_BYTES, "%s", opt.topic);
}

static void publish_by_sql(uint32_t n, const char *payload)
{
    char topic[TOPIC_BYTES];
    const char *values[] = { topic, payload };
    name_topic(topic, owner_of(n), n % opt.topics);
    sql(PQexecPrepared(db, "publish", 2, values, NULL, NULL, 0));
}

static void publish_by_http(const char *payload)
{
    static struct answer answer;
    char request[PAYLOAD_BYTES + 512];
    int length = snprintf(request, sizeof request,
                          "POST %s%s HTTP/1.1\r\nHost: bench\r\nContent-Length: %zu\r\n\r\n%s",
                          opt.target->publish_path, speaks_json() ? "" : opt.topic, strlen(payload), payload);
    enum answer_state state = ANSWER_PARTIAL;
    answer.length = 0;
    if (send(publish_fd, request, (size_t)length, MSG_NOSIGNAL) != length)
        die("the publisher's connection ended");
    while (state == ANSWER_PARTIAL)
        state = answer_read(&answer, publish_fd);
    if (state == ANSWER_BROKEN || answer.status / 100 != 2)
        die("publishing failed: %.300s", answer.text);
    if (answer.last) {
        (void)close(publish_fd);
        publish_fd = http_connect((int)opt.port);
    }
}

static void publish(uint32_t n)
{
    char payload[PAYLOAD_BYTES + 64];
    (void)snprintf(payload, sizeof payload, "{\"n\":%u,\"padding\":\"%0*d\"}", n, PAYLOAD_BYTES, 0);
    messages[n].start_ns = now_ns();
    if (db)
        publish_by_sql(n, payload);
    else
        publish_by_http(payload);
    messages[n].return_ns = now_ns();
}

static void publish_backlog(void)
{
    if (db)
        sql(PQexec(db, "BEGIN"));
    for (uint32_t n = 0; n < message_count(); n++)
        publish(n);
    if (db)
        sql(PQexec(db, "COMMIT"));
}

/* Until so many more messages have reached all clients. */
static void await_deliveries(uint32_t count)
{
    struct timespec limit;
    (void)clock_gettime(CLOCK_REALTIME, &limit);
    for (limit.tv_sec += PATIENCE_S; count > 0; count--)
        while (sem_timedwait(&reached_all, &limit) != 0)
            if (errno != EINTR)
                return; /* what is missing is lost */
}

static void *publisher_main(void *unused)
{
    if (opt.mode == OWN)
        publish(0);
    publish(1);
    await_deliveries(opt.mode == OWN ? 2 : 1);
    sleep_until(now_ns() + (int64_t)opt.gap_ms * MS_NS);
    int64_t begin_ns = now_ns();
    for (uint32_t n = FIRST_MEASURED; n < message_count(); n++) {
        if (opt.mode == PACED || opt.mode == OWN)
            sleep_until(begin_ns + n * (int64_t)SECOND_NS / opt.rate);
        publish(n);
        if (opt.mode == FANOUT) {
            await_deliveries(1);
            sleep_until(now_ns() + (int64_t)opt.gap_ms * MS_NS);
        }
    }
    if (opt.mode == PACED || opt.mode == OWN)
        await_deliveries(opt.messages);
    (void)eventfd_write(published_event, 1);
    return unused;
}

/* --- clients */

struct client {
    int fd;
    char *cursor;  /* as the next request carries it */
    uint32_t next; /* the message that must come next */
    bool read_all; /* reread: at least once */
    struct answer answer;
};

static size_t cursor_size(void)
{
    return 512 + (size_t)opt.topics * (TOPIC_BYTES + 64);
}

static struct client *clients;

static int epoll_fd;
static bool polling_on;                  /* a client that has its answer polls again */
static bool asking;                      /* polls do not wait */
static uint32_t under_way;               /* polls */
static uint64_t answers, lost, repeated; /* repeated: or out of order */
static uint32_t refusals;
static uint32_t readers_left; /* reread: clients that have not read all yet */

/* reread: the client's next page is the first. */
static void client_begin_again(struct client *c)
{
    size_t length = 0;
    c->next = 0;
    for (unsigned n = 0; n < opt.topics; n++)
        length += (size_t)snprintf(c->cursor + length, cursor_size() - length, "%s\"%s-%u\":\"0\"",
                                   n ? "," : "{", opt.topic, n);
    if (length + 1 >= cursor_size())
        die("too many topics");
    (void)strcat(c->cursor, "}");
}

/* reread: the client has got the last page. */
static void client_read_all(struct client *c)
{
    lost += opt.messages - c->next;
    readers_left -= !c->read_all;
    c->read_all = true;
    client_begin_again(c);
}

/* reread: a poll of the topics, which are the names in the cursor. */
static int write_reread(const struct client *c, char *body, size_t size)
{
    size_t length = (size_t)snprintf(body, size, "{\"topics\":[");
    for (unsigned n = 0; n < opt.topics && length < size; n++)
        length += (size_t)snprintf(body + length, size - length, "%s\"%s-%u\"", n ? "," : "", opt.topic, n);
    if (length < size)
        length += (size_t)snprintf(body + length, size - length, "],\"since\":%s,\"timeout\":%d}", c->cursor,
                                   POLL_S);
    if (length >= size)
        die("too many topics");
    return (int)length;
}

static void client_connect(struct client *c)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
    c->fd = http_connect((int)opt.port);
    if (c->fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("cannot connect: %s", strerror(errno));
}

/* Writes the names of a client's topics as JSON. Returns the length. */
static int put_topics(char *at, uint32_t owner)
{
    char *begin = at, name[TOPIC_BYTES];
    for (uint32_t topic = 0; topic < opt.topics; topic++) {
        name_topic(name, owner, topic);
        at += sprintf(at, "%s\"%s\"", topic > 0 ? "," : "", name);
    }
    return (int)(at - begin);
}

static void client_poll(struct client *c)
{
    static char *request, *body;
    const size_t size = 3 * cursor_size() + 1024;
    int length;
    if (!request) {
        request = allocate(1, size);
        body = allocate(1, size);
    }
    if (speaks_json()) {
        int body_length;
        if (opt.mode == REREAD) {
            body_length = write_reread(c, body, size);
        } else {
            body_length = sprintf(body, "{\"topics\":[");
            body_length += put_topics(body + body_length, (uint32_t)(c - clients));
            body_length += sprintf(body + body_length, "],%s\"timeout\":%d,\"limit\":1000}", c->cursor,
                                   asking ? 0 : POLL_S);
        }
        length = snprintf(request, size,
                          "POST %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %td\r\n"
                          "Content-Length: %d\r\n\r\n%s",
                          opt.target->poll_path, c - clients, body_length, body);
    } else {
        length = snprintf(request, size, "GET %s%s HTTP/1.1\r\nHost: bench\r\n%s\r\n",
                          asking ? opt.target->ask_path : opt.target->poll_path, opt.topic, c->cursor);
    }
    if (send(c->fd, request, (size_t)length, MSG_NOSIGNAL) != length)
        die("a connection ended between two polls");
    under_way++;
}

static const char *after(const char *text, const char *mark)
{
    const char *found = strstr(text, mark);
    if (found)
        return found + strlen(mark);
    die("no %s in %.300s", mark, text);
}

/* Keeps where the answer ends, in the words of the next request. */
static void client_keep_cursor(struct client *c)
{
    if (opt.mode == REREAD) {
        const char *since = after(c->answer.body, "\"next_since\":");
        const size_t length = strcspn(since, "}") + 1;
        if (strstr(c->answer.body, "\"has_more\":false"))
            client_read_all(c);
        else
            (void)snprintf(c->cursor, cursor_size(), "%.*s", (int)length, since);
        return;
    }
    if (speaks_json()) {
        const char *since = after(c->answer.body, "\"next_since\":{");
        (void)snprintf(c->cursor, cursor_size(), "\"since\":{%.*s},", (int)strcspn(since, "}"), since);
        return;
    }
    char modified[64], tag[256];
    answer_header(&c->answer, "Last-Modified", modified, sizeof modified);
    answer_header(&c->answer, "Etag", tag, sizeof tag);
    if (*modified)
        (void)snprintf(c->cursor, cursor_size(), "If-Modified-Since: %s\r\nIf-None-Match: %s\r\n", modified,
                       tag);
}

/* How many clients get a message. */
static uint32_t recipients(void)
{
    return opt.mode == OWN || opt.mode == REREAD ? 1 : opt.clients;
}

static void client_receive(struct client *c, uint32_t n, int64_t received_ns)
{
    if (n >= (opt.mode == REREAD ? opt.messages : message_count()))
        die("a message that nobody published: %u", n);
    if (n < c->next) {
        repeated++;
        return;
    }
    if (opt.mode != OWN)
        lost += n - c->next;
    else if (owner_of(n) != (uint32_t)(c - clients))
        die("message %u came to client %zu", n, c - clients);
    c->next = n + 1;
    if (opt.mode == REREAD)
        return;
    struct message *m = &messages[n];
    m->delivered_ns[m->deliveries++] = received_ns;
    if (m->deliveries == recipients())
        (void)sem_post(&reached_all);
}

static void client_answered(struct client *c)
{
    static const char mark[] = "{\"n\":";
    int64_t received_ns = now_ns();
    struct answer *a = &c->answer;
    /*
     * A poll that does not wait may be refused once per client, because the machine may stand still for a
     * second.
     */
    const bool refused = asking && a->status == 503 && refusals++ < opt.clients;
    if (a->status != 200 && a->status != 304 && !refused)
        die("an answer that should not be: %.300s", a->text);
    if (a->status == 200)
        for (const char *at = a->body; (at = strstr(at, mark)); at += sizeof mark)
            client_receive(c, (uint32_t)strtoul(at + sizeof mark - 1, NULL, 10), received_ns);
    if (!refused) {
        client_keep_cursor(c);
        answers++;
    }
    under_way--;
    if (a->last) {
        (void)close(c->fd);
        client_connect(c);
    }
    a->length = 0;
    if (polling_on)
        client_poll(c);
}

static void clients_open(void)
{
    struct rlimit files;
    (void)getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
    clients = allocate(opt.clients, sizeof *clients);
    for (struct client *c = clients; c < clients + opt.clients; c++) {
        c->cursor = allocate(1, cursor_size());
        client_connect(c);
    }
}

static void clients_poll(void)
{
    for (struct client *c = clients; c < clients + opt.clients; c++)
        client_poll(c);
}

/* --- the loop */

/* Handles answers until done() says so, or something other than a client has an event. */
static void run_until(bool (*done)(void))
{
    struct epoll_event events[256];
    while (!done()) {
        int count = epoll_wait(epoll_fd, events, 256, 100);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (!c)
                return;
            switch (answer_read(&c->answer, c->fd)) {
            case ANSWER_PARTIAL:
                break;
            case ANSWER_WHOLE:
                client_answered(c);
                break;
            case ANSWER_BROKEN:
                die("a poll's connection ended, or is not HTTP: %.300s",
                    c->answer.text ? c->answer.text : "");
            }
        }
    }
}

static void stop_on(int fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLHUP, .data.ptr = NULL };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll: %s", strerror(errno));
}

static bool never(void);

/* The clients poll until stdin has a line. */
static void await_line(void)
{
    char line[16];
    stop_on(STDIN_FILENO);
    run_until(never);
    if (!fgets(line, sizeof line, stdin) || epoll_ctl(epoll_fd, EPOLL_CTL_DEL, STDIN_FILENO, NULL) != 0)
        die("stdin ended");
}

static int64_t deadline_ns;

static bool never(void)
{
    return false;
}

static bool all_answered(void)
{
    return under_way == 0;
}

static bool time_is_up(void)
{
    return now_ns() > deadline_ns;
}

static bool all_reread(void)
{
    if (!time_is_up())
        return false;
    if (now_ns() > deadline_ns + 3 * PATIENCE_S * (int64_t)SECOND_NS)
        die("%u clients have not read all", readers_left);
    return readers_left == 0;
}

static bool all_drained(void)
{
    return messages[message_count() - 1].deliveries == opt.clients || time_is_up();
}

static void ask_for_now(void)
{
    *clients->cursor = '\0';
    do {
        client_poll(clients);
        run_until(all_answered);
    } while (!*clients->cursor && speaks_json()); /* refused */
}

/*
 * As docs/poll.md tells clients, they first ask, without waiting, for a cursor that means "now". Here one
 * client asks for all of them once there is a first message. A bare NOTIFY may arrive a moment after its
 * COMMIT has returned.
 */
static void clients_learn_now(void)
{
    char *before = allocate(1, cursor_size());
    asking = true;
    if (db) {
        ask_for_now();
        memcpy(before, clients->cursor, cursor_size());
    }
    publish(0);
    do
        ask_for_now();
    while (db && strcmp(clients->cursor, before) == 0);
    asking = false;
    for (struct client *c = clients + 1; c < clients + opt.clients; c++)
        memcpy(c->cursor, clients->cursor, cursor_size());
    for (struct client *c = clients; c < clients + opt.clients; c++)
        c->next = 1;
    free(before);
}

/* Nchan's do by themselves. */
static void clients_begin_at_0(void)
{
    for (struct client *c = clients; speaks_json() && c < clients + opt.clients; c++)
        (void)snprintf(c->cursor, cursor_size(), "\"since\":{\"%s\":\"0\"},", opt.topic);
}

static void run_mode(void)
{
    pthread_t publisher;
    polling_on = true;
    answers = 0;
    asking = opt.mode == ASK;
    if (opt.mode == REREAD)
        sleep_until(now_ns() + (int64_t)opt.gap_ms * MS_NS);
    deadline_ns =
        now_ns() + (opt.mode == ASK || opt.mode == REREAD ? opt.seconds : PATIENCE_S) * (int64_t)SECOND_NS;
    clients_poll();
    switch (opt.mode) {
    case OWN:
        await_line();
        /* fall through */
    case PACED:
    case FANOUT:
        stop_on(published_event);
        if (pthread_create(&publisher, NULL, publisher_main, NULL) != 0)
            die("no thread");
        run_until(never);
        break;
    case HOLD:
        stop_on(STDIN_FILENO);
        (void)puts("holding");
        (void)fflush(stdout);
        run_until(never);
        break;
    case DRAIN:
        run_until(all_drained);
        break;
    case ASK:
        run_until(time_is_up);
        break;
    case REREAD:
        run_until(all_reread);
        break;
    }
}

/* --- the report */

static void print_ms(const char *separator, int64_t ns)
{
    (void)printf("%s%.3f", separator, (double)ns / (double)MS_NS);
}

static void print_times(void)
{
    (void)printf(", \"call_ms\": [");
    for (uint32_t n = FIRST_MEASURED; n < message_count(); n++)
        print_ms(n > FIRST_MEASURED ? ", " : "", messages[n].return_ns - messages[n].start_ns);
    (void)printf("], \"delivered_ms\": [");
    for (uint32_t n = FIRST_MEASURED; n < message_count(); n++) {
        (void)printf("%s[", n > FIRST_MEASURED ? ", " : "");
        for (uint32_t i = 0; i < messages[n].deliveries; i++)
            print_ms(i > 0 ? ", " : "", messages[n].delivered_ns[i] - messages[n].start_ns);
        (void)printf("]");
    }
    (void)printf("]");
}

static void report(double seconds)
{
    uint64_t deliveries = 0;
    if (opt.mode == PACED || opt.mode == FANOUT || opt.mode == DRAIN)
        for (struct client *c = clients; c < clients + opt.clients; c++)
            lost += message_count() - c->next;
    for (uint32_t n = 0; n < message_count(); n++) {
        deliveries += messages[n].deliveries;
        if (opt.mode == OWN)
            lost += messages[n].deliveries == 0;
    }
    (void)printf("{\"seconds\": %.6f, \"answers\": %lu, \"refusals\": %u, \"deliveries\": %lu, \"lost\": "
                 "%lu, \"repeated\": %lu",
                 seconds, answers, refusals, deliveries, lost, repeated);
    if (opt.mode == PACED || opt.mode == FANOUT || opt.mode == OWN)
        print_times();
    (void)puts("}");
}

int main(int argc, char **argv)
{
    (void)argp_parse(&argp, argc, argv, 0, NULL, NULL);
    messages = allocate(message_count(), sizeof *messages);
    for (uint32_t n = 0; n < message_count(); n++)
        messages[n].delivered_ns = allocate(recipients(), sizeof(int64_t));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    publisher_open();
    clients_open();
    if (opt.mode == DRAIN) {
        publish_backlog();
        clients_begin_at_0();
    } else if (opt.mode == REREAD) {
        readers_left = opt.messages > 0 ? opt.clients : 0;
        for (struct client *c = clients; c < clients + opt.clients; c++)
            client_begin_again(c);
    } else if (opt.mode != OWN) {
        clients_learn_now();
    }
    int64_t begin_ns = now_ns();
    run_mode();
    report((double)(now_ns() - begin_ns) / (double)SECOND_NS);
    return lost || repeated ? 1 : 0;
}
