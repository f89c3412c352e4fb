/* A digest of numbers that tells whether they are still as they were, where the processor is quick at it.
 *
 * Comparing them with a copy reads twice as much, part of it from beyond the second-level cache: the weights of 256
 * units, a copy and the packed ones don't fit there together.
 *
 * Each 16 bytes are a link of one of 32 chains, of two rounds of AES.  A round is one-to-one: where one link of a chain
 * differs, so does the digest.  Of other changes one in about 2^128 leaves it as it was, unless somebody who may write
 * to the numbers has chosen them for that.
 */
#ifndef BPTT_DIGEST_H
#define BPTT_DIGEST_H

#include "_lanes.h"

#define DIGEST_VECTORS 8
#define DIGEST (DIGEST_VECTORS * 64) /* bytes */

#if LANES_BYTES == 64 && defined(__x86_64__)
#include <cpuid.h>

/* Whether there is VAES.  Slow: a virtual machine may trap it. */
static LANES_UNUSED int digest_quick(void)
{
    enum { CPU_VAES = 1 << 9 }; /* ecx */
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & CPU_VAES);
}

LANES_INLINE __attribute__((target("vaes"))) void digest_links(__m512i v[DIGEST_VECTORS], const char *p)
{
    const __m512i between = _mm512_set1_epi8((char)0x9e);
    _Pragma("GCC unroll 8") for (int i = 0; i < DIGEST_VECTORS; ++i)
        v[i] = _mm512_aesenc_epi128(_mm512_aesenc_epi128(v[i], _mm512_loadu_si512(p + 64 * i)), between);
}

/* The digest, all 0 at first, of `size` more bytes; where those end counts too. */
__attribute__((noinline, target("vaes"))) static LANES_UNUSED void digest(char *to, const char *p, ptrdiff_t size)
{
    char rest[DIGEST] = {0};
    __m512i v[DIGEST_VECTORS];
    memcpy(v, to, DIGEST);
    for (; size >= DIGEST; size -= DIGEST, p += DIGEST)
        digest_links(v, p);
    if (size) {
        memcpy(rest, p, (size_t)size);
        digest_links(v, rest);
    }
    memcpy(to, v, DIGEST);
}
#else
static LANES_UNUSED int digest_quick(void) { return 0; }
static LANES_UNUSED void digest(char *to, const char *p, ptrdiff_t size)
{
    (void)to; (void)p; (void)size;
}
#endif
#endif
