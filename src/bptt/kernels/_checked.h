/* check(ok, what): in a checked build (BPTT_CHECKED=1) stops the process, naming what is wrong; nothing in any other. */
#ifndef BPTT_CHECKED_H
#define BPTT_CHECKED_H

#if defined(BPTT_CHECKED)
#include <stdio.h>
#include <stdlib.h>
#define check(ok, what)                                                                                \
    do {                                                                                               \
        if (!(ok)) {                                                                                   \
            fprintf(stderr, "bptt: %s out of range (%s:%d)\n", what, __FILE__, __LINE__);              \
            abort();                                                                                   \
        }                                                                                              \
    } while (0)
#else
#define check(ok, what) ((void)sizeof(what))
#endif
#endif
