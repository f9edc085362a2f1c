/*
 * Writes the log: one line per event, to stderr, syslog or a file. main opens the log once; a process that
 * never opens it logs to stderr. Callers never pass payloads, request bodies or credentials.
 *
 * Writing never blocks. If a pipe, socket or terminal is full because nobody reads it, the line is lost. When
 * lines can be written again, the log says how many were lost.
 */
#ifndef PGPOLL_LOG_H
#define PGPOLL_LOG_H

#include "core/log_level.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Directs the log to "stderr", "syslog" or a file or named pipe, given by its absolute path; a file is
 * appended to, and created with mode 0640. Lines of a lower severity than level are dropped. program is the
 * name that each line shows; it is borrowed for the life of the process. Returns false if the file cannot be
 * opened; then errno says why, and the log keeps its previous destination.
 */
bool log_open(const char *destination, enum log_level level, const char *program);

/* Whether lines of this level are written. Lets a caller skip costly arguments. */
bool log_enabled(enum log_level level);

/*
 * Writes one line, preceded by the time, the program, the process id and the level. Control characters become
 * blanks. Texts of more than 2,047 bytes are cut.
 */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Tries to log how many lines were lost, if any were. If that fails, the next log_write() tries again. */
void log_report_lost(void);

/* Returns how many lines this process has lost since the last call. */
uint64_t log_take_lost(void);

#endif
