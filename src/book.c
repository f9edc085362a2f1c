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
#include <unistd.h>

enum { LOOK_MS = 250, WRITE_MS = 1000, SWEEP_MS = 60 * 1000, SWEEP = 0, WRITE = 1, STATEMENTS = 2 };

/* What stands in the table for a worker. */
struct entry {
    int pid;              /* 0: nothing */
    uint32_t wait_number; /* of the poll */
};

struct book {
    const struct config *config;
    struct hive *hive;
    struct database *database;
    struct entry *entries; /* by worker */
    struct statement statements[STATEMENTS];
    PGresult *results[STATEMENTS];
    struct json_object *began, *ended; /* what the statements borrow */
    bool running;
    enum error away; /* why, as far as it was logged */
    int64_t started_ms, look_ms, write_ms, sweep_ms;
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
    book->began = book->ended = NULL;
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

void book_abandon(const struct book *book)
{
    if (database_socket(book->database) >= 0)
        (void)close(database_socket(book->database));
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
    return atomic_load(&book->hive->book_sleeps) ? book->sweep_ms : book->look_ms;
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

/* Lists what the table does not have yet, and takes it for written; false: nothing, or no memory. */
static bool list_changes(struct book *book, int64_t now_ms)
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
    atomic_store(&book->hive->book_sleeps, 0);
}

static void begin(struct book *book, int64_t now_ms)
{
    struct statement *write = &book->statements[WRITE];
    enum error error = ERROR_MEMORY;

    book->write_ms = now_ms + WRITE_MS;
    book->started_ms = now_ms;
    book->running = true;
    statement_init(&book->statements[SWEEP], "SELECT CASE WHEN $1 > 0 THEN pgpoll.sweep_waiters() END");
    if (!statement_add_int4(&book->statements[SWEEP], now_ms >= book->sweep_ms))
        goto out;
    if (now_ms >= book->sweep_ms)
        book->sweep_ms = now_ms + SWEEP_MS;
    statement_init(write, "SELECT pgpoll.write_waiters($1, $2::json, $3::json)");
    statement_add_text(write, book->config->host);
    statement_add_text(write, json_object_to_json_string_ext(book->began, JSON_C_TO_STRING_PLAIN));
    statement_add_text(write, json_object_to_json_string_ext(book->ended, JSON_C_TO_STRING_PLAIN));
    error = database_begin(book->database, book->statements, STATEMENTS, book->results);
out:
    if (error != ERROR_PENDING) {
        fail(book, error);
        end_exchange(book);
    }
}

static void look(struct book *book, int64_t now_ms)
{
    book->look_ms = now_ms + LOOK_MS;
    if (now_ms < book->write_ms)
        return;
    atomic_store(&book->hive->book_sleeps, 1); /* before the look: a change that it misses rings */
    if (list_changes(book, now_ms) || now_ms >= book->sweep_ms)
        begin(book, now_ms);
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
            book->away = ERROR_NONE;
        end_exchange(book);
    } else if (!book->running && ready && database_consume(book->database) != ERROR_NONE) {
        fail(book, ERROR_DATABASE_AWAY);
    }
    if (!book->running && now_ms >= book_due_ms(book))
        look(book, now_ms);
}
