#include "core/cors.h"

#include "expect.h"
#include "suites.h"

#include <string.h>

static void lists_of_origins_are_accepted(void)
{
    static const char *const lists[] = {
        "",
        "*",
        " * ",
        "https://a",
        "https://a, https://b:8080",
        "https://a https://b\thttps://c",
        ",https://a,,",
        "https://A.Example",
        "http://localhost:3000",
        "http://192.0.2.1:1",
        "http://[::1]:65535",
        "capacitor://localhost",
        "chrome-extension://abcdefghij",
        "https://xn--mnchen-3ya.example",
    };
    char reason[200] = "";

    for (size_t i = 0; i < COUNT(lists); i++)
        EXPECT(cors_check(lists[i], reason, sizeof reason), "%s: %s", lists[i], reason);
}

static void an_error_names_the_wrong_origin_and_the_right_one(void)
{
    static const struct {
        const char *list, *named, *advice;
    } rows[] = {
        { "https://a/", "\"https://a/\"", "write https://a" },
        { "https://b, https://a/path?x#y", "\"https://a/path?x#y\"", "write https://a" },
        { "www.example.org", "\"www.example.org\"", "write https://www.example.org" },
        { "localhost:3000", "\"localhost:3000\"", "write https://localhost:3000" },
        { "https://a:443", "\"https://a:443\"", "write https://a" },
        { "http://a:80", "\"http://a:80\"", "write http://a" },
        { "https://a:443/", "\"https://a:443/\"", "write https://a" },
        { "https://*.example.org", "\"https://*.example.org\"", "patterns are not supported" },
        { "https://u@a", "\"https://u@a\"", "scheme://host" },
        { "https://", "\"https://\"", "scheme://host" },
        { "https://:80", "\"https://:80\"", "scheme://host" },
        { "https://a:0", "\"https://a:0\"", "scheme://host" },
        { "https://a:65536", "\"https://a:65536\"", "scheme://host" },
        { "https://a:8x", "\"https://a:8x\"", "scheme://host" },
        { "https://a:", "\"https://a:\"", "scheme://host" },
        { "https://[::1", "\"https://[::1\"", "scheme://host" },
        { "1x://a", "\"1x://a\"", "scheme://host" },
        { "https://m\303\274nchen.example", "m\303\274nchen", "scheme://host" },
        { "https://a;https://b", "\"https://a;https://b\"", "scheme://host" },
        { "null", "\"null\"", "scheme://host" },
        { "*, https://a", "*", "must be alone" },
        { "* *", "*", "must be alone" },
    };

    for (size_t i = 0; i < COUNT(rows); i++) {
        char reason[300] = "";

        EXPECT(!cors_check(rows[i].list, reason, sizeof reason), "%s", rows[i].list);
        EXPECT(strstr(reason, rows[i].named) && strstr(reason, rows[i].advice), "%s: %s", rows[i].list,
               reason);
    }
}

static void a_long_origin_is_refused(void)
{
    char list[1000], reason[50];

    memset(list, 'a', sizeof list - 1);
    list[sizeof list - 1] = '\0';
    EXPECT(!cors_check(list, reason, sizeof reason), "a host of 999 letters");
    memset(list + 310, '\0', 1);
    EXPECT(!cors_check(list, reason, sizeof reason), "one that only fits without its scheme");
}

static void an_origin_is_found_in_the_list(void)
{
    static const struct {
        const char *list, *origin;
        bool allowed;
    } rows[] = {
        { "https://a, https://b:8080", "https://a", true },
        { "https://a, https://b:8080", "https://b:8080", true },
        { "https://a, https://b:8080", "https://b", false },
        { "https://a,https://b", "https://b", true },
        { "https://Example.Org", "https://example.org", true },
        { "https://example.org", "https://example.org.evil", false },
        { "https://example.org", "https://example.or", false },
        { "https://example.org", "example.org", false },
        { "https://a, https://b", "https://a, https://b", false },
        { "https://a", "", false },
        { "https://a", "null", false },
        { "", "https://a", false },
        { "", "", false },
    };

    for (size_t i = 0; i < COUNT(rows); i++)
        EXPECT(cors_allows(rows[i].list, rows[i].origin) == rows[i].allowed, "%s in %s", rows[i].origin,
               rows[i].list);
    EXPECT(cors_allows_all("*") && cors_allows_all(" *"), "*");
    EXPECT(!cors_allows_all("") && !cors_allows_all("https://a"), "not *");
}

CU_TestInfo cors_tests[] = {
    { "lists of origins are accepted", lists_of_origins_are_accepted },
    { "an error names the wrong origin and the right one",
      an_error_names_the_wrong_origin_and_the_right_one },
    { "a long origin is refused", a_long_origin_is_refused },
    { "an origin is found in the list", an_origin_is_found_in_the_list },
    CU_TEST_INFO_NULL,
};
