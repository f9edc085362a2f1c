#include "book.h"

#include "clock.h"
#include "config.h"
#include "database.h"
#include "hive.h"
#include "log.h"
#include "statement.h"
#include "topic_table.h"

#include <json-c/json.h>
#include <stdlib.h>

enum {
    LOOK_MS = 250,
    WRITE_MS = 1000,
    BEAT_MS = 5000, /* what is not seen for three times as long counts no more (pgpoll.live_listeners) */
    SWEEP_MS = 60 * 1000,
    STATEMENTS = 4
};

/* What stands in the table for a worker. */
struct entry {
    int pid;              /* 0: nothing */
    uint32_t wait_number; /* of the poll */
};

/* What stands in pgpoll.listeners. */
struct gauges {
    int workers, idle;
    bool hears;
};

struct book {
    const struct config *config;
    struct hive *hive;
    struct database *database;
    struct entry *entries; /* by worker */
    struct gauges gauges;
    struct tally tally; /* what was counted and is not yet written down */
    bool tally_began;   /* everything that is counted has a row */
    struct statement statements[STATEMENTS];
    PGresult *results[STATEMENTS];
    int count;
    struct json_object *began, *ended, *counts; /* what the statements borrow */
    bool running, beats;
    enum error away; /* why, as far as it was logged */
    int64_t started_ms, look_ms, write_ms, beat_ms, sweep_ms;
};

struct book *book_new(const struct config *config, struct hive *hive)
{
    struct book *book = calloc(1, sizeof *book);

    if (!book)
        return NULL;
    book->config = config;
    book->hive = hive;
    book->database = database_new();
    book->entries = calloc((size_t)hive->worker_count, sizeof *book->entries);
    if (!book->database || !book->entries) {
        book_free(book);
        return NULL;
    }
    return book;
}

static void end_exchange(struct book *book)
{
    for (int i = 0; i < STATEMENTS; i++) {
        PQclear(book->results[i]);
        book->results[i] = NULL;
        statement_release(&book->statements[i]);
    }
    json_object_put(book->began);
    json_object_put(book->ended);
    json_object_put(book->counts);
    book->began = book->ended = book->counts = NULL;
    book->count = 0;
    book->running = false;
}

void book_free(struct book *book)
{
    if (!book)
        return;
    database_free(book->database);
    end_exchange(book);
    free(book->entries);
    free(book);
}

int book_socket(const struct book *book)
{
    return database_socket(book->database);
}

short book_events(const struct book *book)
{
    return database_events(book->database);
}

int64_t book_due_ms(const struct book *book)
{
    if (book->running)
        return book->started_ms + book->config->query_timeout_s * 1000;
    return atomic_load(&book->hive->book_sleeps) ? book->beat_ms : book->look_ms;
}

/* ---- what changed */

static bool take(struct json_object *object, const char *key, struct json_object *value)
{
    if (value && json_object_object_add(object, key, value) == 0)
        return true;
    json_object_put(value);
    return false;
}

static struct json_object *topics_of(const struct book *book, const struct cell *cell)
{
    struct json_object *topics = json_object_new_array();

    for (int i = 0; topics && i < atomic_load(&cell->topic_count); i++) {
        const char *name = topic_table_name(book->hive->topics, atomic_load(&cell->topics[i].number));

        if (name)
            (void)json_object_array_add(topics, json_object_new_string(name));
    }
    return topics;
}

static bool add_began(struct book *book, const struct cell *cell, int64_t now_ms)
{
    struct json_object *row = json_object_new_object();

    return row && json_object_array_add(book->began, row) == 0 &&
           take(row, "pid", json_object_new_int(atomic_load(&cell->pid))) &&
           take(row, "topics", topics_of(book, cell)) && take(row, "client", json_object_new_string(cell->client)) &&
           take(row, "waited_ms", json_object_new_int64(now_ms - atomic_load(&cell->since_ms))) &&
           take(row, "left_ms", json_object_new_int64(atomic_load(&cell->deadline_ms) - now_ms));
}

/* Lists the polls that the table does not have yet, and takes them for written; false: none, or no memory. */
static bool list_polls(struct book *book, int64_t now_ms)
{
    bool made = true;

    book->began = json_object_new_array();
    book->ended = json_object_new_array();
    if (!book->began || !book->ended)
        return false;
    for (int i = 0; made && i < book->hive->worker_count; i++) {
        const struct cell *cell = hive_cell(book->hive, i);
        struct entry *entry = &book->entries[i];
        const struct entry now = { atomic_load(&cell->pid), atomic_load(&cell->wait_number) };
        const bool waits = atomic_load(&cell->state) == CELL_WAITING;

        if (entry->pid && (!waits || entry->pid != now.pid)) {
            made = json_object_array_add(book->ended, json_object_new_int(entry->pid)) == 0;
            entry->pid = 0;
        }
        if (made && waits && (!entry->pid || entry->wait_number != now.wait_number)) {
            made = add_began(book, cell, now_ms);
            *entry = now;
        }
    }
    return made && (json_object_array_length(book->began) > 0 || json_object_array_length(book->ended) > 0);
}

/* Whether the gauges are others than those in the table, and takes them for written. */
static bool read_gauges(struct book *book)
{
    struct gauges now = { 0, atomic_load(&book->hive->idle), atomic_load(&book->hive->hears) };
    const struct gauges before = book->gauges;

    for (int i = 0; i < book->hive->worker_count; i++)
        now.workers += atomic_load(&hive_cell(book->hive, i)->pid) != 0;
    book->gauges = now;
    return now.workers != before.workers || now.idle != before.idle || now.hears != before.hears;
}

static bool take_counts(struct book *book)
{
    bool any = tally_take(&book->tally, &book->hive->tally);

    for (int i = 0; i < book->hive->worker_count; i++)
        any = tally_take(&book->tally, &hive_cell(book->hive, i)->tally) || any;
    return any || atomic_load(&book->tally.fresh);
}

/* ---- writing it down */

static void fail(struct book *book, enum error error)
{
    if (book->away != error)
        log_write(LOG_LEVEL_WARNING, "statistics are not written: %s: %s", error_name(error),
                  database_error(book->database));
    book->away = error;
    /* Rows count by their connection, so a new one writes them all anew. */
    database_close(book->database, NULL);
    for (int i = 0; i < book->hive->worker_count; i++)
        book->entries[i].pid = 0;
    book->beat_ms = 0;
    atomic_store(&book->hive->book_sleeps, 0);
}

/* What was counted is written by now. Where that was not to be seen, it may be counted twice, rather than not at all. */
static void succeed(struct book *book)
{
    book->away = ERROR_NONE;
    book->tally_began = true;
    tally_clear(&book->tally);
    if (book->beats)
        atomic_store(&book->hive->sent_ms, book->started_ms);
}

static struct statement *add_statement(struct book *book, const char *sql)
{
    struct statement *statement = &book->statements[book->count++];

    statement_init(statement, sql);
    return statement;
}

static void add_polls(struct book *book)
{
    struct statement *write = add_statement(book, "SELECT pgpoll.write_waiters($1, $2::json, $3::json)");

    statement_add_text(write, book->config->host);
    statement_add_text(write, json_object_to_json_string_ext(book->began, JSON_C_TO_STRING_PLAIN));
    statement_add_text(write, json_object_to_json_string_ext(book->ended, JSON_C_TO_STRING_PLAIN));
}

static bool add_listener(struct book *book)
{
    struct statement *write = add_statement(book, "SELECT pgpoll.write_listener($1, $2, $3, $4, $5 > 0, $6::json)");

    book->counts = tally_json(&book->tally, !book->tally_began);
    statement_add_text(write, book->config->host);
    if (!book->counts || !statement_add_int4(write, (int32_t)getpid()) ||
        !statement_add_int4(write, book->gauges.workers) || !statement_add_int4(write, book->gauges.idle) ||
        !statement_add_int4(write, book->gauges.hears))
        return false;
    statement_add_text(write, json_object_to_json_string_ext(book->counts, JSON_C_TO_STRING_PLAIN));
    return true;
}

/*
 * The feeder's connection is to hear this. It could not send it to itself: what a transaction-mode pooler takes away from a
 * connection that LISTENs, it brings to the one that happens to NOTIFY.
 */
static void add_beat(struct book *book, int64_t now_ms)
{
    struct statement *beat = add_statement(book, "SELECT pg_notify('pgpoll_' || md5($1), '')");

    statement_add_text(beat, book->hive->self_topic);
    book->beat_ms = now_ms + BEAT_MS;
}

static void add_sweep(struct book *book, int64_t now_ms)
{
    (void)add_statement(book, "SELECT pgpoll.sweep_waiters()");
    book->sweep_ms = now_ms + SWEEP_MS;
}

static void begin(struct book *book, bool polls, int64_t now_ms)
{
    enum error error = ERROR_MEMORY;

    book->write_ms = now_ms + WRITE_MS;
    book->started_ms = now_ms;
    book->running = true;
    if (now_ms >= book->sweep_ms)
        add_sweep(book, now_ms);
    if (polls)
        add_polls(book);
    if (book->beats)
        add_beat(book, now_ms);
    if (add_listener(book))
        error = database_begin(book->database, book->statements, book->count, book->results);
    if (error != ERROR_PENDING) {
        fail(book, error);
        end_exchange(book);
    }
}

static void look(struct book *book, int64_t now_ms)
{
    bool polls, gauges, counts;

    book->look_ms = now_ms + LOOK_MS;
    if (now_ms < book->write_ms)
        return;
    atomic_store(&book->hive->book_sleeps, 1); /* before the look: a change that it misses rings */
    polls = list_polls(book, now_ms);
    gauges = read_gauges(book);
    counts = take_counts(book);
    book->beats = atomic_exchange(&book->hive->beat_wanted, 0) || now_ms >= book->beat_ms;
    if (polls || gauges || counts || book->beats)
        begin(book, polls, now_ms);
    else
        end_exchange(book);
}

void book_step(struct book *book, bool ready)
{
    int64_t now_ms = clock_monotonic_ms();
    enum error error = ERROR_PENDING;

    if (book->running && ready)
        error = database_step(book->database);
    if (book->running && error == ERROR_PENDING && now_ms >= book_due_ms(book)) {
        database_close(book->database, "no answer in time");
        error = ERROR_DATABASE_AWAY;
    }
    if (book->running && error != ERROR_PENDING) {
        if (error)
            fail(book, error);
        else
            succeed(book);
        end_exchange(book);
    } else if (!book->running && ready && database_consume(book->database) != ERROR_NONE) {
        fail(book, ERROR_DATABASE_AWAY);
    }
    if (!book->running && now_ms >= book_due_ms(book))
        look(book, now_ms);
}
