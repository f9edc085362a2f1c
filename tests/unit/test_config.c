#include "core/config.h"

#include "expect.h"
#include "suites.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {
    "PGPOLL_WORKERS",          "PGPOLL_WINDOW_BYTES",   "PGPOLL_CONNECTIONS",
    "PGPOLL_CATCH_UP_SERVICE", "PGPOLL_MAX_TOPICS",     "PGPOLL_MAX_POLLS_PER_CLIENT",
    "PGPOLL_PAGE_BYTES",       "PGPOLL_REREAD_S",       "PGPOLL_IDLE_S",
    "PGPOLL_QUERY_TIMEOUT_S",  "PGPOLL_PEER_TIMEOUT_S", "PGPOLL_HEARTBEAT_S",
    "PGPOLL_CORS_ORIGIN",      "PGPOLL_HOST",           "PGPOLL_LOG",
    "PGPOLL_LOG_LEVEL"
};

/* Sets one setting (none if name is ""), unsets all others, and loads the configuration. */
static bool load(const char *name, const char *value, struct config *config, char *error, size_t size)
{
    for (size_t i = 0; i < COUNT(names); i++)
        (void)unsetenv(names[i]);
    if (*name)
        (void)setenv(name, value, 1);
    return config_load(config, error, size);
}

static void the_defaults_are_as_documented(void)
{
    struct config config;
    char error[200], host[256] = "";

    (void)gethostname(host, sizeof host - 1);
    if (!EXPECT(load("", "", &config, error, sizeof error), "%s", error))
        return;
    EXPECT(config.max_topics == 50, "max_topics");
    EXPECT(config.page_bytes == 1024 * 1024, "page_bytes");
    EXPECT(config.max_polls_per_client == 0, "no limit");
    EXPECT(config.heartbeat_s == 0, "no heartbeat");
    EXPECT(config.reread_s > 0 && config.query_timeout_s > 0,
           "lost notifications and connections are noticed");
    EXPECT_TEXT(config.cors_origin, "");
    EXPECT_TEXT(config.host, host);
    EXPECT_TEXT(config.log, "stderr");
    EXPECT(config.log_level == LOG_LEVEL_INFO, "log_level");
}

static void accepts_valid_values(void)
{
    static const struct {
        const char *name, *value;
    } rows[] = {
        { "PGPOLL_MAX_TOPICS", "1" },
        { "PGPOLL_MAX_TOPICS", "1000" },
        { "PGPOLL_MAX_POLLS_PER_CLIENT", "1" },
        { "PGPOLL_HEARTBEAT_S", "0" },
        { "PGPOLL_HEARTBEAT_S", "60" },
        { "PGPOLL_LOG", "syslog" },
        { "PGPOLL_LOG", "/var/log/pgpoll.log" },
        { "PGPOLL_LOG_LEVEL", "debug" },
        { "PGPOLL_LOG_LEVEL", "error" },
        { "PGPOLL_CORS_ORIGIN", "https://example.org" },
        { "PGPOLL_CORS_ORIGIN", "https://a, https://b" },
        { "PGPOLL_CORS_ORIGIN", "*" },
        { "PGPOLL_CORS_ORIGIN", "" },
        { "PGPOLL_MAX_TOPICS", "" },
        { "PGPOLL_HOST", "web1" },
    };
    struct config config;
    char error[200];

    for (size_t i = 0; i < COUNT(rows); i++)
        EXPECT(load(rows[i].name, rows[i].value, &config, error, sizeof error), "%s=%s: %s", rows[i].name,
               rows[i].value, error);
    EXPECT_TEXT(config.host, "web1");
}

static void an_invalid_value_is_an_error_that_names_it(void)
{
    static const struct {
        const char *name, *value;
    } rows[] = {
        { "PGPOLL_MAX_TOPICS", "0" },
        { "PGPOLL_MAX_TOPICS", "1001" },
        { "PGPOLL_MAX_TOPICS", "-1" },
        { "PGPOLL_MAX_TOPICS", "fifty" },
        { "PGPOLL_MAX_TOPICS", "50x" },
        { "PGPOLL_MAX_TOPICS", "5 0" },
        { "PGPOLL_MAX_TOPICS", "0x10" },
        { "PGPOLL_MAX_TOPICS", "1.5" },
        { "PGPOLL_PAGE_BYTES", "99999999999999999999" },
        { "PGPOLL_REREAD_S", "0" },
        { "PGPOLL_QUERY_TIMEOUT_S", "61" },
        { "PGPOLL_MAX_POLLS_PER_CLIENT", "-1" },
        { "PGPOLL_HEARTBEAT_S", "-1" },
        { "PGPOLL_PEER_TIMEOUT_S", "1" },
        { "PGPOLL_LOG", "pgpoll.log" },
        { "PGPOLL_LOG", "STDERR" },
        { "PGPOLL_LOG_LEVEL", "verbose" },
        { "PGPOLL_LOG_LEVEL", "Info" },
        { "PGPOLL_WORKERS", "20001" },
        { "PGPOLL_CORS_ORIGIN", "https://a\r\nSet-Cookie: b" },
        { "PGPOLL_CORS_ORIGIN", "https://a/" },
        { "PGPOLL_CORS_ORIGIN", "a\n" },
        { "PGPOLL_HOST", "a\n" },
        { "PGPOLL_HOST", "caf\351" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct config config, before;
        char error[300] = "";

        memset(&before, 0x5a, sizeof before);
        memcpy(&config, &before, sizeof config);
        EXPECT(!load(rows[i].name, rows[i].value, &config, error, sizeof error), "%s=%s", rows[i].name,
               rows[i].value);
        EXPECT(strstr(error, rows[i].name) && strstr(error, rows[i].value) && strstr(error, "must be"),
               "message: %s", error);
        EXPECT(memcmp(&config, &before, sizeof config) == 0, "%s: *config was touched", rows[i].name);
    }
}

static void an_error_names_the_range(void)
{
    struct config config;
    char error[200];

    EXPECT(!load("PGPOLL_WORKERS", "many", &config, error, sizeof error), "many");
    EXPECT_TEXT(error, "PGPOLL_WORKERS=many: must be a whole number from 0 to 20000");
}

static void an_unknown_name_is_refused_and_the_most_similar_one_suggested(void)
{
    static const struct {
        const char *name, *message;
    } rows[] = {
        { "PGPOLL_WORKER", "PGPOLL_WORKER is not a setting; did you mean PGPOLL_WORKERS?" },
        { "PGPOLL_WORKERSS", "PGPOLL_WORKERSS is not a setting; did you mean PGPOLL_WORKERS?" },
        { "PGPOLL_LOGLEVEL", "PGPOLL_LOGLEVEL is not a setting; did you mean PGPOLL_LOG_LEVEL?" },
        { "PGPOLL_MAX_TOPIC", "PGPOLL_MAX_TOPIC is not a setting; did you mean PGPOLL_MAX_TOPICS?" },
        { "PGPOLL_CORS_ORIGINS", "PGPOLL_CORS_ORIGINS is not a setting; did you mean PGPOLL_CORS_ORIGIN?" },
        { "PGPOLL_QUERY_TIMEOUT",
          "PGPOLL_QUERY_TIMEOUT is not a setting; did you mean PGPOLL_QUERY_TIMEOUT_S?" },
        { "PGPOLL_log", "PGPOLL_log is not a setting; did you mean PGPOLL_LOG?" },
        { "PGPOLL_UNHEARD_OF_BY_ALL", "PGPOLL_UNHEARD_OF_BY_ALL is not a setting; see pgpoll.fcgi --help" },
        { "PGPOLL_", "PGPOLL_ is not a setting; see pgpoll.fcgi --help" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct config config;
        char error[200] = "";

        EXPECT(!load(rows[i].name, "1", &config, error, sizeof error), "%s", rows[i].name);
        EXPECT_TEXT(error, rows[i].message);
        EXPECT(load(rows[i].name, "", &config, error, sizeof error), "empty: %s", error);
        (void)unsetenv(rows[i].name);
    }
}

static void a_long_unknown_name_does_not_overflow_the_message(void)
{
    struct config config;
    char name[1000] = "PGPOLL_", error[60];

    memset(name + strlen(name), 'W', sizeof name - 1 - strlen(name));
    EXPECT(!load(name, "1", &config, error, sizeof error), "a thousand letters");
    EXPECT(strlen(error) < sizeof error, "the message is cut");
    (void)unsetenv(name);
}

/* Allowed are libpq's PG* variables, those that config.h lists, and names without the prefix. */
static void other_variables_are_allowed(void)
{
    static const char *const known[] = { CONFIG_OLD_WORKERS, CONFIG_PROGRAM, CONFIG_URL,
                                         "PGHOST",           "PGPOLL",       "MY_PGPOLL_X" };
    struct config config;
    char error[200];

    for (size_t i = 0; i < COUNT(known); i++) {
        EXPECT(load(known[i], "x", &config, error, sizeof error), "%s", error);
        (void)unsetenv(known[i]);
    }
}

static void a_long_value_does_not_overflow_the_message(void)
{
    struct config config;
    char value[1000], error[40];

    memset(value, '9', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    EXPECT(!load("PGPOLL_PAGE_BYTES", value, &config, error, sizeof error), "a thousand digits");
    EXPECT(strlen(error) < sizeof error, "the message is cut");
}

static void help_lists_every_setting(void)
{
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);

    if (!EXPECT(stream, "open_memstream"))
        return;
    config_print_help(stream);
    (void)fclose(stream);
    for (size_t i = 0; i < COUNT(names); i++)
        EXPECT(strstr(text, names[i]), "%s is not in\n%s", names[i], text);
    EXPECT(strstr(text, "1048576") && strstr(text, "stderr"), "defaults are not in\n%s", text);
    free(text);
}

CU_TestInfo config_tests[] = {
    { "the defaults are as documented", the_defaults_are_as_documented },
    { "accepts valid values", accepts_valid_values },
    { "an invalid value is an error that names it", an_invalid_value_is_an_error_that_names_it },
    { "an error names the range", an_error_names_the_range },
    { "an unknown name is refused, and the most similar one suggested",
      an_unknown_name_is_refused_and_the_most_similar_one_suggested },
    { "a long unknown name does not overflow the message",
      a_long_unknown_name_does_not_overflow_the_message },
    { "other variables are allowed", other_variables_are_allowed },
    { "a long value does not overflow the message", a_long_value_does_not_overflow_the_message },
    { "help lists every setting", help_lists_every_setting },
    CU_TEST_INFO_NULL,
};
