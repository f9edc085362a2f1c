/*
 * Tests the manager's side of the scoreboard while workers write garbage to all memory that they can write
 * to. Whatever the manager reads there, it accesses no memory outside of the scoreboard, returns from each
 * call, and serves the sound workers.
 */
#include "api/topic.h"
#include "shared/latch.h"
#include "shared/question.h"
#include "shared/read_permits.h"
#include "shared/scoreboard.h"

#include "api/topic.h"
#include "core/clock.h"
#include "core/config.h"
#include "core/log.h"
#include "expect.h"
#include "fake_clock.h"
#include "manager/authorizer.h"
#include "manager/open_to_all.h"
#include "manager/relay.h"
#include "manager/spare_workers.h"
#include "manager/stats_writer.h"
#include "shared/slot_reset.h"
#include "shared/topic_table.h"
#include "shared/wait_sets.h"
#include "suites.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    POLLS = 66,
    WORKERS = 69,
    MAX_TOPICS = 3,
    TOPICS = 2 * WORKERS * MAX_TOPICS,
    MESSAGES = 64,
    BYTES = 64 * 256
};

static struct scoreboard *new_scoreboard(void)
{
    return scoreboard_new(POLLS, MAX_TOPICS, MESSAGES, BYTES, 2);
}

/* Asks a question as a worker does. */
static void ask(struct scoreboard *scoreboard, int worker, const char *user, const char *name)
{
    struct slot *slot = scoreboard_slot(scoreboard, worker);
    const size_t length = strlen(name);

    (void)snprintf(slot->user, sizeof slot->user, "%s", user);
    memcpy(scoreboard_names(scoreboard, slot), name, length);
    atomic_store(&slot->topics[0].name_at, 0);
    atomic_store(&slot->topics[0].name_length, (uint32_t)length);
    atomic_store(&slot->question_count, 1);
    atomic_store(&slot->question_deadline_ms, INT64_MAX);
    atomic_store(&slot->question_kind, worker % 2 ? QUESTION_AUTHORIZE : QUESTION_LOCATE);
    atomic_store(&slot->asked, atomic_load(&scoreboard_reply(scoreboard, worker)->answered) + 1);
    (void)atomic_fetch_or(&scoreboard->askers[worker / 64], UINT64_C(1) << worker % 64);
}

/* ---- questions */

static void a_question_is_copied(void)
{
    struct scoreboard *scoreboard = new_scoreboard();
    const struct question *question;

    CU_ASSERT_EQUAL(question_next_asker(scoreboard, 0), -1);
    ask(scoreboard, 65, "eve", "orders");
    ask(scoreboard, 3, "", "caf\303\251");
    CU_ASSERT_EQUAL(question_next_asker(scoreboard, 0), 3);
    CU_ASSERT_EQUAL(question_next_asker(scoreboard, 4), 65);
    CU_ASSERT_EQUAL(question_next_asker(scoreboard, 66), -1);
    CU_ASSERT_EQUAL(question_take(scoreboard, 65), QUESTION_TAKEN);
    memset(scoreboard_slot(scoreboard, 65), 0x55, scoreboard->slot_stride);
    CU_ASSERT_EQUAL(question_take(scoreboard, 65), QUESTION_NONE); /* its question is taken already */
    question = scoreboard_question(scoreboard, 65);
    CU_ASSERT_PTR_NOT_NULL_FATAL(question);
    EXPECT_TEXT(question->user, "eve");
    CU_ASSERT_EQUAL(question->topic_count, 1);
    CU_ASSERT_EQUAL(question->kind, QUESTION_AUTHORIZE);
    EXPECT_TEXT(question->topics[0].name, "orders");
    question_answer(scoreboard, 65, ERROR_DENIED);
    CU_ASSERT_PTR_NULL(scoreboard_question(scoreboard, 65));
    CU_ASSERT_EQUAL(scoreboard_reply(scoreboard, 65)->error, ERROR_DENIED);
    CU_ASSERT_EQUAL(atomic_load(&scoreboard_reply(scoreboard, 65)->answered), 1);
    scoreboard_free(scoreboard);
}

/* Each of these functions makes a question invalid in its own way. */
static void no_topics(struct slot *slot)
{
    atomic_store(&slot->question_count, 0);
}

static void too_many_topics(struct slot *slot)
{
    atomic_store(&slot->question_count, MAX_TOPICS + 1);
}

static void fewer_than_no_topics(struct slot *slot)
{
    atomic_store(&slot->question_count, INT32_MIN);
}

static void a_name_outside(struct slot *slot)
{
    atomic_store(&slot->topics[0].name_at, (uint32_t)scoreboard_names_size(MAX_TOPICS) - 5);
}

static void a_name_far_outside(struct slot *slot)
{
    atomic_store(&slot->topics[0].name_at, UINT32_MAX - 1);
}

static void a_long_name(struct slot *slot)
{
    atomic_store(&slot->topics[0].name_length, 1021);
}

static void an_endless_name(struct slot *slot)
{
    atomic_store(&slot->topics[0].name_length, UINT32_MAX);
}

static void an_empty_name(struct slot *slot)
{
    atomic_store(&slot->topics[0].name_length, 0);
}

static void a_name_with_a_nul(struct slot *slot)
{
    atomic_store(&slot->topics[0].name_length, 7);
}

static void a_name_that_is_not_utf8(struct slot *slot)
{
    *(char *)(slot->topics + MAX_TOPICS) = '\xff';
}

static void an_endless_user(struct slot *slot)
{
    memset(slot->user, 'u', sizeof slot->user);
}

static void no_kind(struct slot *slot)
{
    atomic_store(&slot->question_kind, QUESTION_KINDS);
}

static void a_negative_kind(struct slot *slot)
{
    atomic_store(&slot->question_kind, -1);
}

static void an_endless_token(struct slot *slot)
{
    atomic_store(&slot->question_kind, QUESTION_AUTHENTICATE);
    atomic_store(&slot->token_length, ACCESS_TOKEN_MAX_BYTES + 1);
}

static void a_token_with_a_nul(struct slot *slot)
{
    atomic_store(&slot->question_kind, QUESTION_AUTHENTICATE);
    atomic_store(&slot->token_length, 7);
}

static void a_question_out_of_turn(struct slot *slot)
{
    atomic_store(&slot->asked, 5);
}

static void invalid_questions_are_refused(void)
{
    static void (*const spoil[])(struct slot *) = { no_topics,
                                                    too_many_topics,
                                                    fewer_than_no_topics,
                                                    a_name_outside,
                                                    a_name_far_outside,
                                                    a_long_name,
                                                    an_endless_name,
                                                    an_empty_name,
                                                    a_name_with_a_nul,
                                                    a_name_that_is_not_utf8,
                                                    an_endless_user,
                                                    no_kind,
                                                    a_negative_kind,
                                                    an_endless_token,
                                                    a_token_with_a_nul,
                                                    a_question_out_of_turn };
    struct scoreboard *scoreboard = new_scoreboard();
    enum question_taken taken;

    for (size_t i = 0; i < COUNT(spoil); i++) {
        ask(scoreboard, 0, "eve", "orders");
        spoil[i](scoreboard_slot(scoreboard, 0));
        taken = question_take(scoreboard, 0);
        EXPECT(taken == QUESTION_BROKEN && !scoreboard_question(scoreboard, 0), "%zu: %d", i, (int)taken);
        slot_reset(scoreboard, 0);
        CU_ASSERT_EQUAL(question_next_asker(scoreboard, 0), -1);
        CU_ASSERT_EQUAL(question_take(scoreboard, 0),
                        QUESTION_NONE); /* the next worker has asked nothing yet */
    }
    ask(scoreboard, 0, "eve", "orders");
    CU_ASSERT_EQUAL(question_take(scoreboard, 0), QUESTION_TAKEN);
    scoreboard_free(scoreboard);
}

static void a_token_leaves_the_shared_memory(void)
{
    struct scoreboard *scoreboard = new_scoreboard();
    struct slot *slot = scoreboard_slot(scoreboard, 1);
    struct question *question;

    ask(scoreboard, 1, "", "Bearer s3cret");
    atomic_store(&slot->question_kind, QUESTION_AUTHENTICATE);
    atomic_store(&slot->token_length, strlen("Bearer s3cret"));
    atomic_store(&slot->question_count, 0);
    atomic_store(&slot->only_refresh, 1);
    CU_ASSERT_EQUAL_FATAL(question_take(scoreboard, 1), QUESTION_TAKEN);
    for (size_t i = 0; i < strlen("Bearer s3cret"); i++)
        CU_ASSERT_EQUAL(scoreboard_names(scoreboard, slot)[i], '\0');
    question = question_take_over(scoreboard, 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(question);
    EXPECT_TEXT(question->text, "Bearer s3cret");
    CU_ASSERT_TRUE(question->only_refresh);
    /* The worker may ask the next question at once. */
    CU_ASSERT_PTR_NULL(scoreboard_question(scoreboard, 1));
    ask(scoreboard, 1, "eve", "orders");
    atomic_store(&slot->only_refresh, 0);
    CU_ASSERT_EQUAL(question_take(scoreboard, 1), QUESTION_TAKEN);
    scoreboard_free_question(question);
    scoreboard_free(scoreboard);
}

/* ---- write protection */

/*
 * Runs in a process that has joined the scoreboard as the fork server does, and in a child of that process.
 * The exit status says which check failed.
 */
static void try_to_write(const int *descriptors)
{
    struct scoreboard *joined = scoreboard_join(descriptors);
    int status = 0;
    pid_t pid;

    if (!joined || joined->worker_count != POLLS + 3 || !joined->ring ||
        joined->manager_pid != (int)getppid())
        _exit(1);
    atomic_store(&joined->forked[7], 77);
    atomic_store(&scoreboard_slot(joined, 7)->since_ms, 777);
    pid = fork();
    if (pid == 0) {
        void *writable = joined->forked; /* mapped in the parent only */

        if (scoreboard_pid(joined, 7) != 77 || mprotect(joined->manager, 4096, PROT_READ | PROT_WRITE) == 0 ||
            errno != EACCES)
            _exit(2);
        if (mprotect(writable, 4096, PROT_READ | PROT_WRITE) == 0 || errno != ENOMEM)
            _exit(3);
        if (ftruncate(joined->manager_fd, 0) == 0 || joined->workers_fd >= 0 || joined->pids_fd >= 0)
            _exit(4);
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        _exit(5);
    _exit(WEXITSTATUS(status));
}

static void workers_can_write_only_their_memory(void)
{
    struct scoreboard *scoreboard = new_scoreboard();
    int descriptors[SCOREBOARD_DESCRIPTORS], status = 0;
    pid_t pid;

    scoreboard->read_queue = 0;
    scoreboard_descriptors(scoreboard, descriptors);
    pid = fork();
    if (pid == 0)
        try_to_write(descriptors);
    CU_ASSERT_FATAL(pid > 0 && waitpid(pid, &status, 0) == pid);
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    CU_ASSERT_EQUAL(scoreboard_pid(scoreboard, 7), 77);
    CU_ASSERT_EQUAL(atomic_load(&scoreboard_slot(scoreboard, 7)->since_ms), 777);
    scoreboard_free(scoreboard);
}

/* ---- garbage */

struct garbage {
    struct scoreboard *scoreboard;
    unsigned seed;
    _Atomic bool stop;
};

static int pick(unsigned *seed, int below)
{
    return rand_r(seed) % below;
}

/* Returns a small number, a limit of a type, or a random number. */
static uint64_t pick_value(unsigned *seed)
{
    static const uint64_t edges[] = {
        0,          1,         2,          3,         MAX_TOPICS, TOPICS - 1,       TOPICS,
        UINT32_MAX, INT32_MAX, UINT64_MAX, INT64_MAX, 1U << 31,   UINT64_C(1) << 63
    };

    if (pick(seed, 3))
        return edges[pick(seed, (int)COUNT(edges))];
    return (uint64_t)rand_r(seed) << 33 ^ (uint64_t)rand_r(seed) << 16 ^ (uint64_t)rand_r(seed);
}

/* Writes one number to a random place of the workers' memory, but seldom to names. */
static void write_garbage(struct garbage *garbage)
{
    const struct scoreboard *scoreboard = garbage->scoreboard;
    char *memory = (char *)scoreboard->workers;
    size_t size = (size_t)(scoreboard->slots - memory), at;
    uint64_t value = pick_value(&garbage->seed);

    if (pick(&garbage->seed, 8)) {
        memory = (char *)scoreboard_slot(scoreboard, pick(&garbage->seed, scoreboard->worker_count));
        size = sizeof(struct slot) + (MAX_TOPICS + 2) * sizeof(struct slot_topic);
    }
    at = (size_t)pick(&garbage->seed, (int)(size / 4)) * 4;
    memcpy(memory + at, &value, pick(&garbage->seed, 2) && at + 8 <= size ? 8 : 4);
}

/* The data races of this function are intended, so the thread sanitizer skips it. */
#ifdef __SANITIZE_THREAD__
enum { ROUNDS = 0 };
#else
enum { ROUNDS = 1500 };
#endif

static void *write_on(void *argument)
{
    struct garbage *garbage = argument;

    while (!atomic_load(&garbage->stop))
        write_garbage(garbage);
    return NULL;
}

struct host {
    struct scoreboard *scoreboard;
    struct relay *relay;
    struct authorizer *authorizer;
    struct stats_writer *stats_writer;
    struct spare_workers spare_workers;
    int broken, taken; /* how often question_take() returned QUESTION_BROKEN, and QUESTION_TAKEN */
};

static void forget(struct host *host, int worker)
{
    authorizer_forget_worker(host->authorizer, worker);
    relay_forget_worker(host->relay, worker);
    slot_reset(host->scoreboard, worker);
}

/* Takes the workers' questions as the manager's loop does (manager.c). */
static void take_questions(struct host *host)
{
    int worker = -1;

    while ((worker = question_next_asker(host->scoreboard, worker + 1)) >= 0) {
        enum question_taken taken = question_take(host->scoreboard, worker);

        host->taken += taken == QUESTION_TAKEN;
        host->broken += taken == QUESTION_BROKEN;
        if (taken == QUESTION_BROKEN)
            forget(host, worker);
        else if (taken == QUESTION_TAKEN && scoreboard_question(host->scoreboard, worker)->only_refresh)
            authorizer_refresh(host->authorizer, question_take_over(host->scoreboard, worker));
        else if (taken == QUESTION_TAKEN &&
                 scoreboard_question(host->scoreboard, worker)->kind != QUESTION_LOCATE)
            authorizer_ask(host->authorizer, worker);
        else if (taken == QUESTION_TAKEN)
            relay_ask(host->relay, worker);
    }
}

static void turn(struct host *host, unsigned *seed)
{
    struct scoreboard *scoreboard = host->scoreboard;
    struct pollfd fds[AUTHORIZER_MAX_SESSIONS];
    int worker;

    fake_clock_advance(1500);
    take_questions(host);
    (void)authorizer_pollfds(host->authorizer, fds);
    authorizer_step(host->authorizer, fds);
    relay_step(host->relay, false);
    stats_writer_step(host->stats_writer, false);
    wait_sets_wake(scoreboard, pick(seed, TOPICS));
    spare_workers_keep(&host->spare_workers, clock_monotonic_ms());
    (void)read_permits_mend(scoreboard);
    CU_ASSERT(read_permits_taken(scoreboard) >= 0 &&
              read_permits_taken(scoreboard) <= scoreboard->read_permits);
    CU_ASSERT(scoreboard_idle(scoreboard) >= 0 && scoreboard_idle(scoreboard) <= scoreboard->worker_count);
    worker = pick(seed, scoreboard->worker_count);
    if (pick(seed, 4) == 0 || !scoreboard_is_sound(scoreboard, worker))
        forget(host, worker);
    latch_wake_stats_writer(scoreboard);
}

/*
 * Resets all slots, and expects that new workers in these slots are served as if there had been no garbage.
 */
static void expect_service(struct host *host)
{
    struct scoreboard *scoreboard = host->scoreboard;

    for (int i = 0; i < scoreboard->worker_count; i++)
        forget(host, i);
    for (int i = 0; i < 3; i++) /* a counter may be off by twice as much as one call corrects */
        (void)read_permits_mend(scoreboard);
    CU_ASSERT_EQUAL(read_permits_taken(scoreboard), 0);
    for (int i = 0; i < SCOREBOARD_BUCKETS * scoreboard->set_words; i++)
        CU_ASSERT_EQUAL(
            atomic_load(&scoreboard->wait_sets[i]) & (i % scoreboard->set_words ? 0x1f : UINT64_MAX), 0);
    for (int i = 0; i < scoreboard->worker_count; i++) {
        CU_ASSERT_TRUE(scoreboard_is_sound(scoreboard, i));
        ask(scoreboard, i, "eve", "orders");
    }
    host->taken = host->broken = 0;
    take_questions(host);
    CU_ASSERT_EQUAL(host->taken, scoreboard->worker_count);
    CU_ASSERT_EQUAL(host->broken, 0);
}

static void the_manager_survives_garbage(void)
{
    const struct config config = {
        .query_timeout_s = 5, .reread_s = 60, .access_connections = 3, .access_memory_s = 5, .host = "test"
    };
    struct open_to_all open = { .wanted = false };
    struct host host = { .scoreboard = new_scoreboard() };
    struct garbage garbage = { host.scoreboard, 1, false };
    unsigned seed = 2;
    pthread_t thread;
    const char *names[] = { "a", "b", "orders", "caf\303\251" };

    fake_clock_stop();
    CU_ASSERT(setenv("PGHOST", "/nowhere", 1) == 0 && log_open("/dev/null", LOG_LEVEL_INFO, "test"));
    CU_ASSERT(signal(SIGUSR2, SIG_IGN) != SIG_ERR);
    open.scoreboard = host.scoreboard;
    host.relay = relay_new(&config, host.scoreboard, &open);
    host.authorizer = authorizer_new(&config, host.scoreboard);
    host.stats_writer = stats_writer_new(&config, host.scoreboard);
    spare_workers_init(&host.spare_workers, host.scoreboard);
    CU_ASSERT_FATAL(host.relay && host.authorizer && host.stats_writer);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, write_on, &garbage), 0);
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < 4; k++) {
            const int worker = pick(&seed, host.scoreboard->worker_count);

            ask(host.scoreboard, worker, "eve", names[pick(&seed, COUNT(names))]);
            if (k == 0) /* write at least once, however rarely the other thread runs */
                atomic_store(&scoreboard_slot(host.scoreboard, worker)->question_count,
                             (int)pick_value(&seed));
        }
        atomic_store(&host.scoreboard->pids[pick(&seed, host.scoreboard->worker_count)], (int)getpid());
        turn(&host, &seed);
    }
    atomic_store(&garbage.stop, true);
    (void)pthread_join(thread, NULL);
    EXPECT(ROUNDS == 0 || (host.taken > 100 && host.broken > 100), "%d questions were taken, %d were broken",
           host.taken, host.broken);
    expect_service(&host);
    relay_free(host.relay);
    authorizer_free(host.authorizer);
    stats_writer_free(host.stats_writer);
    scoreboard_free(host.scoreboard);
    CU_ASSERT(unsetenv("PGHOST") == 0 && log_open("stderr", LOG_LEVEL_INFO, "test"));
    (void)signal(SIGUSR2, SIG_DFL);
    fake_clock_restore();
}

static void a_long_host_name_is_cut_between_characters(void)
{
    /* 81 bytes, of which each character but the first takes two */
    static const char host[] =
        "x\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274"
        "\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274"
        "\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274"
        "\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274\303\274";
    const struct config config = { .query_timeout_s = 5, .host = host };
    struct open_to_all open = { .wanted = false };
    struct scoreboard *scoreboard = new_scoreboard();
    struct relay *relay = relay_new(&config, scoreboard, &open);

    CU_ASSERT_FATAL(relay != NULL);
    EXPECT(strncmp(scoreboard->self_topic + 1, host, 79) == 0 && scoreboard->self_topic[80] == '/',
           "the topic of the heartbeats is %s", scoreboard->self_topic);
    relay_free(relay);
    scoreboard_free(scoreboard);
}

CU_TestInfo scoreboard_tests[] = {
    { "a question is copied", a_question_is_copied },
    { "invalid questions are refused", invalid_questions_are_refused },
    { "a token leaves the shared memory", a_token_leaves_the_shared_memory },
    { "workers can write only their memory", workers_can_write_only_their_memory },
    { "the manager survives garbage", the_manager_survives_garbage },
    { "a long host name is cut between characters", a_long_host_name_is_cut_between_characters },
    CU_TEST_INFO_NULL,
};
