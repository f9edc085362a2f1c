/*
 * The program's log: one line an event, to stderr, syslog or a file. Opened once by main; a process that never opens it
 * logs to stderr. Never given payloads, request bodies or credentials.
 */
#ifndef PGPOLL_LOG_H
#define PGPOLL_LOG_H

#include "log_level.h"

#include <stdbool.h>

/*
 * Sends the log to "stderr", "syslog" or the file with this absolute path (appended to, created 0640).
 * level: what matters less is dropped. program: borrowed for good; names the lines.
 * false: the file cannot be opened, errno says why, and the log goes where it went before.
 */
bool log_open(const char *destination, enum log_level level, const char *program);

/* Whether a line of this level would be written; lets a caller skip costly arguments. */
bool log_enabled(enum log_level level);

/* Writes one line; the time, the process id and the level are put before it. Longer than 2,000 bytes: cut. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
