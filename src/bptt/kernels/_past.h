/* Stores past the caches, for what is read again only when a whole sequence has been through them.
 *
 * An ordinary store reads the cache line that it overwrites and leaves it where the weights of the next step might be:
 * of 16 MB written and read back later, 8 GB/s against 12 to 15.
 */
#ifndef BPTT_PAST_H
#define BPTT_PAST_H

#include "_lanes.h"

/* The first lines of what is read next, of each 4 KiB: the processor fetches the others itself, once it has seen that
 * many of a page. */
#define PAST_SEEN 3
LANES_INLINE void past_announce(const void *p, size_t bytes)
{
#if LANES_BYTES
    for (size_t k = 0; k < bytes; k += 4096)
        for (int n = 0; n < PAST_SEEN; ++n)
            __builtin_prefetch((const char *)p + k + 64 * n, 0, 2);
#endif
}

#if LANES_BYTES && (defined(__AVX512F__) || defined(__AVX__))
#define PAST_LINE 64

/* Whether something starts at a whole line and consists of those. */
LANES_INLINE int past_whole(const void *p, size_t bytes)
{
    return (uintptr_t)p % PAST_LINE == 0 && bytes % PAST_LINE == 0;
}

LANES_INLINE void past_copy(void *to, const void *from, size_t bytes)
{
    char *p = to;
    const char *q = from;
    if (!past_whole(to, bytes)) {
        memcpy(to, from, bytes);
        return;
    }
    for (size_t k = 0; k < bytes; k += LANES_BYTES) {
#if defined(__AVX512F__)
        _mm512_stream_si512((void *)(p + k), _mm512_loadu_si512(q + k));
#else
        _mm256_stream_si256((void *)(p + k), _mm256_loadu_si256((const void *)(q + k)));
#endif
    }
}

/* A vector of what is so. */
#if defined(__AVX512F__)
LANES_INLINE void f32_past(float *p, lanes_f32 v) { _mm512_stream_ps(p, (__m512)v); }
LANES_INLINE void f64_past(double *p, lanes_f64 v) { _mm512_stream_pd(p, (__m512d)v); }
#else
LANES_INLINE void f32_past(float *p, lanes_f32 v) { _mm256_stream_ps(p, (__m256)v); }
LANES_INLINE void f64_past(double *p, lanes_f64 v) { _mm256_stream_pd(p, (__m256d)v); }
#endif

/* Such stores are in no order with others: before another thread is told of them. */
LANES_INLINE void past_done(void) { _mm_sfence(); }

#else

LANES_INLINE void past_copy(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
LANES_INLINE void past_done(void) {}
LANES_INLINE int past_whole(const void *p, size_t bytes) { return 0; }
LANES_INLINE void f32_past(float *p, lanes_f32 v) { f32_store(p, v); }
LANES_INLINE void f64_past(double *p, lanes_f64 v) { f64_store(p, v); }

#endif
#endif
