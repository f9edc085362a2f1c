/*
 * What the harnesses share. Each file fuzz_NAME.c is one, with its seeds, and whatever was found, in corpus/NAME; there is no
 * other place that lists them.
 */
#ifndef PGPOLL_FUZZ_H
#define PGPOLL_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* libFuzzer's; called for every input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer's; called once before. A harness may have one. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Ends the run with the input at hand kept, unless the condition holds. */
#define HOLDS(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            (void)fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);             \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

#endif
