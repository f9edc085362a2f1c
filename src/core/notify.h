/*
 * Tells systemd how a service of Type=notify is: sd_notify(3), without libsystemd. If NOTIFY_SOCKET is not
 * set, nothing is sent. One process of a service notifies, its main process. Children do not inherit the
 * variables.
 */
#ifndef PGPOLL_NOTIFY_H
#define PGPOLL_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Reads NOTIFY_SOCKET and WATCHDOG_USEC, and removes them from the environment. Call it before anything else
 * of this module.
 */
void notify_init(void);

/* Puts the variables back, for a program that this process is about to execute in its own place. */
void notify_restore(void);

/* Whether a service manager has asked for messages: NOTIFY_SOCKET was set. */
bool notify_is_wanted(void);

/*
 * Sends a message, whose lines are documented in sd_notify(3), such as "READY=1". Does not block. Returns
 * false if the message was not taken; then send it again later. Returns true if NOTIFY_SOCKET was not set.
 */
bool notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Returns how often "WATCHDOG=1" must be sent, with a margin: a number of ms, or 0 for never. */
int64_t notify_watchdog_ms(void);

#endif
