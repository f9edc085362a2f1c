/* The severity of a log line. The values equal those of syslog(3), so that no translation is needed. */
#ifndef PGPOLL_LOG_LEVEL_H
#define PGPOLL_LOG_LEVEL_H

#include <syslog.h>

enum log_level {
    LOG_LEVEL_ERROR = LOG_ERR,
    LOG_LEVEL_WARNING = LOG_WARNING,
    LOG_LEVEL_INFO = LOG_INFO,
    LOG_LEVEL_DEBUG = LOG_DEBUG
};

#endif
