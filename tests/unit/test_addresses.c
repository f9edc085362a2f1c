/* Tests with names such as localhost, for which no name server is needed. */
#include "postgres/addresses.h"

#include "core/background.h"
#include "core/clock.h"
#include "suites.h"

#include <stdlib.h>
#include <string.h>

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
        CU_ASSERT_STRING_EQUAL(addresses_error(addresses), "");
        CU_ASSERT(!addresses_host(addresses) && !addresses_hostaddr(addresses) && !addresses_port(addresses));
        addresses_free(addresses);
    }
}

static int entries(const char *list)
{
    int count = 1;

    while ((list = strchr(list, ','))) {
        list++;
        count++;
    }
    return count;
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
    const char *hosts, *hostaddrs, *ports;

    CU_ASSERT_FATAL(background != NULL);
    background_wait(background, clock_monotonic_ms() + 60000);
    CU_ASSERT_FATAL(background_is_done(background));
    CU_ASSERT_STRING_EQUAL(addresses_error(addresses), "");
    hosts = addresses_host(addresses);
    hostaddrs = addresses_hostaddr(addresses);
    ports = addresses_port(addresses);
    CU_ASSERT_FATAL(hosts && hostaddrs && ports);
    CU_ASSERT(strncmp(hosts, "/tmp,localhost", strlen("/tmp,localhost")) == 0 && !strstr(hosts, IMPOSSIBLE));
    CU_ASSERT(*hostaddrs == ',' && (strstr(hostaddrs, "127.0.0.1") || strstr(hostaddrs, "::1")));
    CU_ASSERT(strncmp(ports, "5433,5434", strlen("5433,5434")) == 0 && !strstr(ports, "5435"));
    CU_ASSERT(entries(hosts) >= 2 && entries(hosts) == entries(hostaddrs) &&
              entries(hosts) == entries(ports));
    background_free(background);
}

static void says_why_there_is_none(void)
{
    struct addresses *addresses = with(IMPOSSIBLE, "", "");

    addresses_resolve(addresses);
    CU_ASSERT(strstr(addresses_error(addresses),
                     "could not translate host name \"" IMPOSSIBLE "\" to address: ") != NULL);
    CU_ASSERT_PTR_NULL(addresses_host(addresses));
    addresses_free(addresses);
}

CU_TestInfo addresses_tests[] = { { "only names need the resolver", only_names_need_the_resolver },
                                  { "each address has its host and port",
                                    each_address_has_its_host_and_port },
                                  { "says why there is none", says_why_there_is_none },
                                  CU_TEST_INFO_NULL };
