/* Operands of products of float32 matrices in whole numbers of 24 bits, C (rows, N) = A (rows, K) W^T, W (N, K).
 *
 * A row of A and a row of W, which is a column of the product, are each a unit, its largest number / MOST, times whole
 * numbers from -MOST to MOST.  Such a number has three digits to the base of 256, from -128 to 127, and six of the nine
 * products of digits are those that count: what is left out is 2^-24 of the largest term.  `fine` products take two more,
 * for rows of which most numbers are a tenth of the largest, or less: gradients of gates.  The sums are exact, so
 * whatever makes them, the AMX unit (int8) or a vector instruction, and in whatever order, gives the same bits.
 *
 * What is lost is small beside a row's largest numbers, where float32 loses 2^-24 of each.  So that this is the same
 * for numbers of the size that rows have:
 *   - Each k has a power of two, by which W is divided and A multiplied, that makes the largest W[n, k] of all n about 1:
 *     features of other sizes, whose weights make up for it, are alike here.
 *   - A row of A whose largest number is FIXED_SPREAD times the mean of those that are not 0 is taken twice: its highest
 *     digits alone, of whose products none is left out, and what they leave of it; and that again, up to FIXED_TIMES.
 *   - One of small numbers, as of a gradient that vanishes, is multiplied by 2^64 first and its products by 2^-64 at last.
 *   - One that has inf or NaN in it, or is near the upper end of float32's range, is multiplied number by number.
 *   - A matrix W with such a row, or such numbers for some k, is not for here, but for the tile of _tile.h.
 *
 * In memory W is the powers of two, then for 16 columns at a time `fixed_columns` and digits: [4 k] [digit, the lowest
 * first] [16 columns] [k]; a tile of the unit is every third line of 64 k.  Those of A are offset by 128, as the vector
 * instruction wants them: [row] [digit] [K].  Four k side by side are l, 16 + l, 32 + l and 48 + l of 64; of the last k, if
 * they are fewer, they are as far apart as makes the fewest fours, see `fixed_stride`.
 */
#ifndef BPTT_DIGITS_H
#define BPTT_DIGITS_H

#include "_amx.h"
#include "_pack.h"

#define FIXED_DIGITS 3
#define FIXED_SUMS 4 /* of products of digits of the same weight, the highest first; the last if fine */
#define FIXED_K 64
#define FIXED_MOST 8355700.0f /* 127 * 65536 + 127 * 256 + 127, and what rounding may add */
#define FIXED_SPREAD 32.0f
#define FIXED_LINE 64 /* bytes: 4 k, 16 columns */
#define FIXED_FOUR (FIXED_DIGITS * FIXED_LINE)
#define FIXED_BLOCK (FIXED_K / 4 * FIXED_FOUR)
#define FIXED_TOGETHER 192 /* rows that read a matrix once */
#define FIXED_TIMES 4
#define FIXED_ROWS 224 /* as many, one of them taken FIXED_TIMES, in whole pairs of tiles */
#define FIXED_LONGEST 16384 /* K: of more terms a sum could leave the range of 32 bits */

typedef struct {
    int32_t less[FIXED_SUMS][16]; /* to add to the sums, for the 128 that A's digits are larger */
    float unit[16];               /* of W's digits times 2^32, the weight of the highest sum */
} fixed_columns;

/* Rows of A as digits, and where their products go. */
typedef struct {
    float *c[FIXED_ROWS];
    float unit[FIXED_ROWS];
    float scale[FIXED_ROWS];  /* of the products: 1, or 2^-64 */
    uint8_t rest[FIXED_ROWS]; /* whether it is what another has left, and is added to it */
    ptrdiff_t count, each;    /* bytes from one row's digits to the next ones */
    uint8_t *digits;
    float *left; /* padded K to work in */
} fixed_rows;

LANES_INLINE ptrdiff_t fixed_padded(ptrdiff_t K) { return (K + FIXED_K - 1) / FIXED_K * FIXED_K; }

/* Bytes from 16 columns to the next. */
LANES_INLINE ptrdiff_t fixed_apart(ptrdiff_t K)
{
    return (ptrdiff_t)sizeof(fixed_columns) + fixed_padded(K) / 4 * FIXED_FOUR;
}

LANES_INLINE ptrdiff_t fixed_size(ptrdiff_t K, ptrdiff_t N)
{
    return fixed_padded(K) * (ptrdiff_t)sizeof(float) + (N + 15) / 16 * fixed_apart(K);
}

/* Bytes of the digits of a row of A: an odd number of lines, so that 16 rows fall on as many cache sets. */
LANES_INLINE ptrdiff_t fixed_each(ptrdiff_t K) { return (fixed_padded(K) * FIXED_DIGITS / 64 | 1) * 64; }

#if AMX_BUILT
#define FIXED_INLINE static inline __attribute__((always_inline, unused, target("avx512vnni")))
#define FIXED_FUNCTION static __attribute__((noinline, unused, target("avx512vnni")))

/* Bits of what the largest number of a row may be, and of what is left of it: units and their inverses are in range. */
#define FIXED_LEAST (31 << 23)        /* 2^-96 */
#define FIXED_LARGEST (223 << 23)     /* 2^96, of A */
#define FIXED_NOTHING (27 << 23)      /* 2^-100 */

/* How far from each other four k are that stand side by side, in the FIXED_K from k on, or those before K. */
LANES_INLINE ptrdiff_t fixed_stride(ptrdiff_t k, ptrdiff_t K)
{
    return K - k >= FIXED_K ? FIXED_K / 4 : (K - k + 3) / 4;
}

/* Numbers of a row times their powers of two, or divided by them, or with NULL as they are; 0 where the mask says so. */
LANES_INLINE __m512 fixed_get(const float *a, const float *up, int divide, ptrdiff_t k, __mmask16 part)
{
    __m512 v = _mm512_maskz_loadu_ps(part, a + k);
    if (up) {
        __m512i power = _mm512_loadu_si512(up + k);
        if (divide)
            power = _mm512_sub_epi32(_mm512_set1_epi32(254 << 23), power);
        v = _mm512_mul_ps(v, _mm512_castsi512_ps(power));
    }
    return v;
}

typedef struct { int largest, spread; } fixed_look; /* bits of the largest |number|; whether it is large beside others */

LANES_INLINE fixed_look fixed_at(const float *a, const float *up, int divide, ptrdiff_t K)
{
    fixed_look look;
    __m512i most = _mm512_setzero_si512();
    __m512 sum = _mm512_setzero_ps();
    float largest, mean;
    int count = (int)K;
    for (ptrdiff_t k = 0; k < K; k += 16) {
        __m512i v = amx_size_bits(fixed_get(a, up, divide, k, amx_mask(K - k)));
        most = _mm512_max_epi32(most, v);
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(v));
    }
    look.largest = _mm512_reduce_max_epi32(most);
    memcpy(&largest, &look.largest, sizeof largest);
    mean = _mm512_reduce_add_ps(sum) * FIXED_SPREAD;
    if (largest * (float)count > mean) { /* unless it is zeros that make the mean so small */
        count = 0;
        for (ptrdiff_t k = 0; k < K; k += 16) {
            __m512i v = amx_size_bits(fixed_get(a, up, divide, k, amx_mask(K - k)));
            count += __builtin_popcount(_mm512_test_epi32_mask(v, v));
        }
    }
    look.spread = largest * (float)count > mean;
    return look;
}

LANES_INLINE float fixed_float(int bits)
{
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* Digits, plus 128 each, of numbers in units: the bytes of a four are of these four vectors. */
LANES_INLINE void fixed_interleave(const __m512i v[4], __m512i to[FIXED_DIGITS])
{
    const __m512i even = _mm512_set1_epi32(0x00ff00ff), lower = _mm512_set1_epi32(0xffff);
    __m512i u[4];
    for (int q = 0; q < 4; ++q)
        u[q] = _mm512_add_epi32(v[q], _mm512_set1_epi32(0x808080));
    /* where a mask has a bit the first, else the second: 0xca */
    __m512i low = _mm512_ternarylogic_epi32(even, u[0], _mm512_slli_epi32(u[1], 8), 0xca);
    __m512i low_2 = _mm512_ternarylogic_epi32(even, u[2], _mm512_slli_epi32(u[3], 8), 0xca);
    __m512i high = _mm512_ternarylogic_epi32(even, _mm512_srli_epi32(u[0], 8), u[1], 0xca);
    __m512i high_2 = _mm512_ternarylogic_epi32(even, _mm512_srli_epi32(u[2], 8), u[3], 0xca);
    to[0] = _mm512_ternarylogic_epi32(lower, low, _mm512_slli_epi32(low_2, 16), 0xca);
    to[1] = _mm512_ternarylogic_epi32(lower, high, _mm512_slli_epi32(high_2, 16), 0xca);
    to[2] = _mm512_ternarylogic_epi32(lower, _mm512_srli_epi32(low, 16), low_2, 0xca);
}

/* Which of the 64 k from k on belong to each of four vectors. */
LANES_INLINE void fixed_parts(ptrdiff_t k, ptrdiff_t K, __mmask16 part[4])
{
    const ptrdiff_t stride = fixed_stride(k, K);
    for (int q = 0; q < 4; ++q) {
        const ptrdiff_t left = K - k - q * stride;
        part[q] = amx_mask(left < stride ? left : stride);
    }
}

/* A row into `rows`, or its highest digits alone, what they leave of it going to rows->left. */
FIXED_INLINE void fixed_add_digits(fixed_rows *rows, const float *a, const float *up, ptrdiff_t K, float largest,
                                   float scale, int highest, float *c, int rest)
{
    const ptrdiff_t Kp = fixed_padded(K);
    const float most = highest ? 127.0f : FIXED_MOST, one = largest / most;
    const __m512 inverse = _mm512_set1_ps(largest > 0 ? most / largest : 0);
    uint8_t *to = rows->digits + rows->count * rows->each;
    for (ptrdiff_t k = 0; k < Kp; k += FIXED_K) {
        const ptrdiff_t stride = fixed_stride(k, K);
        __m512i v[4], digits[FIXED_DIGITS];
        __mmask16 part[4];
        fixed_parts(k, K, part);
        for (int q = 0; q < 4; ++q) {
            const ptrdiff_t at = k + q * stride;
            __m512 x = fixed_get(a, up, 0, at, part[q]);
            v[q] = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
            if (highest) {
                x = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(v[q]), _mm512_set1_ps(one), x);
                _mm512_mask_storeu_ps(rows->left + at, part[q], x); /* perhaps where it comes from */
                v[q] = _mm512_slli_epi32(v[q], 16);
            }
        }
        fixed_interleave(v, digits);
        for (int d = 0; d < FIXED_DIGITS; ++d)
            _mm512_storeu_si512(to + d * Kp + k, digits[d]);
    }
    rows->c[rows->count] = c;
    rows->unit[rows->count] = highest ? one / 65536 : one;
    rows->scale[rows->count] = scale;
    rows->rest[rows->count] = (uint8_t)rest;
    rows->count += 1;
}

/* A row of A into `rows`, which has room for it FIXED_TIMES; 0 where it is not for here. */
FIXED_FUNCTION int fixed_add_row(fixed_rows *rows, const float *a, const float *up, ptrdiff_t K, float *c)
{
    const float small = 1.0f / 18446744073709551616.0f; /* 2^-64 */
    float scale = 1;
    fixed_look look = fixed_at(a, up, 0, K);
    if (look.largest >= FIXED_LARGEST)
        return 0;
    if (look.largest && look.largest < FIXED_LEAST) {
        for (ptrdiff_t k = 0; k < K; k += 16)
            _mm512_storeu_ps(rows->left + k, _mm512_mul_ps(_mm512_mul_ps(fixed_get(a, NULL, 0, k, amx_mask(K - k)),
                                                                         _mm512_set1_ps(1 / small)),
                                                           _mm512_loadu_ps(up + k)));
        scale = small;
        a = rows->left;
        up = NULL;
        look = fixed_at(a, up, 0, K);
        if (look.largest < FIXED_NOTHING) /* their products are 0 */
            look.largest = look.spread = 0;
    }
    for (int rest = 0; rest == 0 || look.largest >= FIXED_NOTHING; ++rest) {
        if (!look.spread || rest == FIXED_TIMES - 1) {
            fixed_add_digits(rows, a, up, K, fixed_float(look.largest), scale, 0, c, rest > 0);
            break;
        }
        fixed_add_digits(rows, a, up, K, fixed_float(look.largest), scale, 1, c, rest > 0);
        a = rows->left;
        up = NULL;
        look = fixed_at(a, up, 0, K);
    }
    return 1;
}

#else
LANES_INLINE int fixed_add_row(fixed_rows *rows, const float *a, const float *up, ptrdiff_t K, float *c)
{
    check(0, "no AMX");
    return 0;
}
#endif
#endif
