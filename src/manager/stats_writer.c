#include "manager/stats_writer.h"

#include "core/clock.h"
#include "core/config.h"
#include "core/json_build.h"
#include "core/log.h"
#include "core/wait.h"
#include "postgres/calls.h"
#include "postgres/database.h"
#include "postgres/query_batch.h"
#include "shared/scoreboard.h"
#include "shared/stats_report.h"
#include "shared/topic_table.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHANGES_CHECK_MS = 250, /* time between two looks for changes, while workers change something */
    WRITE_MS = 1000,        /* shortest time between two writes, unless the first one left something out */
    REPORT_TOPICS = 2000, /* a write lists no further poll if those that it has listed have so many topics */
    /*
     * time between two heartbeats; pgpoll.live_waiters ignores hosts that sent none for three times as long
     */
    HEARTBEAT_MS = 5000,
    SWEEP_MS = 60 * 1000, /* time between two calls of pgpoll.sweep_waiters() */
    /* timeout of the last write, in stats_writer_finish(); the deadline of its caller may be earlier */
    LAST_WRITE_MS = 1000,
    NEAR_MS = 24 * 60 * 60 * 1000 /* times written to the database differ from now by at most this */
};

/* What was written to pgpoll.waiters about a worker's poll. */
struct entry {
    int pid; /* process id of the worker; 0: the worker has no row */
    /*
     * These two identify the wait that the row is about. One would do, but a broken worker may have
     * overwritten it.
     */
    uint32_t wait_id;
    int64_t since_ms;
};

struct stats_writer {
    const struct config *config;
    struct scoreboard *scoreboard;
    struct database *database;
    struct entry *entries; /* by worker */
    struct stats_gauges gauges;
    struct stats_report report; /* a statement of the batch borrows its text */
    struct query_batch batch;
    int next_worker;         /* the first worker at which the next look looks */
    bool left_out;           /* the current batch lists not all polls that have begun or ended */
    bool sends_heartbeat;    /* whether the current batch sends a heartbeat */
    enum error logged_error; /* the last error that was logged; it is not logged again while it lasts */
    uint64_t polls;          /* how many polls had begun at the last look */
    int64_t active_ms;       /* time of the last look that found a poll */
    int64_t look_ms, write_ms, sweep_ms;
    /* when the next heartbeat is due; INT64_MAX: none is due, because the manager is quiet */
    int64_t heartbeat_ms;
};

struct stats_writer *stats_writer_new(const struct config *config, struct scoreboard *scoreboard)
{
    struct stats_writer *writer = calloc(1, sizeof *writer);

    if (!writer)
        return NULL;
    writer->config = config;
    writer->scoreboard = scoreboard;
    writer->active_ms = clock_monotonic_ms();
    writer->database = database_new(config->query_timeout_s * 1000);
    writer->entries = calloc((size_t)scoreboard->worker_count, sizeof *writer->entries);
    if (!writer->database || !writer->entries) {
        stats_writer_free(writer);
        return NULL;
    }
    /*
     * A crash may lose what was committed last. That does no harm: the tables are unlogged, and another
     * heartbeat follows.
     */
    database_set_asynchronous_commit(writer->database);
    return writer;
}

static void end_batch(struct stats_writer *writer)
{
    query_batch_end(&writer->batch);
    stats_report_release(&writer->report);
}

void stats_writer_free(struct stats_writer *writer)
{
    if (!writer)
        return;
    database_free(writer->database);
    end_batch(writer);
    free(writer->entries);
    free(writer);
}

struct pollfd stats_writer_pollfd(const struct stats_writer *writer)
{
    return database_pollfd(writer->database);
}

int64_t stats_writer_due_ms(const struct stats_writer *writer)
{
    if (writer->batch.running)
        return query_batch_due_ms(&writer->batch);
    return atomic_load(&writer->scoreboard->workers->stats_writer_sleeps) ? writer->heartbeat_ms
                                                                          : writer->look_ms;
}

/* ---- finding what has changed */

/* Returns a new array of the names of the poll's topics, or NULL if out of memory. */
static struct json_object *topics_of(const struct stats_writer *writer, const struct slot *slot)
{
    const int count = scoreboard_topic_count(writer->scoreboard, slot);
    struct json_object *topics = json_object_new_array();
    char name[TOPIC_TABLE_NAME_SIZE];
    bool made = topics;

    for (int i = 0; made && i < count; i++) {
        int topic = scoreboard_topic(writer->scoreboard, slot, i);

        if (topic >= 0 && topic_table_name(writer->scoreboard->topics, topic, name) > 0)
            made = json_build_add_item(topics, json_object_new_string(name));
    }
    if (made)
        return topics;
    json_object_put(topics);
    return NULL;
}

/*
 * Limits a time that was read from a slot to a day before or after now, because a broken worker may have
 * written any value.
 */
static int64_t near(int64_t ms, int64_t now_ms)
{
    return clock_max(now_ms - NEAR_MS, clock_min(ms, now_ms + NEAR_MS));
}

/* Adds the worker's poll to the report. Adds the number of its topics to *topics. */
static bool add_began(struct stats_writer *writer, int worker, int64_t now_ms, int *topics)
{
    const struct slot *slot = scoreboard_slot(writer->scoreboard, worker);
    const int64_t since_ms = near(atomic_load(&slot->since_ms), now_ms);
    const int64_t deadline_ms = near(atomic_load(&slot->deadline_ms), now_ms);
    /* copies with a NUL at their end, which a broken worker's texts may lack */
    char client[sizeof slot->client + 1] = "", user[sizeof slot->client_user + 1] = "";

    *topics += scoreboard_topic_count(writer->scoreboard, slot);
    memcpy(client, slot->client, sizeof slot->client);
    memcpy(user, slot->client_user, sizeof slot->client_user);
    return stats_report_add_began(&writer->report, scoreboard_pid(writer->scoreboard, worker),
                                  topics_of(writer, slot), client, user, now_ms - since_ms,
                                  deadline_ms - now_ms);
}

/*
 * Adds the worker's poll to the report if it has begun or stopped waiting since the last write, and notes it
 * as written. Adds the number of its topics to *topics. Returns false if memory ran out.
 */
static bool list_poll(struct stats_writer *writer, int worker, int64_t now_ms, int *topics)
{
    const struct slot *slot = scoreboard_slot(writer->scoreboard, worker);
    struct entry *entry = &writer->entries[worker];
    const struct entry now = { scoreboard_pid(writer->scoreboard, worker), atomic_load(&slot->wait_id),
                               atomic_load(&slot->since_ms) };
    const bool waits = atomic_load(&slot->state) == SLOT_WAITING;
    bool made = true;

    if (entry->pid && (!waits || entry->pid != now.pid)) {
        made = stats_report_add_ended(&writer->report, entry->pid);
        entry->pid = 0;
    }
    if (made && waits && (!entry->pid || entry->wait_id != now.wait_id || entry->since_ms != now.since_ms)) {
        made = add_began(writer, worker, now_ms, topics);
        *entry = now;
    }
    return made;
}

/*
 * Adds the polls that have begun or stopped waiting since the last write to the report. Stops when these have
 * REPORT_TOPICS topics, so that messages do not wait for long while the report is made; the next report goes
 * on from there. *any: whether there are such polls. Returns false if memory ran out; then the report is
 * empty, but the polls that it had listed are noted as written.
 */
static bool list_polls(struct stats_writer *writer, int64_t now_ms, bool *any)
{
    const int count = writer->scoreboard->worker_count;
    bool made = true;
    int left = count, topics = 0;

    for (; made && left > 0 && topics < REPORT_TOPICS; left--) {
        made = list_poll(writer, writer->next_worker, now_ms, &topics);
        writer->next_worker = (writer->next_worker + 1) % count;
    }
    writer->left_out = left > 0;
    *any = writer->report.began || writer->report.ended;
    return made;
}

static bool any_poll_waits(const struct stats_writer *writer)
{
    for (int i = 0; i < writer->scoreboard->worker_count; i++)
        if (writer->entries[i].pid)
            return true;
    return false;
}

/*
 * Finds out whether the manager is quiet: there was no poll for PGPOLL_IDLE_S, and LISTEN works. If it is,
 * the next report says so, and no other one follows until a poll begins, which sets the latch.
 */
static void check_quiet(struct stats_writer *writer, int64_t now_ms)
{
    struct scoreboard *scoreboard = writer->scoreboard;
    const uint64_t polls = atomic_load(&scoreboard->workers->polls);
    const bool was_quiet = atomic_load(&scoreboard->is_quiet);

    if (polls != writer->polls || any_poll_waits(writer))
        writer->active_ms = now_ms;
    writer->polls = polls;
    /* If LISTEN does not work, reports must go on, because only they show that this manager is alive. */
    atomic_store(&scoreboard->is_quiet, now_ms - writer->active_ms >= writer->config->idle_s * 1000 &&
                                            atomic_load(&scoreboard->listen_works));
    if (atomic_load(&scoreboard->is_quiet)) {
        writer->heartbeat_ms = INT64_MAX;
    } else if (was_quiet) {
        writer->heartbeat_ms = now_ms;
        atomic_store(&scoreboard->heartbeats_since_ms, now_ms);
    }
}

/* Reads the gauges and notes them as written. Returns whether they have changed since the last write. */
static bool read_gauges(struct stats_writer *writer)
{
    struct stats_gauges now = { 0, scoreboard_idle(writer->scoreboard),
                                atomic_load(&writer->scoreboard->listen_works),
                                atomic_load(&writer->scoreboard->is_quiet) };
    const struct stats_gauges before = writer->gauges;

    for (int i = 0; i < writer->scoreboard->worker_count; i++)
        now.workers += scoreboard_pid(writer->scoreboard, i) != 0;
    writer->gauges = now;
    return now.workers != before.workers || now.idle != before.idle ||
           now.listen_works != before.listen_works || now.is_quiet != before.is_quiet;
}

static bool take_counts(struct stats_writer *writer)
{
    const uint64_t lost = log_take_lost();
    bool any;

    if (lost > 0)
        counters_add(&writer->scoreboard->counters, COUNTER_LOG_LINES_LOST, lost);
    any = counters_take(&writer->report.counters, &writer->scoreboard->counters);

    for (int i = 0; i < writer->scoreboard->worker_count; i++)
        any =
            counters_take(&writer->report.counters, &scoreboard_slot(writer->scoreboard, i)->counters) || any;
    return any || atomic_load(&writer->report.counters.fresh);
}

/* ---- writing what has changed */

/*
 * Forgets what was written, so that everything is written again: the tables have no rows of this manager, or
 * outdated ones.
 */
static void forget_rows(struct stats_writer *writer)
{
    for (int i = 0; i < writer->scoreboard->worker_count; i++)
        writer->entries[i].pid = 0;
    writer->gauges = (struct stats_gauges){ 0 };
    writer->report.counters_began = false;
}

static void fail(struct stats_writer *writer, enum error error)
{
    if (writer->logged_error != error)
        log_write(LOG_LEVEL_WARNING, "cannot write statistics, retrying: %s: %s", error_name(error),
                  database_error(writer->database));
    writer->logged_error = error;
    /* Rows belong to a session, so the next session writes all of them again. */
    database_close(writer->database, NULL);
    forget_rows(writer);
    writer->heartbeat_ms = 0;
    atomic_store(&writer->scoreboard->workers->stats_writer_sleeps, 0);
}

/*
 * Takes the results of a batch. If the database is read-only, nothing was written, and the counters are kept
 * for a later write. Otherwise they are cleared, and only here: if the result of a write is lost, its counts
 * are written once more, because counting twice is better than losing them.
 */
static void succeed(struct stats_writer *writer)
{
    /* The statement of add_report() is the last of the batch. */
    const PGresult *written = writer->batch.results[writer->batch.count - 1];

    writer->logged_error = ERROR_NONE;
    if (writer->sends_heartbeat)
        atomic_store(&writer->scoreboard->heartbeat_ms, writer->batch.started_ms);
    if (!database_is_true(written)) {
        forget_rows(writer);
        writer->write_ms = writer->batch.started_ms + HEARTBEAT_MS;
        return;
    }
    if (writer->left_out) {
        writer->look_ms = writer->write_ms = 0;
        atomic_store(&writer->scoreboard->workers->stats_writer_sleeps, 0);
    }
    writer->scoreboard->statistics_ms = clock_monotonic_ms();
    stats_report_written(&writer->report);
}

static bool add_report(struct stats_writer *writer, bool ends)
{
    const char *report = stats_report_finish(&writer->report, &writer->gauges, ends);

    if (report)
        call_write_statistics(query_batch_add(&writer->batch), writer->config->host, report);
    return report;
}

/*
 * Adds a heartbeat, a NOTIFY that the relay's connection must receive. The relay could not send it to itself,
 * because that may succeed although LISTEN does not work: a pooler in transaction mode drops notifications
 * for a client that LISTENs, but delivers them to a client that happens to NOTIFY at that time.
 */
static void add_heartbeat(struct stats_writer *writer, int64_t now_ms)
{
    call_notify_topic(query_batch_add(&writer->batch), writer->scoreboard->self_topic);
    writer->heartbeat_ms = now_ms + HEARTBEAT_MS;
}

static void begin(struct stats_writer *writer, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;

    writer->write_ms = now_ms + WRITE_MS;
    if (now_ms >= writer->sweep_ms) {
        call_sweep_waiters(query_batch_add(&writer->batch));
        writer->sweep_ms = now_ms + SWEEP_MS;
    }
    if (writer->sends_heartbeat)
        add_heartbeat(writer, now_ms);
    if (add_report(writer, false))
        error = query_batch_begin(&writer->batch, writer->database, now_ms,
                                  writer->config->query_timeout_s * 1000);
    if (error != ERROR_PENDING)
        fail(writer, error);
}

static void look(struct stats_writer *writer, int64_t now_ms)
{
    bool made, polls, gauges, counts;

    writer->look_ms = now_ms + CHANGES_CHECK_MS;
    if (now_ms < writer->write_ms)
        return;
    /*
     * Set the flag before looking. A worker that changes something after the look finds it set, and then sets
     * the latch.
     */
    atomic_store(&writer->scoreboard->workers->stats_writer_sleeps, 1);
    made = list_polls(writer, now_ms, &polls);
    check_quiet(writer, now_ms);
    gauges = read_gauges(writer);
    counts = take_counts(writer);
    writer->sends_heartbeat =
        atomic_exchange(&writer->scoreboard->heartbeat_wanted, 0) || now_ms >= writer->heartbeat_ms;
    if (!made)
        fail(writer, ERROR_MEMORY);
    else if (polls || gauges || counts || writer->sends_heartbeat)
        begin(writer, now_ms);
    if (!writer->batch.running)
        end_batch(writer);
}

/*
 * Waits for the end of the current batch. Returns its outcome, or ERROR_PENDING if it did not end by
 * deadline_ms.
 */
static enum error wait_end(struct stats_writer *writer, int64_t deadline_ms)
{
    enum error error = ERROR_PENDING;

    while (writer->batch.running && error == ERROR_PENDING) {
        const struct pollfd fd = database_pollfd(writer->database);

        if (!wait_for_fd(fd.fd, fd.events, deadline_ms))
            return ERROR_PENDING;
        error = query_batch_step(&writer->batch, true, clock_monotonic_ms());
    }
    return error;
}

void stats_writer_finish(struct stats_writer *writer, int64_t deadline_ms)
{
    enum error error = ERROR_NONE;

    if (writer->batch.running) {
        error = wait_end(writer, deadline_ms);
        if (!error)
            succeed(writer);
        end_batch(writer);
    }
    if (error || !database_is_connected(writer->database))
        return;
    (void)take_counts(writer);
    (void)read_gauges(writer);
    if (add_report(writer, true) && query_batch_begin(&writer->batch, writer->database, clock_monotonic_ms(),
                                                      LAST_WRITE_MS) == ERROR_PENDING)
        (void)wait_end(writer, deadline_ms);
    end_batch(writer);
}

void stats_writer_step(struct stats_writer *writer, bool ready)
{
    int64_t now_ms = clock_monotonic_ms();
    enum error error = query_batch_step(&writer->batch, ready, now_ms);

    if (error != ERROR_PENDING) {
        if (error)
            fail(writer, error);
        else
            succeed(writer);
        end_batch(writer);
    } else if (!writer->batch.running && ready && database_consume(writer->database) != ERROR_NONE) {
        fail(writer, ERROR_DATABASE_AWAY);
    }
    if (!writer->batch.running && now_ms >= stats_writer_due_ms(writer))
        look(writer, now_ms);
}
