/*
 * The program's log: one line an event, to stderr, syslog or a file. Opened once by main; a process that never opens it
 * logs to stderr. Never given payloads, request bodies or credentials.
 *
 * Writing never blocks. A line that a pipe, a socket or a terminal does not take at once, because nobody reads it, is lost. The log
 * says how many were lost as soon as it takes lines again.
 */
#ifndef PGPOLL_LOG_H
#define PGPOLL_LOG_H

#include "core/log_level.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Sends the log to "stderr", "syslog" or the file with this absolute path (appended to, created 0640; or a named pipe).
 * level: what matters less is dropped. program: borrowed for good; names the lines.
 * false: the file cannot be opened, errno says why, and the log goes where it went before.
 */
bool log_open(const char *destination, enum log_level level, const char *program);

/* Whether a line of this level would be written; lets a caller skip costly arguments. */
bool log_enabled(enum log_level level);

/* Writes one line; the time, the process id and the level are put before it. Longer than 2,000 bytes: cut. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Reports lost lines now, if there are any and the log takes lines again; otherwise the next log_write() does. */
void log_report_lost(void);

/* How many lines this process lost since the last call. */
uint64_t log_take_lost(void);

#endif
