/* Float32 operands of the AMX unit, which multiplies numbers of 8 significant bits (bfloat16) and adds in float32.
 *
 * A float32 is the sum of three such numbers, a = a_0 + a_1 + a_2, each what it takes of what the ones before leave.  But
 * for 2^-23 of it a product of two is a_0 b_0 + a_0 b_1 + a_1 b_0 + a_0 b_2 + a_1 b_1 + a_2 b_0.  The parts of a left
 * operand are rounded, those of a right one cut off, which is less work; so what is left out is as often too much as too
 * little.
 *
 * The unit takes denormal numbers for 0, and the parts of inf are NaN.  A row of A or a column of B fits if its largest
 * number is one whose parts that count stay in range; others are for the tile of _tile.h.
 *
 * A tile of the unit is 16 rows of 64 bytes: of the left operand A (M, K) 16 rows, 32 k; of the right one B (K, N) 32 k,
 * 16 columns, a row of the tile being k and k + 1 of one column after the other.  Operands are split into sequences of
 * whole tiles, zero where the matrix ends:
 *
 *     A: [16 rows] [32 k] [part]        B: [32 columns] [32 k] [16 columns] [part]
 */
#ifndef BPTT_SPLIT_H
#define BPTT_SPLIT_H

#include "_checked.h"
#include "_lanes.h"

/* An assembler that knows the unit comes with a compiler that has a header for it (GCC 11, Clang 12). */
#define AMX_BUILT 0
#if LANES_BYTES == 64 && defined(__x86_64__) && defined(__linux__) && defined(__has_include)
#if __has_include(<amxtileintrin.h>) || __has_include(<amxintrin.h>)
#undef AMX_BUILT
#define AMX_BUILT 1
#endif
#endif

#define AMX_ROWS 16
#define AMX_K 32
#define AMX_PARTS 3
#define AMX_TILE 1024 /* bytes */
#define AMX_AHEAD 16 /* rows of a right operand, which may lie far apart */

/* Bytes of `vectors` x 16 rows or columns with K products each. */
LANES_INLINE ptrdiff_t amx_size(ptrdiff_t vectors, ptrdiff_t K)
{
    return vectors * ((K + AMX_K - 1) / AMX_K) * AMX_PARTS * AMX_TILE;
}

#if AMX_BUILT
/* The largest |number| that fits is 0, or from 2^-96 to 2^32; these are the bits. */
#define AMX_LEAST (31 << 23)
#define AMX_MOST (159 << 23)

typedef struct { __m512i part[AMX_PARTS]; } amx_parts; /* each the upper half of a float32 */

LANES_INLINE __m512i amx_round(__m512 v)
{
    return _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000)),
                            _mm512_set1_epi32((int)0xffff0000));
}

LANES_INLINE amx_parts amx_split(__m512 v)
{
    amx_parts p;
    p.part[0] = amx_round(v);
    v = _mm512_sub_ps(v, _mm512_castsi512_ps(p.part[0]));
    p.part[1] = amx_round(v);
    p.part[2] = _mm512_castps_si512(_mm512_sub_ps(v, _mm512_castsi512_ps(p.part[1])));
    return p;
}

LANES_INLINE amx_parts amx_cut(__m512 v)
{
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    amx_parts p;
    p.part[0] = _mm512_and_si512(_mm512_castps_si512(v), upper);
    v = _mm512_sub_ps(v, _mm512_castsi512_ps(p.part[0]));
    p.part[1] = _mm512_and_si512(_mm512_castps_si512(v), upper);
    p.part[2] = _mm512_castps_si512(_mm512_sub_ps(v, _mm512_castsi512_ps(p.part[1])));
    return p;
}

/* Numbers of k and k + 1 into a row of a tile of B for each part. */
LANES_INLINE void amx_store_pair(__m512 a, __m512 b, char *to)
{
    amx_parts u = amx_cut(a), v = amx_cut(b);
    for (int part = 0; part < AMX_PARTS; ++part)
        _mm512_store_si512(to + part * AMX_TILE,
                           _mm512_or_si512(_mm512_srli_epi32(u.part[part], 16), v.part[part]));
}

LANES_INLINE __m512i amx_larger(__m512i most, __m512 v)
{
    return _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
}

/* Whether all of 16 largest numbers are ones that fit. */
LANES_INLINE int amx_most_fit(__m512i bits)
{
    return !_mm512_mask_cmplt_epi32_mask(_mm512_test_epi32_mask(bits, bits), bits, _mm512_set1_epi32(AMX_LEAST)) &&
           !_mm512_cmpge_epi32_mask(bits, _mm512_set1_epi32(AMX_MOST));
}

/* Whether a row of n numbers fits. */
static LANES_UNUSED int amx_row_fits(const float *v, ptrdiff_t n)
{
    __m512i most = _mm512_setzero_si512();
    for (; n >= 16; n -= 16, v += 16)
        most = amx_larger(most, _mm512_loadu_ps(v));
    if (n > 0)
        most = amx_larger(most, _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), v));
    return amx_most_fit(_mm512_set1_epi32(_mm512_reduce_max_epi32(most)));
}

/* 16 numbers, zero from n on. */
LANES_INLINE __m512 amx_load(const float *a, ptrdiff_t n)
{
    if (n >= 16)
        return _mm512_loadu_ps(a);
    return n <= 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), a);
}

/* A (rows, K), A[i, k] = a[i][k].  each: bytes from 16 rows to the next. */
static LANES_UNUSED __attribute__((noinline)) void amx_split_left(const float *const *a, ptrdiff_t rows, ptrdiff_t K,
                                                                  char *out, ptrdiff_t each)
{
    int16_t order[32];
    for (int j = 0; j < 32; ++j) /* the upper halves of two vectors */
        order[j] = (int16_t)(2 * j + 1);
    __m512i upper = _mm512_loadu_si512(order);
    for (ptrdiff_t top = 0; top < rows; top += AMX_ROWS, out += each)
        for (ptrdiff_t k = 0; k < K; k += AMX_K)
            for (ptrdiff_t i = 0; i < AMX_ROWS; ++i) {
                const float *p = a[top + i < rows ? top + i : 0] + k;
                ptrdiff_t left = top + i < rows ? K - k : 0;
                char *row = out + k / AMX_K * AMX_PARTS * AMX_TILE + i * 64;
                amx_parts u = amx_split(amx_load(p, left)), v = amx_split(amx_load(p + 16, left - 16));
                for (int part = 0; part < AMX_PARTS; ++part)
                    _mm512_store_si512(row + part * AMX_TILE,
                                       _mm512_permutex2var_epi16(u.part[part], upper, v.part[part]));
            }
}

/* B (K, N), N at most 64, whose first head_rows rows are at head, the others at body.  Returns whether all columns
 * fit. */
static LANES_UNUSED __attribute__((noinline)) int amx_split_right(const float *head, ptrdiff_t head_rows,
                                                                  const float *body, ptrdiff_t ld, ptrdiff_t K,
                                                                  ptrdiff_t N, char *out)
{
    __m512i most[4];
    int fit = 1;
    for (ptrdiff_t j = 0; j < 4; ++j)
        most[j] = _mm512_setzero_si512();
    for (ptrdiff_t k = 0; k < K || k % AMX_K; k += 2) {
        const float *p = k < head_rows ? head + k * ld : body + (k - head_rows) * ld;
        const float *q = k + 1 < head_rows ? head + (k + 1) * ld : body + (k + 1 - head_rows) * ld;
        ptrdiff_t in_p = k < K ? N : 0, in_q = k + 1 < K ? N : 0;
        for (ptrdiff_t j = 0; j < N; j += 16) {
            char *to = out + j / 32 * amx_size(2, K) + (k / AMX_K * 2 + j / 16 % 2) * AMX_PARTS * AMX_TILE +
                       k % AMX_K / 2 * 64;
            __builtin_prefetch(p + j + AMX_AHEAD * ld, 0, 2);
            __builtin_prefetch(q + j + AMX_AHEAD * ld, 0, 2);
            __m512 a = amx_load(p + j, in_p - j), b = amx_load(q + j, in_q - j);
            most[j / 16] = amx_larger(amx_larger(most[j / 16], a), b);
            amx_store_pair(a, b, to);
        }
    }
    for (ptrdiff_t j = 0; j < N; j += 16)
        fit = fit && amx_most_fit(most[j / 16]);
    return fit;
}

#else
LANES_INLINE int amx_row_fits(const float *v, ptrdiff_t n)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE void amx_split_left(const float *const *a, ptrdiff_t rows, ptrdiff_t K, char *out, ptrdiff_t each)
{
    check(0, "no AMX");
}
LANES_INLINE int amx_split_right(const float *head, ptrdiff_t head_rows, const float *body, ptrdiff_t ld,
                                 ptrdiff_t K, ptrdiff_t N, char *out)
{
    check(0, "no AMX");
    return 0;
}
#endif
#endif
