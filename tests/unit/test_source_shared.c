/*
 * Tests the message source of a worker that has a manager, with a real scoreboard and real signals. A thread
 * plays the manager: it answers questions and, once the poll waits, calls the function once_waiting of the
 * test. Another thread plays the reader. There is no database.
 */
#include "worker/source_shared.h"

#include "api/cursor.h"
#include "api/poll_request.h"
#include "api/topic.h"
#include "core/clock.h"
#include "core/config.h"
#include "expect.h"
#include "fake_clock.h"
#include "shared/latch.h"
#include "shared/look.h"
#include "shared/poll_quota.h"
#include "shared/question.h"
#include "shared/read_channel.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"
#include "shared/slot_reset.h"
#include "shared/topic_table.h"
#include "shared/wait_sets.h"
#include "suites.h"

#include <json-c/json.h>
#include <json-c/printbuf.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 70, WORKER = 65, SHORT_MS = 30, LONG_MS = 30000, PROMPT_MS = 10000, START = 100 };

static volatile sig_atomic_t release_flag, woken_flag;

static void on_signal(int number)
{
    *(number == SIGUSR2 ? &woken_flag : &release_flag) = 1;
}

struct host {
    struct config config;
    struct scoreboard *scoreboard;
    struct slot *slot;
    struct message_source *source;
    struct poll_request request;
    struct interrupts interrupts;
    struct source_poll poll;
    struct page page;
    int64_t positions[3];
    int ours, theirs;   /* both ends of the client's connection */
    bool left_at_begin; /* the head of the answer cannot be sent */
    sigset_t before, sleep_mask;
    /* The thread that plays the manager. */
    pthread_t thread;
    _Atomic bool stop, silent;
    bool runs;
    enum error answer;
    void (*once_waiting)(struct host *host);
    _Atomic int questions; /* how many questions it has answered */
    int authorizations;    /* how many of the questions were whether the user may poll */
    char token[64];        /* the token of the last question that had one */
    _Atomic int looks;     /* how many looks it has made */
    enum look_state look;  /* how a look ends; LOOK_PENDING has the same effect as LOOK_DONE */
    void (*during_look)(struct host *host);
    /* The thread that plays the reader. */
    int reader_queue;
    pthread_t reader, worker;
    enum error table_answer;
    char asked_user[32];
    bool asked_to_number;
    int64_t asked_position;
};

/* ---- the manager */

static int number_of(const struct host *host, const char *name)
{
    return topic_table_add(host->scoreboard->topics, name, strlen(name));
}

static void append(struct host *host, const char *name, int64_t position, const char *json)
{
    ring_append(host->scoreboard->ring, number_of(host, name),
                &(struct ring_message){ position, json, json ? strlen(json) : 0, 1 });
}

/* Replies with each topic's newest position in the ring, or START if the ring does not have it. */
static void answer_question(struct host *host)
{
    struct scoreboard *scoreboard = host->scoreboard;
    struct reply *reply = scoreboard_reply(scoreboard, WORKER);
    const struct question *question;

    if (question_take(scoreboard, WORKER) != QUESTION_TAKEN)
        return;
    question = scoreboard_question(scoreboard, WORKER);
    for (int i = 0; question->kind == QUESTION_LOCATE && i < question->topic_count; i++) {
        struct reply_topic *about = &reply->topics[i];
        int topic = number_of(host, question->topics[i].name);

        if (!ring_find(scoreboard->ring, topic, &about->ref))
            ring_open(scoreboard->ring, topic, START);
        CU_ASSERT_TRUE(ring_find(scoreboard->ring, topic, &about->ref));
        CU_ASSERT_TRUE(ring_newest(scoreboard->ring, about->ref, &about->newest));
        about->now = about->newest;
    }
    host->authorizations += question->kind == QUESTION_AUTHORIZE;
    if (question->kind == QUESTION_AUTHENTICATE) {
        (void)snprintf(host->token, sizeof host->token, "%s", question->text);
        (void)snprintf(reply->user, sizeof reply->user, "user of %s", question->text);
    }
    atomic_fetch_add(&host->questions, 1);
    question_answer(scoreboard, WORKER, host->answer);
}

static void answer_look(struct host *host)
{
    look_begin(host->scoreboard);
    if (host->during_look)
        host->during_look(host);
    atomic_fetch_add(&host->looks, 1);
    look_end(host->scoreboard, host->look ? host->look : LOOK_DONE);
}

static void *manage(void *argument)
{
    struct host *host = argument;
    struct pollfd bell = { .fd = host->scoreboard->latch, .events = POLLIN };
    eventfd_t rung;

    while (!atomic_load(&host->stop)) {
        if (poll(&bell, 1, 1) > 0)
            (void)eventfd_read(host->scoreboard->latch, &rung);
        if (!atomic_load(&host->silent) && atomic_exchange(&host->scoreboard->askers[WORKER / 64], 0))
            answer_question(host);
        if (!atomic_load(&host->silent) && look_is_wanted(host->scoreboard))
            answer_look(host);
        if (host->once_waiting && atomic_load(&host->slot->state) == SLOT_WAITING) {
            host->once_waiting(host);
            host->once_waiting = NULL;
        }
    }
    return NULL;
}

/* ---- the worker */

/* Plays a poll that sends its head, once it has waited for SHORT_MS for its turn to read. */
static bool attend(struct poll_waiter *waiter, int64_t since_ms, struct interrupts *interrupts,
                   int64_t *due_ms)
{
    const struct host *host = (struct host *)(void *)waiter;

    *due_ms = since_ms == INT64_MAX ? INT64_MAX : since_ms + SHORT_MS;
    if (clock_monotonic_ms() < *due_ms)
        return true;
    *due_ms = INT64_MAX;
    interrupts->client_fd = host->interrupts.client_fd;
    return !host->left_at_begin;
}

static void take_signals(struct host *host)
{
    struct sigaction action = { .sa_handler = on_signal };
    sigset_t ours;

    (void)sigemptyset(&ours);
    (void)sigaddset(&ours, SIGUSR2);
    (void)sigaddset(&ours, SIGTERM);
    (void)pthread_sigmask(SIG_BLOCK, &ours, &host->before);
    host->sleep_mask = host->before;
    (void)sigaction(SIGUSR2, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    release_flag = woken_flag = 0;
}

/*
 * Prepares a poll of these topics ("a", or "a","b") from now, whose deadline is for_ms ahead. Does not start
 * the manager.
 */
static void open_host(struct host *host, const char *topics, int64_t for_ms)
{
    char body[128];
    int pair[2], length = snprintf(body, sizeof body, "{\"topics\":[%s]}", topics);

    *host = (struct host){ .config = { .page_bytes = 1000, .query_timeout_s = 5 },
                           .positions = { CATCH_UP_FROM_NOW, CATCH_UP_FROM_NOW, CATCH_UP_FROM_NOW } };
    fake_clock_restore();
    CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    host->ours = pair[0];
    host->theirs = pair[1];
    take_signals(host);
    host->interrupts = (struct interrupts){ host->ours, &release_flag, &woken_flag, &host->sleep_mask };
    host->scoreboard = scoreboard_new(WORKERS, 3, 64, 64 * 256, 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(host->scoreboard);
    CU_ASSERT_TRUE_FATAL(read_channel_new_queue(pair));
    host->scoreboard->manager->numbers_until_ms = INT64_MAX;
    host->scoreboard->read_queue = pair[0];
    host->reader_queue = pair[1];
    host->slot = scoreboard_slot(host->scoreboard, WORKER);
    atomic_store(&host->scoreboard->pids[WORKER], (int)getpid());
    atomic_store(&host->slot->state, SLOT_SERVING);
    host->source = source_shared_new(&host->config, host->scoreboard, WORKER);
    CU_ASSERT_EQUAL_FATAL(
        poll_request_parse(&host->request, body, (size_t)length, 3, &(struct json_object *){ NULL }), 0);
    CU_ASSERT_FATAL(host->source && page_init(&host->page, host->request.topic_count));
    host->poll = (struct source_poll){ &host->request,
                                       "eve",
                                       "192.0.2.1",
                                       &host->interrupts,
                                       clock_monotonic_ms(),
                                       clock_monotonic_ms() + for_ms,
                                       attend,
                                       (struct poll_waiter *)(void *)host };
}

static void start_manager(struct host *host)
{
    host->runs = pthread_create(&host->thread, NULL, manage, host) == 0;
    CU_ASSERT_TRUE_FATAL(host->runs);
}

static void stop_manager(struct host *host)
{
    atomic_store(&host->stop, true);
    if (host->runs)
        (void)pthread_join(host->thread, NULL);
    host->runs = false;
}

/* Plays the reader for one question, which it answers with an error or with a page of one message. */
static void *read_one(void *argument)
{
    struct host *host = argument;
    struct pollfd queue = { .fd = host->reader_queue, .events = POLLIN };
    const struct message message = { START + 1, 0, "1", 1, NULL, 0 };
    struct read_channel_job job;
    struct page page;
    int socket = poll(&queue, 1, LONG_MS) == 1 ? read_channel_take(host->reader_queue) : -1;

    if (socket < 0 || !read_channel_accept(socket, &job) || !page_init(&page, job.request.topic_count))
        return NULL;
    (void)snprintf(host->asked_user, sizeof host->asked_user, "%s",
                   job.question.remote_user ? job.question.remote_user : "nobody");
    host->asked_position = job.question.positions[0];
    host->asked_to_number = job.question.number;
    (void)page_add(&page, 0, &job.request.topics[0], &message);
    read_channel_answer(socket, job.question.deadline_ms, host->table_answer, &page, "the table's own words");
    page_release(&page);
    read_channel_release(&job);
    (void)close(socket);
    return NULL;
}

static void start_reader(struct host *host, enum error table_answer)
{
    host->table_answer = table_answer;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&host->reader, NULL, read_one, host), 0);
}

static void join_reader(struct host *host)
{
    (void)pthread_join(host->reader, NULL);
}

/* Whether the worker gets a permit at once. If not, it leaves the queue. */
static bool takes(struct host *host, int worker)
{
    const bool taken = read_permits_take(host->scoreboard, worker);

    if (!taken)
        read_permits_return(host->scoreboard, worker);
    return taken;
}

/* Ends the poll, and expects that the scoreboard has no trace of it. */
static void close_host(struct host *host)
{
    stop_manager(host);
    host->source->operations->end(host->source);
    CU_ASSERT_EQUAL(atomic_load(&host->slot->state), SLOT_SERVING);
    CU_ASSERT_EQUAL(atomic_load(&host->slot->drain), 0);
    for (int i = 0; i < SCOREBOARD_BUCKETS * host->scoreboard->set_words; i++)
        CU_ASSERT_EQUAL(atomic_load(&host->scoreboard->wait_sets[i]), 0);
    host->source->operations->free(host->source);
    CU_ASSERT_EQUAL(read_permits_taken(host->scoreboard), 0);
    CU_ASSERT_EQUAL(atomic_load(&host->scoreboard->read_turns[WORKER]), 0);
    (void)close(host->scoreboard->read_queue);
    (void)close(host->reader_queue);
    page_release(&host->page);
    poll_request_release(&host->request);
    scoreboard_free(host->scoreboard);
    (void)close(host->ours);
    if (host->theirs >= 0)
        (void)close(host->theirs);
    (void)pthread_sigmask(SIG_SETMASK, &host->before, NULL);
    (void)signal(SIGUSR2, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
}

static enum error read_within(struct host *host, enum source_read how, int64_t for_ms)
{
    page_clear(&host->page);
    return host->source->operations->read(host->source, &host->poll, how, host->positions, &host->page,
                                          clock_monotonic_ms() + for_ms);
}

#define READ(host, how, expected) expect_read(host, how, ERROR_NONE, expected, __LINE__)
#define FAIL_TO_READ(host, how, wanted) expect_read(host, how, wanted, "", __LINE__)

/* Reads a page, and moves the positions to its end, so that the next read continues there. */
static void expect_read(struct host *host, enum source_read how, enum error wanted, const char *expected,
                        int line)
{
    enum error error = read_within(host, how, PROMPT_MS);

    (void)expect(error == wanted, __FILE__, line, "%s instead of %s", error_name(error), error_name(wanted));
    expect_text(host->page.messages->buf, expected, __FILE__, line);
    for (int i = 0; !error && i < host->request.topic_count; i++)
        host->positions[i] = host->page.topics[i].next;
}

#define WAIT(host, wanted) expect_wait(host, wanted, __LINE__)

static void expect_wait(struct host *host, enum error wanted, int line)
{
    int64_t start_ms = clock_monotonic_ms(), took_ms;
    enum error error =
        host->source->operations->wait(host->source, &host->interrupts, host->poll.deadline_ms);

    took_ms = clock_monotonic_ms() - start_ms;
    (void)expect(error == wanted, __FILE__, line, "%s instead of %s", error_name(error), error_name(wanted));
    (void)expect(took_ms < PROMPT_MS, __FILE__, line, "after %d ms", (int)took_ms);
}

/* Prepares a poll of topic a that has found nothing and has subscribed, so that its next call is wait(). */
static void open_waiting(struct host *host, int64_t for_ms, void (*once_waiting)(struct host *host))
{
    open_host(host, "\"a\"", for_ms);
    host->once_waiting = once_waiting;
    start_manager(host);
    READ(host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(host->positions[0], START);
    CU_ASSERT_EQUAL(atomic_load(&host->slot->state), SLOT_SERVING);
    READ(host, SOURCE_SUBSCRIBE, "");
    CU_ASSERT_EQUAL(atomic_load(&host->slot->state), SLOT_WAITING);
    EXPECT_TEXT(host->slot->client, "192.0.2.1");
}

/* ---- asking the manager */

static void asks_only_what_it_must(void)
{
    struct host host;

    open_host(&host, "\"a\",\"b\"", LONG_MS);
    start_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, ""); /* the poll reads from now on */
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 2);
    CU_ASSERT_EQUAL(host.authorizations, 1);
    READ(&host, SOURCE_AUTHORIZE, ""); /* the ring has all topics now, but the user must be checked */
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 3);
    CU_ASSERT_EQUAL(host.authorizations, 2);
    READ(&host, SOURCE_READ_ONLY, "");
    atomic_store(&host.scoreboard->manager->open_until_ms, clock_monotonic_ms() + LONG_MS);
    append(&host, "b", START + 1, "one");
    READ(&host, SOURCE_AUTHORIZE, "one"); /* can_poll() allows everything */
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 3);
    CU_ASSERT_EQUAL(atomic_load(&host.looks), 0);
    host.positions[1] = CATCH_UP_FROM_NOW;
    READ(&host, SOURCE_AUTHORIZE, ""); /* after a look, the ring has the position */
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 3);
    CU_ASSERT_EQUAL(host.authorizations, 2);
    CU_ASSERT_EQUAL(atomic_load(&host.looks), 1);
    CU_ASSERT_EQUAL(host.positions[1], START + 1);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_RING_PAGES]), 5);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 0);
    close_host(&host);
}

static void append_during_look(struct host *host)
{
    append(host, "a", START + 1, "committed before");
}

/* A poll that does not wait gets what the ring has after a look that begins after the poll asked for it. */
static void a_look_brings_what_is_committed(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    host.scoreboard->manager->open_until_ms = INT64_MAX;
    start_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, "");
    host.request.timeout_s = 0;
    host.during_look = append_during_look;
    READ(&host, SOURCE_AUTHORIZE, "committed before");
    CU_ASSERT_EQUAL(atomic_load(&host.looks), 1);
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 1);
    CU_ASSERT_FALSE(look_is_wanted(host.scoreboard));
    close_host(&host);
}

/* If the manager refuses the look, the worker asks about each topic. */
static void a_look_may_be_refused(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    host.scoreboard->manager->open_until_ms = INT64_MAX;
    host.look = LOOK_REFUSED;
    start_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, "");
    host.positions[0] = CATCH_UP_FROM_NOW;
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(atomic_load(&host.looks), 1);
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 2);
    CU_ASSERT_EQUAL(host.positions[0], START);
    close_host(&host);
}

/* A look answers the workers that asked before it began, and no others. */
static void a_look_answers_all_that_asked_before_it(void)
{
    struct host host;
    struct scoreboard *scoreboard;
    uint64_t before, after;

    open_host(&host, "\"a\"", LONG_MS);
    scoreboard = host.scoreboard;
    before = look_ask(scoreboard, 1);
    CU_ASSERT_EQUAL(look_ask(scoreboard, WORKER), before);
    CU_ASSERT_TRUE(look_is_wanted(scoreboard));
    look_begin(scoreboard);
    after = look_ask(scoreboard, 2);
    CU_ASSERT_EQUAL(look_state(scoreboard, before), LOOK_PENDING);
    look_end(scoreboard, LOOK_DONE);
    CU_ASSERT_EQUAL(look_state(scoreboard, before), LOOK_DONE);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->woken), 1);
    CU_ASSERT_EQUAL(look_state(scoreboard, after), LOOK_PENDING);
    CU_ASSERT_TRUE(look_is_wanted(scoreboard));
    /* A broken worker writes garbage, which must change no answer. */
    atomic_store(&host.slot->look, UINT64_MAX);
    (void)atomic_fetch_or(&scoreboard->lookers[WORKER / 64], UINT64_MAX);
    look_begin(scoreboard);
    look_end(scoreboard, LOOK_REFUSED);
    CU_ASSERT_EQUAL(look_state(scoreboard, after), LOOK_REFUSED);
    CU_ASSERT_EQUAL(look_state(scoreboard, before), LOOK_DONE);
    CU_ASSERT_FALSE(look_is_wanted(scoreboard));
    close_host(&host);
}

/* ---- a worker that asks for looks, while the manager is interrupted anywhere */

enum { INTERRUPTIONS = 5000, INTERRUPTION_US = 50 };

static struct {
    struct scoreboard *scoreboard;
    volatile uint64_t number;             /* of the look that the worker waits for; 0: none */
    volatile sig_atomic_t runs, happened; /* the worker runs; how often the manager was interrupted */
} asker;

/* Lets the worker do what it does until it sleeps: if its look has ended, it asks for another one. */
static void run_asker(int signal_number)
{
    asker.happened += signal_number == SIGALRM;
    if (asker.runs || look_state(asker.scoreboard, asker.number) == LOOK_PENDING)
        return;
    asker.runs = 1;
    asker.number = look_ask(asker.scoreboard, WORKER);
    asker.runs = 0;
}

static void no_look_is_lost(void)
{
    const struct itimerval often = { { 0, INTERRUPTION_US }, { 0, INTERRUPTION_US } }, never = { 0 };
    struct sigaction action = { .sa_handler = run_asker }, before;
    struct host host;
    int64_t end_ms;
    bool lost = false;

    open_host(&host, "\"a\"", LONG_MS);
    asker.scoreboard = host.scoreboard;
    asker.number = 0;
    asker.happened = 0;
    (void)sigaction(SIGALRM, &action, &before);
    (void)setitimer(ITIMER_REAL, &often, NULL);
    end_ms = clock_monotonic_ms() + PROMPT_MS;
    while (!lost && asker.happened < INTERRUPTIONS && clock_monotonic_ms() < end_ms) {
        run_asker(0);
        if (look_is_wanted(host.scoreboard)) {
            look_begin(host.scoreboard);
            look_end(host.scoreboard, LOOK_DONE);
        }
        lost = look_state(host.scoreboard, asker.number) == LOOK_PENDING && !look_is_wanted(host.scoreboard);
    }
    (void)setitimer(ITIMER_REAL, &never, NULL);
    (void)sigaction(SIGALRM, &before, NULL);
    EXPECT(!lost, "after %d interruptions", (int)asker.happened);
    EXPECT(asker.happened > 0, "not interrupted");
    close_host(&host);
}

static void an_answer_may_be_no(void)
{
    static const enum error answers[] = { ERROR_DENIED, ERROR_DATABASE_QUERY, ERROR_MEMORY };
    char name[SCOREBOARD_USER_SIZE + 1] = "";
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    for (size_t i = 0; i < COUNT(answers); i++) {
        atomic_store(&host.stop, false);
        host.answer = answers[i];
        start_manager(&host);
        FAIL_TO_READ(&host, SOURCE_AUTHORIZE, answers[i]);
        stop_manager(&host);
    }
    CU_ASSERT_EQUAL(atomic_load(&host.questions), COUNT(answers));
    /* A user whose name does not fit into the slot is refused. */
    memset(name, 'x', SCOREBOARD_USER_SIZE);
    host.poll.remote_user = name;
    FAIL_TO_READ(&host, SOURCE_AUTHORIZE, ERROR_DENIED);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->asked), COUNT(answers));
    close_host(&host);
}

static void a_silent_manager_is_not_waited_for(void)
{
    struct host host;

    open_host(&host, "\"a\"", SHORT_MS);
    host.config.query_timeout_s = 0;
    atomic_store(&host.silent, true);
    start_manager(&host);
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_AUTHORIZE, SHORT_MS), ERROR_DATABASE_AWAY);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->asked), 1);
    /* The next poll has another question, but must not overwrite the one that is not answered yet. */
    poll_request_release(&host.request);
    CU_ASSERT_FALSE(
        poll_request_parse(&host.request, "{\"topics\":[\"bb\"]}", 17, 3, &(struct json_object *){ NULL }));
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_AUTHORIZE, SHORT_MS), ERROR_DATABASE_AWAY);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->asked), 1);
    CU_ASSERT_EQUAL(host.slot->topics[0].name_length, 1);
    /* Now the manager answers the old question, then the questions of this poll. */
    atomic_store(&host.silent, false);
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 3);
    append(&host, "a", START + 1, "not ours");
    append(&host, "bb", START + 2, "ours");
    READ(&host, SOURCE_READ_ONLY, "ours");
    close_host(&host);
}

/* Plays a manager that is slow to answer. */
static void *speak_late(void *argument)
{
    struct host *host = argument;

    (void)poll(NULL, 0, 3 * SHORT_MS);
    atomic_store(&host->silent, false);
    return NULL;
}

/* A poll with timeout 0 has little time of its own, but that of a statement if the database is there. */
static void a_first_read_may_take_as_long_as_a_statement(void)
{
    struct host host;
    pthread_t other;

    open_host(&host, "\"a\"", 0);
    host.scoreboard->manager->open_until_ms = INT64_MAX;
    atomic_store(&host.silent, true);
    start_manager(&host);
    host.scoreboard->manager->numbers_until_ms = 0;
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_AUTHORIZE, SHORT_MS), ERROR_DATABASE_AWAY);
    host.scoreboard->manager->numbers_until_ms = INT64_MAX;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, speak_late, &host), 0);
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_AUTHORIZE, SHORT_MS), ERROR_NONE);
    (void)pthread_join(other, NULL);
    close_host(&host);
}

/* Remembers, as the authorizer does, whether eve may poll a topic. */
static void remember(struct host *host, const char *topic, bool allowed, int64_t due_ms, int64_t expires_ms)
{
    struct access_memory *memory = host->scoreboard->permissions;
    const struct keyed_hash hash =
        access_memory_hash_topic(access_memory_hash(memory, "eve", 3), topic, strlen(topic));

    CU_ASSERT_FALSE(
        access_memory_put(memory, hash, &allowed, sizeof allowed, clock_monotonic_ms(), due_ms, expires_ms));
}

static void what_is_remembered_is_not_asked(void)
{
    struct host host;
    int64_t now_ms;

    open_host(&host, "\"a\",\"b\"", LONG_MS);
    start_manager(&host);
    now_ms = clock_monotonic_ms();
    remember(&host, "a", true, now_ms + LONG_MS, now_ms + LONG_MS);
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(host.authorizations, 1); /* there is no remembered answer for topic b */
    remember(&host, "b", true, now_ms + LONG_MS, now_ms + LONG_MS);
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(host.authorizations, 1);
    /* When an answer is due to be asked again, the poll asks but does not wait for the answer. */
    remember(&host, "a", true, now_ms, now_ms + LONG_MS);
    stop_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(atomic_load(&host.slot->only_refresh), 1);
    READ(&host, SOURCE_AUTHORIZE, ""); /* does not overwrite that question */
    CU_ASSERT_EQUAL(atomic_load(&host.slot->asked),
                    atomic_load(&scoreboard_reply(host.scoreboard, WORKER)->answered) + 1);
    /* A refusal is remembered as well. An expired answer is forgotten. */
    remember(&host, "b", false, now_ms + LONG_MS, now_ms + LONG_MS);
    FAIL_TO_READ(&host, SOURCE_AUTHORIZE, ERROR_DENIED);
    CU_ASSERT_EQUAL(host.source->refused_topic, 1);
    remember(&host, "b", false, now_ms, now_ms);
    atomic_store(&host.stop, false);
    start_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(host.authorizations, 3);
    close_host(&host);
}

#define AUTHENTICATE(host, header, wanted, name) expect_user(host, header, wanted, name, __LINE__)

static void expect_user(struct host *host, const char *header, enum error wanted, const char *name, int line)
{
    char user[SOURCE_USER_SIZE] = "";
    const enum error error = host->source->operations->authenticate(host->source, &host->poll, header, user,
                                                                    clock_monotonic_ms() + PROMPT_MS);

    (void)expect(error == wanted, __FILE__, line, "%s instead of %s", error_name(error), error_name(wanted));
    if (!error)
        expect_text(user, name, __FILE__, line);
}

static void who_polls_is_asked_once(void)
{
    char longest[ACCESS_TOKEN_MAX_BYTES + 2];
    struct access_memory *memory;
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    start_manager(&host);
    memory = host.scoreboard->users;
    AUTHENTICATE(&host, "Bearer 1", ERROR_NONE, "user of Bearer 1");
    EXPECT_TEXT(host.token, "Bearer 1");
    (void)access_memory_put(memory, access_memory_hash(memory, "Bearer 1", 8), "alice", 6, 0, INT64_MAX,
                            INT64_MAX);
    AUTHENTICATE(&host, "Bearer 1", ERROR_NONE, "alice");
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 1);
    AUTHENTICATE(&host, "", ERROR_NONE, "user of ");
    /* A header that is not UTF-8 or too long is refused. */
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    AUTHENTICATE(&host, "Bearer \xff", ERROR_UNAUTHENTICATED, "");
    AUTHENTICATE(&host, longest, ERROR_UNAUTHENTICATED, "");
    EXPECT_TEXT(host.token, "");
    /* authenticate() is as installed, so every user is anonymous. */
    atomic_store(&host.scoreboard->manager->anonymous_until_ms, clock_monotonic_ms() + LONG_MS);
    AUTHENTICATE(&host, "Bearer 1", ERROR_NONE, "");
    AUTHENTICATE(&host, longest, ERROR_NONE, "");
    close_host(&host);
}

static const char TABLE_MESSAGE[] = "{\"topic\":\"a\",\"message_id\":\"msg_0000000000000065\",\"payload\":1,"
                                    "\"timestamp\":\"2000-01-01T00:00:00.000000\","
                                    "\"metadata\":{},\"stream_id\":\"0-101\"}";

static void asking_is_interrupted(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    release_flag = 1; /* after a drain the manager may have ended, so the table is read */
    start_reader(&host, ERROR_NONE);
    READ(&host, SOURCE_AUTHORIZE, TABLE_MESSAGE);
    join_reader(&host);
    EXPECT_TEXT(host.asked_user, "eve");
    CU_ASSERT_EQUAL(host.asked_position, CATCH_UP_FROM_NOW);
    CU_ASSERT_TRUE(host.asked_to_number);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 1);
    release_flag = 0;
    (void)close(host.theirs);
    host.theirs = -1;
    host.positions[0] = CATCH_UP_FROM_NOW;
    start_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, ""); /* a client that has closed its sending side still gets an answer */
    CU_ASSERT_EQUAL(host.positions[0], START);
    close_host(&host);
}

/* ---- the table */

/* Prepares a poll from a position that the message ring no longer covers. */
static void open_lacking(struct host *host)
{
    open_host(host, "\"a\"", LONG_MS);
    start_manager(host);
    READ(host, SOURCE_AUTHORIZE, "");
    stop_manager(host);
    append(host, "a", START + 1, NULL);
}

/* The ring has the topic, but does not know which older messages are retained. */
static void the_last_few_are_read_from_the_table(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    start_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, "");
    append(&host, "a", START + 1, "one");
    host.positions[0] = -5;
    start_reader(&host, ERROR_NONE);
    READ(&host, SOURCE_AUTHORIZE, TABLE_MESSAGE);
    join_reader(&host);
    CU_ASSERT_EQUAL(host.asked_position, -5);
    CU_ASSERT_EQUAL(host.positions[0], START + 1);
    close_host(&host);
}

static void what_the_ring_lacks_is_read_from_the_table(void)
{
    struct host host;
    eventfd_t rung = 0;

    open_lacking(&host);
    (void)eventfd_read(host.scoreboard->latch, &rung);
    start_reader(&host, ERROR_NONE);
    READ(&host, SOURCE_READ_ONLY, TABLE_MESSAGE);
    join_reader(&host);
    EXPECT_TEXT(host.asked_user, "nobody"); /* the reader need not check the user: the manager did */
    CU_ASSERT_FALSE(host.asked_to_number);  /* the manager numbers */
    CU_ASSERT_EQUAL(host.asked_position, START);
    CU_ASSERT_EQUAL(host.positions[0], START + 1);
    EXPECT_TEXT(host.source->operations->error(host.source), "");
    CU_ASSERT_EQUAL(eventfd_read(host.scoreboard->latch, &rung), 0); /* too few readers run */
    atomic_store(&host.scoreboard->manager->readers, 1);
    append(&host, "a", START + 2, NULL);
    host.scoreboard->manager->numbers_until_ms = 0;
    start_reader(&host, ERROR_DATABASE_QUERY);
    FAIL_TO_READ(&host, SOURCE_READ_ONLY, ERROR_DATABASE_QUERY);
    join_reader(&host);
    EXPECT_TEXT(host.source->operations->error(host.source), "the table's own words");
    CU_ASSERT_TRUE(host.asked_to_number);
    CU_ASSERT_NOT_EQUAL(eventfd_read(host.scoreboard->latch, &rung), 0); /* enough readers run */
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 2);
    close_host(&host);
}

/*
 * A poll that does not wait opens its topic in the ring, which answers the next polls. While the manager does
 * not number, a reader answers it.
 */
static void a_topic_that_nobody_waits_for(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    host.request.timeout_s = 0;
    host.scoreboard->manager->numbers_until_ms = 0;
    start_manager(&host);
    start_reader(&host, ERROR_NONE);
    READ(&host, SOURCE_AUTHORIZE, TABLE_MESSAGE);
    join_reader(&host);
    CU_ASSERT_TRUE(host.asked_to_number);
    CU_ASSERT_EQUAL(atomic_load(&host.questions), host.authorizations);
    host.scoreboard->manager->numbers_until_ms = INT64_MAX;
    host.positions[0] = START;
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(atomic_load(&host.questions), host.authorizations + 1);
    CU_ASSERT_EQUAL(atomic_load(&host.looks), 0);
    READ(&host, SOURCE_AUTHORIZE, "");
    CU_ASSERT_EQUAL(atomic_load(&host.questions), host.authorizations + 1);
    CU_ASSERT_EQUAL(atomic_load(&host.looks), 1);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 1);
    close_host(&host);
}

static void a_table_out_of_reach(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    host.request.timeout_s = 0;
    host.scoreboard->manager->numbers_until_ms = 0;
    start_manager(&host);
    start_reader(&host, ERROR_DATABASE_AWAY);
    READ(&host, SOURCE_AUTHORIZE, "");
    join_reader(&host);
    CU_ASSERT_EQUAL(host.positions[0], START);
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 2);
    CU_ASSERT_EQUAL(host.authorizations, 1);
    close_host(&host);
}

static void a_table_that_is_not_read(void)
{
    struct host host;

    open_lacking(&host);
    /* The question is in the queue, but no reader takes it. */
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, SHORT_MS), ERROR_DATABASE_AWAY);
    EXPECT_TEXT(host.source->operations->error(host.source), "no reader process answered in time");
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 1);
    /* Other polls hold all permits until the deadline. */
    (void)atomic_fetch_sub(&host.scoreboard->workers->read_permits_left, 1);
    host.poll.started_ms -= host.config.query_timeout_s * 1000;
    host.poll.deadline_ms -= 2 * LONG_MS;
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, SHORT_MS), ERROR_READERS_BUSY);
    EXPECT_TEXT(host.source->operations->error(host.source), "too many other polls are reading the table");
    latch_drain(host.scoreboard, WORKER, POLL_QUOTA_SHORTEST_MS);
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, SHORT_MS), ERROR_DRAINED);
    atomic_store(&host.slot->drain, 0);
    /* The database is away, too. */
    host.scoreboard->manager->numbers_until_ms = 0;
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, SHORT_MS), ERROR_DATABASE_AWAY);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 1);
    (void)atomic_fetch_add(&host.scoreboard->workers->read_permits_left, 1);
    /* All readers and the manager have ended. */
    (void)close(host.reader_queue);
    host.reader_queue = -1;
    FAIL_TO_READ(&host, SOURCE_READ_ONLY, ERROR_DATABASE_AWAY);
    close_host(&host);
}

/* The poll reads from where "now" was when that was found, although the table could not be read then. */
static void now_stays_where_it_was_found(void)
{
    struct host host;

    open_host(&host, "\"a\",\"b\"", LONG_MS);
    host.positions[1] = START - 1;
    start_manager(&host);
    start_reader(&host, ERROR_DATABASE_AWAY);
    FAIL_TO_READ(&host, SOURCE_AUTHORIZE, ERROR_DATABASE_AWAY);
    join_reader(&host);
    CU_ASSERT_EQUAL(host.asked_position, START);
    append(&host, "a", START + 1, "committed since");
    start_reader(&host, ERROR_NONE);
    READ(&host, SOURCE_AUTHORIZE, TABLE_MESSAGE);
    join_reader(&host);
    CU_ASSERT_EQUAL(host.asked_position, START);
    close_host(&host);
}

/* ---- how a wait ends */

static void deliver(struct host *host)
{
    append(host, "a", START + 7, "message");
    wait_sets_wake(host->scoreboard, number_of(host, "a"));
}

static void by_a_message(void)
{
    struct host host;

    open_waiting(&host, LONG_MS, deliver);
    WAIT(&host, ERROR_NONE);
    READ(&host, SOURCE_SUBSCRIBE, "message");
    CU_ASSERT_EQUAL(host.positions[0], START + 7);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 0);
    close_host(&host);
}

static void by_a_message_before_it(void)
{
    struct host host;

    open_waiting(&host, LONG_MS, NULL);
    append(&host, "a", START + 1, "one"); /* without waking the poll */
    WAIT(&host, ERROR_NONE);
    READ(&host, SOURCE_SUBSCRIBE, "one");
    append(&host, "a", START + 2, "two");
    WAIT(&host, ERROR_NONE);
    close_host(&host);
}

static void by_the_timeout(void)
{
    struct host host;

    open_waiting(&host, SHORT_MS, NULL);
    WAIT(&host, ERROR_TIMEOUT);
    CU_ASSERT(clock_monotonic_ms() >= host.poll.deadline_ms);
    close_host(&host);
}

static void wake_for_nothing(struct host *host)
{
    for (int i = 0; i < 20; i++) {
        latch_wake(host->scoreboard, WORKER);
        (void)poll(NULL, 0, 1);
    }
}

static void not_by_a_wake_without_news(void)
{
    struct host host;

    open_waiting(&host, SHORT_MS, wake_for_nothing);
    WAIT(&host, ERROR_TIMEOUT);
    close_host(&host);
}

static void leave(struct host *host)
{
    (void)close(host->theirs);
    host->theirs = -1;
}

static void by_the_client(void)
{
    struct host host;

    open_waiting(&host, LONG_MS, leave);
    WAIT(&host, ERROR_CLIENT_GONE);
    close_host(&host);
}

static void release(struct host *host)
{
    latch_drain(host->scoreboard, WORKER, POLL_QUOTA_SHORTEST_MS);
}

static void by_the_manager(void)
{
    struct host host;

    open_waiting(&host, LONG_MS, release);
    WAIT(&host, ERROR_DRAINED);
    host.source->operations->end(host.source);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->drain), 0);
    close_host(&host);
}

/*
 * A newer poll of the client may drain this poll before it waits. This poll still lasts
 * POLL_QUOTA_SHORTEST_MS, and gets the messages that come in this time.
 */
static void by_a_newer_poll_but_not_too_soon(void)
{
    struct host host;
    int64_t start_ms;

    open_host(&host, "\"a\"", LONG_MS);
    start_manager(&host);
    READ(&host, SOURCE_AUTHORIZE, "");
    latch_drain(host.scoreboard, WORKER, POLL_QUOTA_SHORTEST_MS);
    READ(&host, SOURCE_SUBSCRIBE, "");
    append(&host, "a", START + 1, "one");
    WAIT(&host, ERROR_NONE);
    READ(&host, SOURCE_READ_ONLY, "one");
    start_ms = host.poll.started_ms;
    WAIT(&host, ERROR_DRAINED);
    EXPECT(clock_monotonic_ms() - start_ms >= POLL_QUOTA_SHORTEST_MS,
           "two clients that share a quota of one would spin");
    start_ms = clock_monotonic_ms();
    WAIT(&host, ERROR_DRAINED); /* now the wait ends at once */
    EXPECT(clock_monotonic_ms() - start_ms < POLL_QUOTA_SHORTEST_MS, "a second pause");
    close_host(&host);
}

/* A drained poll does not wait for the database. */
static void a_drained_poll_does_not_wait_for_the_database(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    host.answer = ERROR_DATABASE_AWAY;
    host.look = LOOK_REFUSED;
    start_manager(&host);
    FAIL_TO_READ(&host, SOURCE_AUTHORIZE, ERROR_DATABASE_AWAY);
    latch_drain(host.scoreboard, WORKER, POLL_QUOTA_SHORTEST_MS);
    FAIL_TO_READ(&host, SOURCE_AUTHORIZE, ERROR_TOO_MANY);
    FAIL_TO_READ(&host, SOURCE_SUBSCRIBE, ERROR_DRAINED);
    host.answer = ERROR_NONE;
    READ(&host, SOURCE_AUTHORIZE, "");
    atomic_store(&host.slot->drain, 0);
    close_host(&host);
}

/* ---- the quota */

static bool claim(struct host *host, int worker, const char *user, const char *address)
{
    return poll_quota_claim(host->scoreboard, worker, user, address, clock_monotonic_ms(), 2);
}

/* Returns a letter for each worker whose poll is drained: a for worker 0, and so on. */
static const char *drained(const struct host *host, char letters[static WORKERS + 1])
{
    int count = 0;

    for (int i = 0; i < WORKERS; i++)
        if (atomic_load(&scoreboard_slot(host->scoreboard, i)->drain))
            letters[count++] = (char)('a' + i);
    letters[count] = '\0';
    return letters;
}

static void the_newest_polls_have_the_quota(void)
{
    char letters[WORKERS + 1];
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_TRUE(claim(&host, i, "eve", "192.0.2.1"));
        while (clock_monotonic_ms() == atomic_load(&scoreboard_slot(host.scoreboard, i)->since_ms))
            ; /* wait until the next poll will be younger */
    }
    EXPECT_TEXT(drained(&host, letters), "");
    CU_ASSERT_TRUE(claim(&host, 2, "eve", "192.0.2.2")); /* a user's address does not matter */
    EXPECT_TEXT(drained(&host, letters), "a");
    CU_ASSERT_TRUE(claim(&host, 3, "", "eve"));
    CU_ASSERT_TRUE(claim(&host, 4, "", "eve"));
    CU_ASSERT_TRUE(claim(&host, 5, "Eve", "192.0.2.1"));
    EXPECT_TEXT(drained(&host, letters), "a");
    poll_quota_return(host.scoreboard, 0);
    CU_ASSERT_TRUE(claim(&host, 6, "eve", "192.0.2.1"));
    EXPECT_TEXT(drained(&host, letters), "ab");
    close_host(&host);
}

static void a_client_holds_at_most_its_quota_and_some_handovers(void)
{
    enum { MOST = 2 * 2 + SCOREBOARD_HANDOVERS };
    struct host host;
    int left = 0;

    open_host(&host, "\"a\"", LONG_MS);
    for (int i = 0; i < MOST; i++)
        CU_ASSERT_TRUE(claim(&host, i, "eve", ""));
    for (int i = 0; i < MOST; i++)
        left += !atomic_load(&scoreboard_slot(host.scoreboard, i)->drain);
    CU_ASSERT_EQUAL(left, 2);
    CU_ASSERT_FALSE(claim(&host, MOST, "eve", ""));
    CU_ASSERT_FALSE(claim(&host, MOST, "eve", "")); /* the refused poll holds no claim */
    CU_ASSERT_TRUE(claim(&host, MOST, "adam", ""));
    poll_quota_return(host.scoreboard, 0);
    CU_ASSERT_TRUE(claim(&host, MOST + 1, "eve", ""));
    close_host(&host);
}

struct claimer {
    struct host *host;
    pthread_barrier_t *start;
    int worker;
    int64_t started_ms;
};

static void *claim_at_once(void *argument)
{
    const struct claimer *claimer = argument;

    (void)pthread_barrier_wait(claimer->start);
    (void)poll_quota_claim(claimer->host->scoreboard, claimer->worker, "eve", "", claimer->started_ms, 2);
    return NULL;
}

/* A poll that is refused drains no other, and two that start together do not both drain another one. */
static void polls_that_start_together(void)
{
    enum { TURNS = 500, CLAIMERS = 12 };
    struct claimer claimers[CLAIMERS];
    pthread_t threads[CLAIMERS];
    pthread_barrier_t start;
    struct host host;
    int wrong = 0;

    open_host(&host, "\"a\"", LONG_MS);
    CU_ASSERT_EQUAL_FATAL(pthread_barrier_init(&start, NULL, CLAIMERS), 0);
    for (int turn = 0; turn < TURNS; turn++) {
        int left = 0;

        for (int i = 0; i < CLAIMERS; i++) {
            claimers[i] = (struct claimer){ &host, &start, i, 1 + (turn * 7 + i * 5) % CLAIMERS };
            CU_ASSERT_EQUAL_FATAL(pthread_create(&threads[i], NULL, claim_at_once, &claimers[i]), 0);
        }
        for (int i = 0; i < CLAIMERS; i++)
            (void)pthread_join(threads[i], NULL);
        for (int i = 0; i < CLAIMERS; i++) {
            left += atomic_load(&host.scoreboard->clients[i]) &&
                    !atomic_load(&scoreboard_slot(host.scoreboard, i)->drain);
            poll_quota_return(host.scoreboard, i);
            atomic_store(&scoreboard_slot(host.scoreboard, i)->drain, 0);
        }
        wrong += left != 2;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    (void)pthread_barrier_destroy(&start);
    close_host(&host);
}

static void drain(struct host *host)
{
    (void)host;
    (void)kill(getpid(), SIGTERM);
}

static void by_a_drain(void)
{
    struct host host;

    open_waiting(&host, LONG_MS, drain);
    WAIT(&host, ERROR_DRAINED);
    READ(&host, SOURCE_READ_ONLY, ""); /* a drained poll can still read */
    close_host(&host);
}

static void close_topic(struct host *host)
{
    int topic = number_of(host, "a");

    ring_close(host->scoreboard->ring, topic);
    topic_table_remove(host->scoreboard->topics, topic);
    CU_ASSERT_EQUAL(number_of(host, "a"), topic);
    wait_sets_wake(host->scoreboard, topic);
}

static void by_the_topics_end(void)
{
    struct host host;

    open_waiting(&host, LONG_MS, close_topic);
    WAIT(&host, ERROR_NONE);
    READ(&host, SOURCE_SUBSCRIBE, "");
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 3);
    append(&host, "a", START + 1, "one");
    WAIT(&host, ERROR_NONE);
    READ(&host, SOURCE_SUBSCRIBE, "one");
    close_host(&host);
}

/* Gives the topic another number, as if another worker had asked about it since it was removed. */
static void renumber_topic(struct host *host)
{
    const int topic = number_of(host, "a");

    ring_close(host->scoreboard->ring, topic);
    topic_table_remove(host->scoreboard->topics, topic);
    CU_ASSERT_EQUAL(number_of(host, "b"), topic);
    CU_ASSERT_NOT_EQUAL(number_of(host, "a"), topic);
    ring_open(host->scoreboard->ring, number_of(host, "a"), START);
    wait_sets_wake(host->scoreboard, topic);
}

static void a_topic_with_another_number_wakes_the_poll(void)
{
    struct host host;

    open_waiting(&host, LONG_MS, renumber_topic);
    WAIT(&host, ERROR_NONE);
    READ(&host, SOURCE_READ_ONLY, "");
    CU_ASSERT_EQUAL(atomic_load(&host.questions), 2);
    stop_manager(&host);
    atomic_store(&host.slot->woken, 0);
    append(&host, "a", START + 1, "one");
    wait_sets_wake(host.scoreboard, number_of(&host, "a"));
    CU_ASSERT_EQUAL(atomic_load(&host.slot->woken), 1);
    WAIT(&host, ERROR_NONE);
    READ(&host, SOURCE_READ_ONLY, "one");
    close_host(&host);
}

/* ---- waiting for a permit */

/* Another worker has the only permit, and PGPOLL_QUERY_TIMEOUT_S is over. */
static void open_queued(struct host *host)
{
    open_lacking(host);
    CU_ASSERT(takes(host, WORKER + 1));
    host->poll.started_ms -= host->config.query_timeout_s * 1000;
}

/* Plays another worker, which returns its permit after a while. */
static void *return_late(void *argument)
{
    struct host *host = argument;

    (void)poll(NULL, 0, SHORT_MS);
    read_permits_return(host->scoreboard, WORKER + 1);
    return NULL;
}

/* PGPOLL_QUERY_TIMEOUT_S is over, and the poll's own time, but the manager reaches the database. */
static void a_poll_waits_for_its_turn_while_the_database_is_busy(void)
{
    struct host host;
    pthread_t other;

    open_queued(&host);
    host.poll.deadline_ms = host.poll.started_ms;
    start_reader(&host, ERROR_NONE);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, return_late, &host), 0);
    page_clear(&host.page);
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, -PROMPT_MS), ERROR_NONE);
    (void)pthread_join(other, NULL);
    join_reader(&host);
    EXPECT_TEXT(host.page.messages->buf, TABLE_MESSAGE);
    close_host(&host);
}

/* Plays a client that disconnects after a while. */
static void *leave_late(void *argument)
{
    struct host *host = argument;

    (void)poll(NULL, 0, SHORT_MS);
    (void)close(host->theirs);
    host->theirs = -1;
    return NULL;
}

/* The poll gives its place in the queue up. Nobody reads the page that it wanted. */
static void a_client_that_leaves_ends_the_wait_for_a_turn(void)
{
    struct host host;
    pthread_t client;

    open_queued(&host);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&client, NULL, leave_late, &host), 0);
    FAIL_TO_READ(&host, SOURCE_READ_ONLY, ERROR_CLIENT_GONE);
    (void)pthread_join(client, NULL);
    CU_ASSERT_EQUAL(atomic_load(&host.scoreboard->read_turns[WORKER]), 0);
    read_permits_return(host.scoreboard, WORKER + 1);
    close_host(&host);

    open_queued(&host);
    host.left_at_begin = true;
    FAIL_TO_READ(&host, SOURCE_READ_ONLY, ERROR_CLIENT_GONE);
    read_permits_return(host.scoreboard, WORKER + 1);
    close_host(&host);
}

/* Plays a manager that connects late, after which the client disconnects. */
static void *connect_late(void *argument)
{
    struct host *host = argument;

    (void)poll(NULL, 0, SHORT_MS);
    atomic_store(&host->scoreboard->manager->numbers_until_ms, INT64_MAX);
    return leave_late(host);
}

/* The wait begins before the manager reaches the database, as when both have just started. */
static void a_wait_for_a_turn_notices_that_the_manager_has_connected(void)
{
    const int64_t began_ms = clock_monotonic_ms();
    struct host host;
    pthread_t other;

    open_queued(&host);
    atomic_store(&host.scoreboard->manager->numbers_until_ms, 0);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, connect_late, &host), 0);
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, LONG_MS), ERROR_CLIENT_GONE);
    CU_ASSERT(clock_monotonic_ms() < began_ms + PROMPT_MS);
    (void)pthread_join(other, NULL);
    read_permits_return(host.scoreboard, WORKER + 1);
    close_host(&host);
}

/* Without the database a poll is refused, which it could not be once the head is out. */
static void no_head_is_sent_while_the_database_is_away(void)
{
    struct host host;

    open_queued(&host);
    host.scoreboard->manager->numbers_until_ms = 0;
    host.left_at_begin = true;
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, 3 * SHORT_MS), ERROR_DATABASE_AWAY);
    read_permits_return(host.scoreboard, WORKER + 1);
    close_host(&host);
}

/* Sends SIGTERM to this thread's process until the poll has ended. */
static void *terminate(void *argument)
{
    struct host *host = argument;

    while (!atomic_load(&host->stop))
        (void)pthread_kill(host->worker, SIGTERM), (void)poll(NULL, 0, 1);
    return NULL;
}

/* A worker that is told to end leaves the queue, but not before PGPOLL_QUERY_TIMEOUT_S is over. */
static void a_drain_ends_the_wait_for_a_turn(void)
{
    struct host host;
    pthread_t other;

    open_queued(&host);
    host.worker = pthread_self();
    atomic_store(&host.stop, false);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, terminate, &host), 0);
    CU_ASSERT_EQUAL(read_within(&host, SOURCE_READ_ONLY, SHORT_MS), ERROR_READERS_BUSY);
    CU_ASSERT(clock_monotonic_ms() < host.poll.deadline_ms);
    atomic_store(&host.stop, true);
    (void)pthread_join(other, NULL);
    read_permits_return(host.scoreboard, WORKER + 1);
    close_host(&host);
}

static void fewer_permits_may_be_taken_than_there_are(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    host.scoreboard->read_permits = 3;
    read_permits_allow(host.scoreboard, 3);
    CU_ASSERT(takes(&host, 0) && takes(&host, 1) && takes(&host, 2) && !takes(&host, 3));
    read_permits_allow(host.scoreboard, 1);
    CU_ASSERT(!takes(&host, 3));
    CU_ASSERT_EQUAL(read_permits_taken(host.scoreboard), 3);
    for (int i = 0; i < 3; i++) { /* they are returned one by one */
        for (int j = 0; j < 3; j++)
            (void)read_permits_mend(host.scoreboard);
        CU_ASSERT(!takes(&host, 3));
        read_permits_return(host.scoreboard, i);
    }
    CU_ASSERT(takes(&host, 3) && !takes(&host, 0));
    read_permits_allow(host.scoreboard, 2);
    CU_ASSERT(takes(&host, 0) && !takes(&host, 1));
    read_permits_return(host.scoreboard, 0);
    read_permits_return(host.scoreboard, 3);
    for (int j = 0; j < 3; j++)
        (void)read_permits_mend(host.scoreboard);
    CU_ASSERT_EQUAL(atomic_load(&host.scoreboard->workers->read_permits_left), 2);
    close_host(&host);
}

/* Waits for a permit, and looks only when the worker is woken. Returns false if that takes too long. */
static bool wait_for_permit(struct host *host, int worker)
{
    const int64_t deadline_ms = clock_monotonic_ms() + LONG_MS;
    bool has;

    while (!(has = read_permits_take(host->scoreboard, worker)))
        if (wait_for_event(&host->interrupts, -1, 0, deadline_ms) != ERROR_NONE)
            break;
    return has;
}

static void *allow_late(void *argument)
{
    struct host *host = argument;

    (void)poll(NULL, 0, SHORT_MS);
    read_permits_allow(host->scoreboard, 2);
    return NULL;
}

static void a_worker_that_waits_is_woken_when_more_permits_are_allowed(void)
{
    struct host host;
    pthread_t manager;

    open_host(&host, "\"a\"", LONG_MS);
    host.scoreboard->read_permits = 2;
    CU_ASSERT(takes(&host, 0));
    CU_ASSERT_EQUAL_FATAL(pthread_create(&manager, NULL, allow_late, &host), 0);
    CU_ASSERT_TRUE(wait_for_permit(&host, WORKER));
    (void)pthread_join(manager, NULL);
    read_permits_return(host.scoreboard, 0);
    read_permits_return(host.scoreboard, WORKER);
    close_host(&host);
}

static void all_permits_that_are_added_are_handed_out(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    host.scoreboard->read_permits = 3;
    CU_ASSERT(takes(&host, 0));
    for (int i = 1; i <= 3; i++)
        CU_ASSERT_FALSE(read_permits_take(host.scoreboard, i));
    read_permits_allow(host.scoreboard, 3);
    CU_ASSERT(read_permits_has(host.scoreboard, 1) && read_permits_has(host.scoreboard, 2));
    CU_ASSERT_FALSE(read_permits_has(host.scoreboard, 3));
    read_permits_return(host.scoreboard, 0);
    CU_ASSERT(read_permits_has(host.scoreboard, 3));
    for (int i = 1; i <= 3; i++)
        read_permits_return(host.scoreboard, i);
    close_host(&host);
}

/* A newcomer asks after the permit was returned, and before the worker that waits longest runs. */
static void the_worker_that_waits_longest_gets_the_permit(void)
{
    static const int order[] = { WORKER, 3, 1, 2 };
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    CU_ASSERT(takes(&host, 0));
    for (size_t i = 0; i < COUNT(order); i++)
        CU_ASSERT_FALSE(read_permits_take(host.scoreboard, order[i]));
    for (size_t i = 0; i < COUNT(order); i++) {
        read_permits_return(host.scoreboard, i ? order[i - 1] : 0);
        CU_ASSERT(!takes(&host, 4));
        CU_ASSERT_TRUE(read_permits_take(host.scoreboard, order[i]));
    }
    read_permits_return(host.scoreboard, order[COUNT(order) - 1]);
    CU_ASSERT(takes(&host, 4));
    read_permits_return(host.scoreboard, 4);
    close_host(&host);
}

/* One that gives up or is killed while it waits, or once a permit was given to it, holds nobody up. */
static void a_worker_that_leaves_the_queue_lets_the_next_one_pass(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    CU_ASSERT(takes(&host, 0));
    for (int i = 1; i <= 3; i++)
        CU_ASSERT_FALSE(read_permits_take(host.scoreboard, i));
    read_permits_return(host.scoreboard, 1); /* it gives up */
    read_permits_return(host.scoreboard, 0);
    CU_ASSERT_EQUAL(read_permits_taken(host.scoreboard), 1);
    slot_reset(host.scoreboard, 2); /* it is killed before it knows that it has the permit */
    CU_ASSERT_TRUE(read_permits_take(host.scoreboard, 3));
    read_permits_return(host.scoreboard, 3);
    close_host(&host);
}

/*
 * Plays a worker in a process of its own, which takes permits again and again. Sometimes it gives up at once.
 * Returns the exit status.
 */
static int keep_reading(struct host *host, int worker, _Atomic int *readers)
{
    atomic_store(&host->scoreboard->pids[worker], (int)getpid());
    for (int i = 0; i < 300; i++) {
        if (i % 3 == 0 && !takes(host, worker))
            continue;
        if (!wait_for_permit(host, worker))
            return 1;
        if (atomic_fetch_add(readers, 1) >= host->scoreboard->read_permits)
            return 2;
        (void)usleep(300);
        (void)atomic_fetch_sub(readers, 1);
        read_permits_return(host->scoreboard, worker);
    }
    return 0;
}

/*
 * No wake-up is lost, and no permit, in whatever order the processes run. With as many workers as this,
 * processes often hand out permits at the same time.
 */
static void many_workers_take_turns(void)
{
    enum { READERS = 50, PERMITS = 8, CHANGES = 100, MANY = 5000 };
    struct scoreboard *few;
    struct host host;
    _Atomic int *readers;
    pid_t pids[READERS];
    int status;

    open_host(&host, "\"a\"", LONG_MS);
    few = host.scoreboard;
    host.scoreboard = scoreboard_new(MANY, 3, 64, 64 * 256, 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(host.scoreboard);
    readers = (_Atomic int *)(void *)host.scoreboard->replies; /* any word that the processes share */
    host.scoreboard->read_permits = PERMITS;
    read_permits_allow(host.scoreboard, PERMITS);
    for (int i = 0; i < READERS; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            _exit(keep_reading(&host, i, readers));
        CU_ASSERT_FATAL(pids[i] > 0);
    }
    for (int i = 0; i < CHANGES; i++) {
        read_permits_allow(host.scoreboard, 1 + i % PERMITS);
        (void)sched_yield();
    }
    read_permits_allow(host.scoreboard, PERMITS);
    for (int i = 0; i < READERS; i++) {
        CU_ASSERT_EQUAL(waitpid(pids[i], &status, 0), pids[i]);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "worker %d: status %d", i, status);
    }
    CU_ASSERT_EQUAL(atomic_load(&host.scoreboard->workers->read_permits_left), PERMITS);
    scoreboard_free(host.scoreboard);
    host.scoreboard = few;
    close_host(&host);
}

/* ---- a worker is killed */

/* A worker returns a permit and is killed before it hands it out. Then the manager mends. */
static void *return_half(void *argument)
{
    struct host *host = argument;

    (void)poll(NULL, 0, SHORT_MS);
    atomic_store(&host->scoreboard->read_turns[0], 0);
    (void)atomic_fetch_add(&host->scoreboard->workers->read_permits_left, 1);
    read_permits_mend(host->scoreboard);
    return NULL;
}

static void a_permit_that_a_killed_worker_did_not_hand_out_is_handed_out(void)
{
    struct host host;
    pthread_t other;

    open_host(&host, "\"a\"", LONG_MS);
    CU_ASSERT(takes(&host, 0));
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, return_half, &host), 0);
    CU_ASSERT_TRUE(wait_for_permit(&host, WORKER));
    (void)pthread_join(other, NULL);
    read_permits_return(host.scoreboard, WORKER);
    close_host(&host);
}

/* A worker gives a permit to another one and is killed before it wakes it. */
static void *give_half(void *argument)
{
    struct host *host = argument;

    (void)poll(NULL, 0, SHORT_MS);
    atomic_store(&host->slot->woken, 1);
    atomic_store(&host->scoreboard->read_turns[WORKER + 1], 0);
    atomic_store(&host->scoreboard->read_turns[WORKER], 1);
    return NULL;
}

static void a_permit_is_found_if_a_killed_worker_did_not_wake_its_holder(void)
{
    struct host host;
    pthread_t other;

    open_queued(&host);
    start_reader(&host, ERROR_NONE);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, give_half, &host), 0);
    READ(&host, SOURCE_READ_ONLY, TABLE_MESSAGE);
    (void)pthread_join(other, NULL);
    join_reader(&host);
    close_host(&host);
}

/* A broken worker may write all turns and the number of tickets. Nobody waits for long because of it. */
static void wrong_turns_hold_nobody_up(void)
{
    static const uint64_t wrong[] = { 0, 2, 1000000, UINT64_MAX };
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    for (size_t i = 0; i < COUNT(wrong); i++)
        for (size_t j = 0; j < COUNT(wrong); j++) {
            atomic_store(&host.scoreboard->read_turns[WORKER], wrong[i]);
            atomic_store(&host.scoreboard->workers->read_tickets, wrong[j]);
            EXPECT(takes(&host, WORKER), "turn %d, tickets %d", (int)i, (int)j);
            read_permits_return(host.scoreboard, WORKER);
        }
    close_host(&host);
}

/* A broken worker writes that another one, whose poll waits, has a permit or is the next. */
static void a_poll_that_waits_keeps_no_permit(void)
{
    struct host host;

    open_lacking(&host);
    for (uint64_t turn = 1; turn <= 2; turn++) {
        atomic_store(&host.scoreboard->read_turns[WORKER], turn);
        (void)host.source->operations->wait(host.source, &host.interrupts, clock_monotonic_ms());
        CU_ASSERT_EQUAL(atomic_load(&host.scoreboard->read_turns[WORKER]), 0);
    }
    (void)atomic_fetch_sub(&host.scoreboard->workers->read_permits_left,
                           1); /* of the permit that was written */
    close_host(&host);
}

static void a_dead_workers_permit_is_put_back(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    /* A worker is killed while it hands a permit to another one. */
    (void)atomic_fetch_sub(&host.scoreboard->workers->read_permits_left, 1);
    CU_ASSERT_FALSE(read_permits_mend(host.scoreboard));
    CU_ASSERT_EQUAL(read_permits_taken(host.scoreboard), 1); /* not yet: the worker may be alive */
    CU_ASSERT_TRUE(read_permits_mend(host.scoreboard));
    CU_ASSERT_EQUAL(read_permits_taken(host.scoreboard), 0);
    (void)atomic_fetch_sub(&host.scoreboard->workers->read_permits_left, 1);
    atomic_store(&host.scoreboard->read_turns[WORKER], 1);
    for (int i = 0; i < 3; i++)
        (void)read_permits_mend(host.scoreboard);
    CU_ASSERT_EQUAL(read_permits_taken(host.scoreboard), 1); /* a living worker has the permit */
    /* A permit is returned a second time, as happens if it was put back too early. */
    (void)atomic_fetch_add(&host.scoreboard->workers->read_permits_left, 1);
    for (int i = 0; i < 2; i++)
        (void)read_permits_mend(host.scoreboard);
    CU_ASSERT_EQUAL(read_permits_taken(host.scoreboard), 1);
    atomic_store(&host.scoreboard->read_turns[WORKER], 0);
    (void)atomic_fetch_add(&host.scoreboard->workers->read_permits_left, 1);
    close_host(&host);
}

/* A broken worker has written turns for idle workers, which come before all others. They do not use them. */
static void the_turn_of_an_idle_worker_is_removed(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    CU_ASSERT(takes(&host, 0));
    host.scoreboard->workers->read_tickets = 100;
    CU_ASSERT_FALSE(read_permits_take(host.scoreboard, WORKER));
    for (int i = 1; i <= 2; i++) {
        atomic_store(&host.scoreboard->read_turns[i], (uint64_t)i + 1);
        atomic_store(&scoreboard_slot(host.scoreboard, i)->state, SLOT_IDLE);
    }
    read_permits_return(host.scoreboard, 0);
    CU_ASSERT_FALSE(read_permits_take(host.scoreboard, WORKER));
    (void)read_permits_mend(host.scoreboard);
    CU_ASSERT_TRUE(read_permits_take(host.scoreboard, WORKER));
    CU_ASSERT_EQUAL(read_permits_taken(host.scoreboard), 1);
    read_permits_return(host.scoreboard, WORKER);
    close_host(&host);
}

static void a_worker_whose_turn_was_removed_enters_the_queue_again(void)
{
    struct host host;

    open_host(&host, "\"a\"", LONG_MS);
    CU_ASSERT(takes(&host, 0));
    CU_ASSERT_FALSE(read_permits_take(host.scoreboard, WORKER));
    atomic_store(&host.slot->state, SLOT_IDLE);
    (void)read_permits_mend(host.scoreboard);
    atomic_store(&host.slot->state, SLOT_SERVING);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->woken), 1);
    CU_ASSERT_FALSE(read_permits_take(host.scoreboard, WORKER));
    read_permits_return(host.scoreboard, 0);
    CU_ASSERT_TRUE(read_permits_take(host.scoreboard, WORKER));
    read_permits_return(host.scoreboard, WORKER);
    close_host(&host);
}

/* ---- waking */

static void only_waiters_of_the_topic_are_woken(void)
{
    struct host host;
    int topic;

    open_waiting(&host, LONG_MS, NULL);
    stop_manager(&host);
    topic = number_of(&host, "a");
    wait_sets_wake(host.scoreboard, topic + SCOREBOARD_BUCKETS); /* in the same wait set */
    wait_sets_wake(host.scoreboard, topic + 1);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->woken), 0);
    wait_sets_wake(host.scoreboard, topic);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->woken), 1);
    host.source->operations->end(host.source);
    atomic_store(&host.slot->woken, 0);
    wait_sets_wake(host.scoreboard, topic);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->woken), 0);
    close_host(&host);
}

/* ---- messages at every moment of a poll's beginning */

enum { RALLY_MS = 700 };

struct rally {
    struct host *host;
    _Atomic int64_t wanted; /* the position of the next message to append */
    _Atomic bool stop;
};

static void *play(void *argument)
{
    struct rally *rally = argument;
    int topic = number_of(rally->host, "a");
    unsigned seed = 1;

    for (int64_t position = START + 1; !atomic_load(&rally->stop);) {
        if (atomic_load(&rally->wanted) < position)
            continue;
        for (volatile int spin = rand_r(&seed) % 3000; spin > 0; spin--)
            ;
        append(rally->host, "a", position++, "x");
        wait_sets_wake(rally->host->scoreboard, topic);
    }
    return NULL;
}

static void no_wake_is_lost(void)
{
    struct host host;
    struct rally rally = { .host = &host };
    struct message_source *source;
    int64_t end_ms;
    pthread_t thread;
    int reads = 0, waits = 0;
    enum error error = ERROR_NONE;

    open_waiting(&host, 60 * 1000, NULL);
    stop_manager(&host);
    source = host.source;
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, play, &rally), 0);
    /* Goes on for longer if the machine is so busy that the poll has hardly waited. */
    for (end_ms = clock_monotonic_ms() + RALLY_MS;
         !error && clock_monotonic_ms() < end_ms + (waits > 10 ? 0 : LONG_MS); reads++) {
        source->operations->end(source);
        atomic_store(&rally.wanted, host.positions[0] + 1);
        error = read_within(&host, SOURCE_SUBSCRIBE, LONG_MS);
        while (!error && host.page.message_count == 0) {
            waits++;
            error = source->operations->wait(source, &host.interrupts, clock_monotonic_ms() + PROMPT_MS);
            if (!error)
                error = read_within(&host, SOURCE_SUBSCRIBE, LONG_MS);
        }
        host.positions[0] = host.page.topics[0].next;
    }
    atomic_store(&rally.stop, true);
    (void)pthread_join(thread, NULL);
    EXPECT(!error, "%s after %d messages", error_name(error), reads);
    EXPECT(waits > 10 && reads > waits / 4, "%d messages, %d waits", reads, waits);
    CU_ASSERT_EQUAL(atomic_load(&host.slot->counters.numbers[COUNTER_TABLE_PAGES]), 0);
    close_host(&host);
}

static int64_t memory_of(const struct scoreboard *scoreboard)
{
    struct stat status;

    CU_ASSERT_EQUAL_FATAL(fstat(scoreboard->workers_fd, &status), 0);
    return (int64_t)status.st_blocks * 512;
}

/*
 * A thousand topic names of the greatest length take 1 MB. After they are freed, at most a page of this
 * memory is left. The memory before and after the names keeps its contents.
 */
static void the_memory_of_names_is_freed(void)
{
    enum { MANY = 1000, PAGE = 4096 };
    struct scoreboard *scoreboard = scoreboard_new(2, MANY, 16, 65536, 1);
    struct slot *slot, *next;
    int64_t before;

    CU_ASSERT_PTR_NOT_NULL_FATAL(scoreboard);
    slot = scoreboard_slot(scoreboard, 0);
    next = scoreboard_slot(scoreboard, 1);
    atomic_store(&slot->topics[MANY - 1].name_length, 77);
    atomic_store(&next->wait_id, 88);
    before = memory_of(scoreboard);
    memset(scoreboard_names(scoreboard, slot), 'x', (size_t)MANY * TOPIC_MAX_BYTES);
    CU_ASSERT(memory_of(scoreboard) >= before + MANY * TOPIC_MAX_BYTES - PAGE);
    scoreboard_free_names(scoreboard, slot);
    EXPECT(memory_of(scoreboard) <= before + PAGE, "%lld more", (long long)(memory_of(scoreboard) - before));
    CU_ASSERT_EQUAL(atomic_load(&slot->topics[MANY - 1].name_length), 77);
    CU_ASSERT_EQUAL(atomic_load(&next->wait_id), 88);
    scoreboard_free(scoreboard);
}

CU_TestInfo source_shared_tests[] = {
    { "the memory of names is freed", the_memory_of_names_is_freed },
    { "asks only what it must", asks_only_what_it_must },
    { "a look brings what is committed", a_look_brings_what_is_committed },
    { "a look may be refused", a_look_may_be_refused },
    { "a look answers all that asked before it", a_look_answers_all_that_asked_before_it },
    { "no look is lost", no_look_is_lost },
    { "an answer may be no", an_answer_may_be_no },
    { "what is remembered is not asked", what_is_remembered_is_not_asked },
    { "who polls is asked once", who_polls_is_asked_once },
    { "a silent manager is not waited for", a_silent_manager_is_not_waited_for },
    { "a first read may take as long as a statement", a_first_read_may_take_as_long_as_a_statement },
    { "asking is interrupted", asking_is_interrupted },
    { "what the ring lacks is read from the table", what_the_ring_lacks_is_read_from_the_table },
    { "a topic that nobody waits for", a_topic_that_nobody_waits_for },
    { "the last few are read from the table", the_last_few_are_read_from_the_table },
    { "a table that is not read", a_table_that_is_not_read },
    { "now stays where it was found", now_stays_where_it_was_found },
    { "a table out of reach: the manager is asked", a_table_out_of_reach },
    { "a wait is ended by a message", by_a_message },
    { "a wait is ended by a message before it", by_a_message_before_it },
    { "a wait is ended by the timeout", by_the_timeout },
    { "a wait is not ended by a wake without news", not_by_a_wake_without_news },
    { "a wait is ended by the client", by_the_client },
    { "a wait is ended by the manager", by_the_manager },
    { "a wait is ended by a newer poll, but not too soon", by_a_newer_poll_but_not_too_soon },
    { "a drained poll does not wait for the database", a_drained_poll_does_not_wait_for_the_database },
    { "the newest polls have the quota", the_newest_polls_have_the_quota },
    { "a client holds at most its quota and some handovers",
      a_client_holds_at_most_its_quota_and_some_handovers },
    { "polls that start together", polls_that_start_together },
    { "a wait is ended by a drain", by_a_drain },
    { "a wait is ended by the topic's end", by_the_topics_end },
    { "a topic with another number wakes the poll", a_topic_with_another_number_wakes_the_poll },
    { "a poll waits for its turn while the database is busy",
      a_poll_waits_for_its_turn_while_the_database_is_busy },
    { "the worker that waits longest gets the permit", the_worker_that_waits_longest_gets_the_permit },
    { "a worker that leaves the queue lets the next one pass",
      a_worker_that_leaves_the_queue_lets_the_next_one_pass },
    { "a client that leaves ends the wait for a turn", a_client_that_leaves_ends_the_wait_for_a_turn },
    { "a wait for a turn notices that the manager has connected",
      a_wait_for_a_turn_notices_that_the_manager_has_connected },
    { "no head is sent while the database is away", no_head_is_sent_while_the_database_is_away },
    { "the turn of an idle worker is removed", the_turn_of_an_idle_worker_is_removed },
    { "a worker whose turn was removed enters the queue again",
      a_worker_whose_turn_was_removed_enters_the_queue_again },
    { "many workers take turns", many_workers_take_turns },
    { "a drain ends the wait for a turn", a_drain_ends_the_wait_for_a_turn },
    { "fewer permits may be taken than there are", fewer_permits_may_be_taken_than_there_are },
    { "a worker that waits is woken when more permits are allowed",
      a_worker_that_waits_is_woken_when_more_permits_are_allowed },
    { "all permits that are added are handed out", all_permits_that_are_added_are_handed_out },
    { "a permit that a killed worker did not hand out is handed out",
      a_permit_that_a_killed_worker_did_not_hand_out_is_handed_out },
    { "a permit is found if a killed worker did not wake its holder",
      a_permit_is_found_if_a_killed_worker_did_not_wake_its_holder },
    { "wrong turns hold nobody up", wrong_turns_hold_nobody_up },
    { "a poll that waits keeps no permit", a_poll_that_waits_keeps_no_permit },
    { "a dead worker's permit is put back", a_dead_workers_permit_is_put_back },
    { "only waiters of the topic are woken", only_waiters_of_the_topic_are_woken },
    { "no wake is lost", no_wake_is_lost },
    CU_TEST_INFO_NULL,
};
