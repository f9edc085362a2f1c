/*
 * A poll whose message source and client follow a script. Each step of the script is a call that the poll
 * must make next, with the call's result. The arguments of the calls are kept for the test to check.
 */
#ifndef PGPOLL_FAKE_POLL_H
#define PGPOLL_FAKE_POLL_H

#include "api/poll_request.h"
#include "core/config.h"
#include "worker/poll_waiter.h"

enum { FAKE_TOPICS = 3, FAKE_MESSAGES = 3, FAKE_CALLS = 64 };

enum fake_call { FAKE_READ, FAKE_WAIT, FAKE_BEGIN, FAKE_HEARTBEAT };

struct fake_message {
    int topic;        /* from 0 */
    int64_t position; /* 0: no message */
};

struct fake_step {
    enum fake_call call;
    enum error
        error; /* the result; for BEGIN and HEARTBEAT any error means that the client has disconnected */
    enum source_read how; /* for READ: the flags that the poll must pass */
    int64_t queued_ms;    /* for READ: how long it waits for its turn before */
    int64_t takes_ms;     /* duration; a WAIT that returns ERROR_TIMEOUT lasts until its deadline instead */
    struct page_topic topics[FAKE_TOPICS]; /* for READ; the member next is computed from the messages */
    struct fake_message messages[FAKE_MESSAGES];
    bool has_more;
    bool repeat; /* the step is repeated as long as the poll makes this call */
};

struct fake_poll {
    struct message_source source;
    struct poll_client client;
    struct interrupts interrupts;
    volatile sig_atomic_t drain, woken;
    sigset_t sleep_mask;
    struct config config;
    struct poll_request request;
    struct poll_waiter waiter;
    enum error error; /* what poll_waiter_run() returned */
    const struct fake_step *script;
    int steps, step;
    struct {
        enum fake_call call;
        int64_t positions[FAKE_TOPICS];
        int64_t left_ms; /* time left until the deadline that was passed */
    } calls[FAKE_CALLS];
    int call_count, ends;
    bool watched; /* the last READ that waited for its turn watched the client */
};

/*
 * Prepares a poll whose request has this body. The test may then change its config, its interrupts and so on.
 */
void fake_poll_init(struct fake_poll *poll, const char *body);

/* Runs the poll with this script, of which the poll must make all calls. */
#define FAKE_POLL_RUN(poll, script)                                                                          \
    fake_poll_run(poll, script, (int)(sizeof(script) / sizeof *(script)), __FILE__, __LINE__)
void fake_poll_run(struct fake_poll *poll, const struct fake_step *script, int steps, const char *file,
                   int line);

/* Checks one member of the answer's JSON; "null" also stands for a missing member. */
#define EXPECT_ANSWER(poll, member, json) fake_poll_expect(poll, member, json, __FILE__, __LINE__)
void fake_poll_expect(const struct fake_poll *poll, const char *member, const char *json, const char *file,
                      int line);

void fake_poll_release(struct fake_poll *poll);

/* The message_id of a position from 0 to 9, in quotes. */
#define ID(position) "\"msg_000000000000000" #position "\""

#endif
