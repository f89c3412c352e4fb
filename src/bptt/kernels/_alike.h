/* A first look at a matrix for products in whole numbers: is one power of two enough?  See _digits.h and _columns.h.
 *
 * It mostly is: the largest weights of a layer's features, or units, are alike.  Then one reading of the matrix tells the
 * units of its rows and of its columns.
 */
#ifndef BPTT_ALIKE_H
#define BPTT_ALIKE_H

#include "_digits.h"
#include "_tile.h"

#define FIXED_ALIKE 8.0f /* times the least of the largest numbers */

/* Of a matrix (N, K), by k and by n: the largest |number|, and the sum of all.  Zeros where it ends. */
typedef struct {
    float *most_k, *sum_k, *most_n, *sum_n;
    float power_k, power_n; /* of two, one for all of them, or 0 */
} fixed_counts;

/* Numbers of working memory. */
LANES_INLINE ptrdiff_t fixed_counted(ptrdiff_t K, ptrdiff_t N) { return 2 * (fixed_padded(K) + fixed_padded(N)); }

LANES_INLINE fixed_counts fixed_no_counts(float *room, ptrdiff_t K, ptrdiff_t N)
{
    const ptrdiff_t Kp = fixed_padded(K), Np = fixed_padded(N);
    memset(room, 0, (size_t)fixed_counted(K, N) * sizeof(float));
    return (fixed_counts){room, room + Kp, room + 2 * Kp, room + 2 * Kp + Np, 0, 0};
}

#if AMX_BUILT
/* So many rows; 16 numbers of each, the largest ones and sums of those that lie 16 apart, go to most and sum. */
LANES_INLINE void fixed_count_rows(int rows, const float *const *row, ptrdiff_t K, fixed_counts *counts, float *most,
                                   float *sum)
{
    const float *p[8];
    __m512i most_n[8];
    __m512 sum_n[8];
    TILE_UNROLL for (int j = 0; j < rows; ++j) {
        p[j] = row[j];
        most_n[j] = _mm512_setzero_si512();
        sum_n[j] = _mm512_setzero_ps();
    }
    for (ptrdiff_t k = 0; k < K; k += 16) {
        const __mmask16 part = amx_mask(K - k);
        __m512i most_k = _mm512_loadu_si512(counts->most_k + k);
        __m512 sum_k = _mm512_loadu_ps(counts->sum_k + k);
        TILE_UNROLL for (int j = 0; j < rows; ++j) {
            __m512i v = amx_size_bits(_mm512_maskz_loadu_ps(part, p[j] + k));
            most_k = _mm512_max_epi32(most_k, v);
            sum_k = _mm512_add_ps(sum_k, _mm512_castsi512_ps(v));
            most_n[j] = _mm512_max_epi32(most_n[j], v);
            sum_n[j] = _mm512_add_ps(sum_n[j], _mm512_castsi512_ps(v));
        }
        _mm512_storeu_si512(counts->most_k + k, most_k);
        _mm512_storeu_ps(counts->sum_k + k, sum_k);
    }
    TILE_UNROLL for (int j = 0; j < rows; ++j) {
        _mm512_store_si512(most + 16 * j, most_n[j]);
        _mm512_store_ps(sum + 16 * j, sum_n[j]);
    }
}

/* Rows n to n + count - 1, of 16 at most. */
static LANES_UNUSED __attribute__((noinline)) void fixed_count(const float *const *row, ptrdiff_t count, ptrdiff_t n,
                                                               ptrdiff_t K, fixed_counts *counts)
{
    float most[16][16] __attribute__((aligned(64))) = {{0}}, sum[16][16] __attribute__((aligned(64))) = {{0}};
    float turned[16][16] __attribute__((aligned(64)));
    __m512i largest = _mm512_setzero_si512();
    __m512 all = _mm512_setzero_ps();
    ptrdiff_t j = 0;
    for (; j + 8 <= count; j += 8)
        fixed_count_rows(8, row + j, K, counts, most[j], sum[j]);
    for (; j < count; ++j)
        fixed_count_rows(1, row + j, K, counts, most[j], sum[j]);
    f32_pack_block(most[0], 16, turned[0], 16);
    for (int i = 0; i < 16; ++i)
        largest = _mm512_max_epi32(largest, _mm512_load_si512(turned[i]));
    f32_pack_block(sum[0], 16, turned[0], 16);
    for (int i = 0; i < 16; ++i)
        all = _mm512_add_ps(all, _mm512_load_ps(turned[i]));
    _mm512_storeu_si512(counts->most_n + n, largest);
    _mm512_storeu_ps(counts->sum_n + n, all);
}

/* The largest and the least of the largest numbers of `count` rows or columns of `each`.  Returns whether that is all
 * there is to know: no number is large beside its own row or column, and units and powers are in range. */
LANES_INLINE int fixed_extremes(const float *most, const float *sum, ptrdiff_t count, ptrdiff_t each, float *largest,
                                float *least)
{
    const __m512 mean = _mm512_set1_ps(FIXED_SPREAD / (float)each);
    __m512i high = _mm512_setzero_si512(), low = _mm512_set1_epi32(0x7fffffff);
    __mmask16 spread = 0;
    for (ptrdiff_t k = 0; k < count; k += 16) {
        __m512i v = _mm512_loadu_si512(most + k);
        high = _mm512_max_epi32(high, v);
        low = _mm512_mask_min_epi32(low, _mm512_test_epi32_mask(v, v), low, v);
        spread |= _mm512_cmp_ps_mask(_mm512_castsi512_ps(v), _mm512_mul_ps(_mm512_loadu_ps(sum + k), mean), _CMP_GT_OQ);
    }
    *largest = fixed_float(_mm512_reduce_max_epi32(high));
    *least = fixed_float(_mm512_reduce_min_epi32(low));
    return !spread && *least >= 0x1p-40f && *largest <= 0x1p40f;
}

/* All is counted: whether all k, or all n, can have one power of two. */
static LANES_UNUSED void fixed_set_alike(fixed_counts *counts, ptrdiff_t K, ptrdiff_t N)
{
    float largest, least_k, least_n, power;
    int32_t bits;
    if (!fixed_extremes(counts->most_k, counts->sum_k, K, N, &largest, &least_k) ||
        !fixed_extremes(counts->most_n, counts->sum_n, N, K, &largest, &least_n))
        return;
    memcpy(&bits, &largest, sizeof bits);
    power = fixed_float(((bits >> 23) + 1) << 23); /* the largest number over it is from 1/2 to 1 */
    counts->power_k = least_k * FIXED_ALIKE >= largest ? power : 0;
    counts->power_n = least_n * FIXED_ALIKE >= largest ? power : 0;
}
#else
LANES_INLINE void fixed_count(const float *const *row, ptrdiff_t count, ptrdiff_t n, ptrdiff_t K, fixed_counts *counts)
{
    check(0, "no AMX");
}
LANES_INLINE void fixed_set_alike(fixed_counts *counts, ptrdiff_t K, ptrdiff_t N) { check(0, "no AMX"); }
#endif
#endif
