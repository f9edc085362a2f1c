/* Preloaded into PostgreSQL: OpenSSL refuses MD5, as it does in FIPS mode. (Debian has no FIPS provider.) */
#include <dlfcn.h>

int EVP_DigestInit_ex(void *context, const void *type, void *engine)
{
    const void *(*md5)(void) = (const void *(*)(void))dlsym(RTLD_NEXT, "EVP_md5");
    int (*init)(void *, const void *, void *) =
        (int (*)(void *, const void *, void *))dlsym(RTLD_NEXT, "EVP_DigestInit_ex");

    return type == md5() ? 0 : init(context, type, engine);
}
