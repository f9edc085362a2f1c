/*
 * Shared by the fuzz harnesses. Each file fuzz_NAME.c is a harness, and corpus/NAME has its seeds and the
 * inputs that once failed. The harnesses are listed nowhere else.
 */
#ifndef PGPOLL_FUZZ_H
#define PGPOLL_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Called by libFuzzer for every input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Called by libFuzzer once, at the start. Optional. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Aborts if the condition is false; libFuzzer then saves the input. */
#define HOLDS(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            (void)fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);             \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

#endif
