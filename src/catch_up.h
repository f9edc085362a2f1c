/*
 * Reads the feed from the table: pgpoll.catch_up() (sql/functions/catch_up.sql) as a statement, and its rows as a page.
 * The only code that knows that function's parameters and columns.
 */
#ifndef PGPOLL_CATCH_UP_H
#define PGPOLL_CATCH_UP_H

#include "error.h"
#include "page.h"

#include <libpq-fe.h>
#include <stdint.h>

struct poll_request;
struct statement;

/* A topic's position when it is to be read from now on. */
enum { CATCH_UP_FROM_NOW = -1 };

/* Makes the statement. positions: one a topic. The caller releases it, also on failure. false: out of memory. */
bool catch_up_statement(struct statement *statement, const struct poll_request *request, const int64_t *positions,
                        int64_t page_bytes);

/*
 * Fills a cleared page from the statement's result, which stays the caller's.
 * ERROR_MEMORY; ERROR_DATABASE_QUERY: not a result of that function. The page is cleared then.
 */
enum error catch_up_result(const PGresult *result, const struct poll_request *request, struct page *page);

#endif
