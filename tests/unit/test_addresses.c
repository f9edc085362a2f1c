/* Tests with names such as localhost, for which no name server is needed. */
#include "postgres/addresses.h"

#include "core/background.h"
#include "core/clock.h"
#include "suites.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* No name server is asked for this name, because it has a label of more than 63 bytes. */
#define IMPOSSIBLE "a-label-of-a-host-name-that-is-longer-than-any-such-label-may-ever-be.invalid"

static struct addresses *with(const char *host, const char *hostaddr, const char *port)
{
    struct addresses *addresses;

    CU_ASSERT(setenv("PGHOST", host, 1) == 0 && setenv("PGHOSTADDR", hostaddr, 1) == 0 &&
              setenv("PGPORT", port, 1) == 0);
    addresses = addresses_new(NULL);
    CU_ASSERT(unsetenv("PGHOST") == 0 && unsetenv("PGHOSTADDR") == 0 && unsetenv("PGPORT") == 0);
    CU_ASSERT_FATAL(addresses != NULL);
    return addresses;
}

static void only_names_need_the_resolver(void)
{
    static const struct {
        const char *host, *hostaddr;
        bool needs;
    } cases[] = {
        { "", "", false },
        { "/run/postgresql", "", false },
        { "@abstract", "", false },
        { "127.0.0.1", "", false },
        { "::1", "", false },
        { "/a,127.0.0.1", "", false },
        { "db.invalid", "127.0.0.1", false },
        { "a.invalid,b.invalid", "127.0.0.1,::1", false },
        { "db.invalid", "", true },
        { "/a,db.invalid", "", true },
        { "a.invalid,b.invalid", "127.0.0.1,", true },
        { "a.invalid,b.invalid", "127.0.0.1", false }, /* libpq rejects this */
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct addresses *addresses = with(cases[i].host, cases[i].hostaddr, "");

        CU_ASSERT_EQUAL(addresses_need_resolver(addresses), cases[i].needs);
        addresses_free(addresses);
    }
}

/* Whether the address with this index has these libpq parameters. NULL: libpq's own value. */
static bool is_at(const struct addresses *addresses, int index, const char *host, const char *hostaddr,
                  const char *port)
{
    const struct address *address = addresses_at(addresses, index);
    const char *expected[] = { host, hostaddr, port },
               *found[] = { address->host, address->hostaddr, address->port };

    for (int i = 0; i < 3; i++)
        if (expected[i] ? !found[i] || strcmp(expected[i], found[i]) != 0 : found[i] != NULL)
            return false;
    return true;
}

static struct addresses *resolved(const char *host, const char *hostaddr, const char *port)
{
    struct addresses *addresses = with(host, hostaddr, port);

    addresses_resolve(addresses);
    CU_ASSERT_STRING_EQUAL(addresses_error(addresses), "");
    return addresses;
}

static void libpq_has_the_last_word_about_a_single_host(void)
{
    struct addresses *addresses = resolved("", "", "");

    CU_ASSERT(addresses_count(addresses) == 1 && is_at(addresses, 0, NULL, NULL, NULL));
    addresses_free(addresses);
    addresses = resolved("a.invalid,b.invalid", "127.0.0.1", ""); /* libpq rejects this */
    CU_ASSERT(addresses_count(addresses) == 1 && is_at(addresses, 0, NULL, NULL, NULL));
    addresses_free(addresses);
    addresses = resolved("/a", "", "5433");
    CU_ASSERT(addresses_count(addresses) == 1 && is_at(addresses, 0, "/a", NULL, "5433"));
    addresses_free(addresses);
}

/* libpq would take the whole list instead of an empty value. */
static void no_value_of_a_list_is_empty(void)
{
    struct addresses *addresses = resolved("/a,,b.invalid", ",,::1", "1,,3");

    CU_ASSERT_EQUAL_FATAL(addresses_count(addresses), 3);
    CU_ASSERT(is_at(addresses, 0, "/a,/a", ",", "1,1"));
    CU_ASSERT(is_at(addresses, 1, ",", ",", "5432,5432"));
    CU_ASSERT(is_at(addresses, 2, "b.invalid", "::1", "3"));
    CU_ASSERT(is_at(addresses, 3, "/a,/a", ",", "1,1")); /* begins again */
    addresses_free(addresses);
}

static void attempts_begin_with_the_address_that_serves(void)
{
    struct addresses *addresses = resolved("/a,/b,/c", "", "1"), *others = resolved("/x,/y", "", "");
    const uint64_t list = addresses_list(addresses), a = addresses_at(addresses, 0)->id,
                   b = addresses_at(addresses, 1)->id, c = addresses_at(addresses, 2)->id;

    CU_ASSERT_EQUAL(addresses_first(addresses), 0);
    addresses_prefer(list, b);
    CU_ASSERT_EQUAL(addresses_first(addresses), 1);
    addresses_avoid(list, a, b); /* an old session falls silent */
    CU_ASSERT_EQUAL(addresses_first(addresses), 1);
    addresses_avoid(list, b, c);
    CU_ASSERT_EQUAL(addresses_first(addresses), 2);
    CU_ASSERT_EQUAL(addresses_first(others), 0);
    addresses_prefer(addresses_list(others), addresses_at(others, 1)->id);
    CU_ASSERT(addresses_first(others) == 1 && addresses_first(addresses) == 2);
    addresses_prefer(list, a);
    CU_ASSERT_EQUAL(addresses_first(addresses), 0);
    addresses_free(addresses);
    addresses_free(others);

    /* the standbys of the same servers */
    CU_ASSERT_EQUAL(setenv("PGTARGETSESSIONATTRS", "prefer-standby", 1), 0);
    others = resolved("/a,/b,/c", "", "1");
    CU_ASSERT_EQUAL(unsetenv("PGTARGETSESSIONATTRS"), 0);
    CU_ASSERT_NOT_EQUAL(addresses_list(others), list);
    addresses_free(others);
}

static void write_service_file(char *file)
{
    int fd = mkstemp(file);
    FILE *stream = fdopen(fd, "w");
    bool is_written;

    CU_ASSERT_FATAL(stream != NULL);
    is_written = fputs("[site]\ntcp_user_timeout=9000\n", stream) >= 0;
    is_written = fclose(stream) == 0 && is_written;
    CU_ASSERT(is_written);
}

static void what_the_operator_has_set_is_known(void)
{
    char file[] = "/tmp/pgpoll-service-XXXXXX";
    struct addresses *addresses = with("", "", "");

    CU_ASSERT_EQUAL(addresses_options(addresses)->connect_timeout_s, ADDRESSES_NOT_SET);
    CU_ASSERT(!addresses_options(addresses)->prefer_standby &&
              !addresses_options(addresses)->tcp_user_timeout);
    addresses_free(addresses);
    CU_ASSERT(setenv("PGCONNECT_TIMEOUT", "7", 1) == 0 &&
              setenv("PGTARGETSESSIONATTRS", "prefer-standby", 1) == 0);
    addresses = with("", "", "");
    CU_ASSERT_EQUAL(addresses_options(addresses)->connect_timeout_s, 7);
    CU_ASSERT(addresses_options(addresses)->prefer_standby);
    addresses_free(addresses);
    CU_ASSERT(setenv("PGCONNECT_TIMEOUT", "9223372036854775807", 1) == 0);
    addresses = with("", "", "");
    CU_ASSERT(addresses_options(addresses)->connect_timeout_s <= LONG_MAX / 1000); /* so that ms fit, too */
    addresses_free(addresses);
    CU_ASSERT(unsetenv("PGCONNECT_TIMEOUT") == 0 && unsetenv("PGTARGETSESSIONATTRS") == 0);

    write_service_file(file);
    CU_ASSERT(setenv("PGSERVICEFILE", file, 1) == 0 && setenv("PGSERVICE", "site", 1) == 0);
    addresses = with("", "", "");
    CU_ASSERT(addresses_options(addresses)->tcp_user_timeout);
    CU_ASSERT(!addresses_options(addresses)->keepalives_idle);
    addresses_free(addresses);
    CU_ASSERT(unsetenv("PGSERVICEFILE") == 0 && unsetenv("PGSERVICE") == 0 && unlink(file) == 0);
}

static void resolve(void *addresses)
{
    addresses_resolve(addresses);
}

static void release(void *addresses)
{
    addresses_free(addresses);
}

/* Resolves in a thread, as connect.c does. */
static void each_address_has_its_host_and_port(void)
{
    struct addresses *addresses = with("/tmp,localhost," IMPOSSIBLE, "", "5433,5434,5435");
    struct background *background = background_start(resolve, release, addresses);
    bool found = false;

    CU_ASSERT_FATAL(background != NULL);
    background_wait(background, clock_monotonic_ms() + 60000);
    CU_ASSERT_FATAL(background_is_done(background));
    CU_ASSERT_STRING_EQUAL(addresses_error(addresses), "");
    CU_ASSERT_FATAL(addresses_count(addresses) >= 2);
    CU_ASSERT(is_at(addresses, 0, "/tmp", NULL, "5433"));
    for (int i = 1; i < addresses_count(addresses); i++) {
        CU_ASSERT(is_at(addresses, i, "localhost", addresses_at(addresses, i)->hostaddr, "5434"));
        CU_ASSERT_EQUAL(addresses_at(addresses, i)->server, addresses_at(addresses, 1)->server);
        found |= strcmp(addresses_at(addresses, i)->hostaddr, "127.0.0.1") == 0 ||
                 strcmp(addresses_at(addresses, i)->hostaddr, "::1") == 0;
    }
    CU_ASSERT(found);
    background_free(background);
}

static bool names_fail;

/* Replaces that of libc, which a program may do. An address as text is all that the library asks for. */
int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_size,
                char *service, socklen_t service_size, int flags)
{
    const void *bytes = address->sa_family == AF_INET
                            ? (const void *)&((const struct sockaddr_in *)(const void *)address)->sin_addr
                            : (const void *)&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;

    (void)length, (void)service, (void)service_size, (void)flags;
    return !names_fail && inet_ntop(address->sa_family, bytes, host, host_size) ? 0 : EAI_FAIL;
}

static void says_that_no_address_can_be_written(void)
{
    struct addresses *addresses;

    (void)setenv("PGHOST", "localhost", 1);
    addresses = addresses_new(NULL);
    CU_ASSERT_FATAL(addresses != NULL);
    names_fail = true;
    addresses_resolve(addresses);
    names_fail = false;
    CU_ASSERT_EQUAL(addresses_count(addresses), 0);
    CU_ASSERT(strstr(addresses_error(addresses),
                     "could not translate host name \"localhost\" to address: ") != NULL);
    addresses_free(addresses);
    (void)unsetenv("PGHOST");
}

static void says_why_there_is_none(void)
{
    struct addresses *addresses = with(IMPOSSIBLE, "", "");

    addresses_resolve(addresses);
    CU_ASSERT(strstr(addresses_error(addresses),
                     "could not translate host name \"" IMPOSSIBLE "\" to address: ") != NULL);
    CU_ASSERT_EQUAL(addresses_count(addresses), 0);
    addresses_free(addresses);
}

CU_TestInfo addresses_tests[] = {
    { "only names need the resolver", only_names_need_the_resolver },
    { "each address has its host and port", each_address_has_its_host_and_port },
    { "says that no address can be written", says_that_no_address_can_be_written },
    { "libpq has the last word about a single host", libpq_has_the_last_word_about_a_single_host },
    { "no value of a list is empty", no_value_of_a_list_is_empty },
    { "attempts begin with the address that serves", attempts_begin_with_the_address_that_serves },
    { "what the operator has set is known", what_the_operator_has_set_is_known },
    { "says why there is none", says_why_there_is_none },
    CU_TEST_INFO_NULL
};
