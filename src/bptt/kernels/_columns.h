/* The matrix of products in whole numbers, packed by columns; see _digits.h for what is in memory.
 *
 * First W is looked at, by row and by column at once: that will do where the largest numbers of all k are alike, so that
 * they share a power of two.  Where they aren't, from rows of W (N, K), which are columns of the product, all numbers of
 * each k are counted, for the powers of two, and 16 columns at a time look for their units as they are packed.  From lines
 * of W^T (K, N) each has its power as soon as it is counted, so the columns' units are known once all lines have been
 * through.
 */
#ifndef BPTT_COLUMNS_H
#define BPTT_COLUMNS_H

#include "_alike.h"
#include "_past.h"

#if AMX_BUILT
#define FIXED_LARGEST_W (157 << 23) /* 2^30: bits of what its largest number over the powers may be */

/* Of each k of 16 columns of W, or fewer: the largest |W[n, k]|, their sum, how many are not 0.  out: (3, Kp), 0 at first,
 * where W will go; row[j]: the K numbers of a column. */
static LANES_UNUSED void fixed_count_columns(const float *const row[16], ptrdiff_t columns, ptrdiff_t K, char *out)
{
    const ptrdiff_t Kp = fixed_padded(K);
    for (ptrdiff_t k = 0; k < K; k += 16) {
        float *at = (float *)out + k;
        __m512i most = _mm512_loadu_si512(at), count = _mm512_loadu_si512(at + 2 * Kp);
        __m512 sum = _mm512_loadu_ps(at + Kp);
        __mmask16 part = amx_mask(K - k);
        for (ptrdiff_t j = 0; j < columns; ++j) {
            __m512i v = amx_size_bits(_mm512_maskz_loadu_ps(part, row[j] + k));
            most = _mm512_max_epi32(most, v);
            sum = _mm512_add_ps(sum, _mm512_castsi512_ps(v));
            count = _mm512_mask_sub_epi32(count, _mm512_test_epi32_mask(v, v), count, _mm512_set1_epi32(-1));
        }
        _mm512_storeu_si512(at, most);
        _mm512_storeu_ps(at + Kp, sum);
        _mm512_storeu_si512(at + 2 * Kp, count);
    }
}

/* The powers of two of 16 k, of which those are counted.  Returns whether W is for here, as far as they tell. */
LANES_INLINE int fixed_power(__m512i most, __m512 sum, __m512i count, float *up)
{
    __m512i exponent = _mm512_srli_epi32(most, 23);
    __m512 all = _mm512_mul_ps(_mm512_castsi512_ps(most), _mm512_cvtepi32_ps(count));
    if (_mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(255 << 23)) ||
        _mm512_cmp_ps_mask(all, _mm512_mul_ps(sum, _mm512_set1_ps(FIXED_SPREAD)), _CMP_GT_OQ))
        return 0;
    /* the largest number over its power is from 1/2 to 1 */
    exponent = _mm512_min_epi32(_mm512_max_epi32(exponent, _mm512_set1_epi32(66)), _mm512_set1_epi32(186));
    exponent = _mm512_mask_mov_epi32(exponent, _mm512_testn_epi32_mask(most, most), _mm512_set1_epi32(126));
    _mm512_storeu_si512(up, _mm512_slli_epi32(_mm512_add_epi32(exponent, _mm512_set1_epi32(1)), 23));
    return 1;
}

/* All columns are counted. */
static LANES_UNUSED int fixed_set_powers(ptrdiff_t K, char *out)
{
    const ptrdiff_t Kp = fixed_padded(K);
    float *up = (float *)out;
    for (ptrdiff_t k = 0; k < Kp; k += 16)
        if (!fixed_power(_mm512_loadu_si512(up + k), _mm512_loadu_ps(up + Kp + k), _mm512_loadu_si512(up + 2 * Kp + k),
                         up + k))
            return 0;
    return 1;
}

/* One for all. */
LANES_INLINE void fixed_set_power(float power, ptrdiff_t K, char *out)
{
    for (ptrdiff_t k = 0; k < fixed_padded(K); k += 16)
        _mm512_storeu_ps((float *)out + k, _mm512_set1_ps(power));
}

LANES_INLINE fixed_columns *fixed_head(char *out, ptrdiff_t group, ptrdiff_t K)
{
    return (fixed_columns *)(out + fixed_padded(K) * sizeof(float) + group * fixed_apart(K));
}

LANES_INLINE void fixed_set_less(fixed_columns *columns, int sum, __m512i digits)
{
    _mm512_storeu_si512(columns->less[sum], _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), digits), 7));
}

/* Of the sums of W's digits, by digit. */
LANES_INLINE void fixed_set_all_less(fixed_columns *head, const __m512i sums[FIXED_DIGITS])
{
    /* digits 2 and 2; 2 and 1, 1 and 2; 2 and 0, 1 and 1, 0 and 2; 1 and 0, 0 and 1 */
    fixed_set_less(head, 0, sums[2]);
    fixed_set_less(head, 1, _mm512_add_epi32(sums[2], sums[1]));
    fixed_set_less(head, 2, _mm512_add_epi32(_mm512_add_epi32(sums[2], sums[1]), sums[0]));
    fixed_set_less(head, 3, _mm512_add_epi32(sums[1], sums[0]));
}

LANES_INLINE void fixed_copy(float *to, const float *from, __mmask16 part, int past)
{
    if (past)
        _mm512_stream_ps(to, _mm512_loadu_ps(from));
    else
        _mm512_mask_storeu_ps(to, part, _mm512_maskz_loadu_ps(part, from));
}

/* Those 16 columns, which are number `group`, once the powers are there; whether they are for here.  most: their largest
 * numbers, if all powers are the same, or NULL.  copy: NULL, or where row r goes as it is, at copy + (r - w), past the
 * caches if it can; the processor writes that while the digits are made. */
FIXED_FUNCTION int fixed_pack_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t group, const float *most,
                                      ptrdiff_t K, char *out, const float *w, float *copy)
{
    const ptrdiff_t Kp = fixed_padded(K);
    const int past = Kp == K && past_whole(copy, (size_t)K * sizeof(float));
    const float *up = (const float *)out;
    fixed_columns *head = fixed_head(out, group, K);
    char *tile = (char *)(head + 1);
    int32_t turned[FIXED_DIGITS][16][16] __attribute__((aligned(64)));
    float inverse[16];
    __m512i sums[FIXED_DIGITS], odd[FIXED_DIGITS];
    for (int j = 0; j < 16; ++j) {
        fixed_look look = {0, 0};
        float largest;
        if (j < columns && !most)
            look = fixed_at(row[j], up, 1, K);
        if ((look.largest && look.largest < FIXED_LEAST) || look.largest >= FIXED_LARGEST_W || look.spread)
            return 0;
        largest = most ? most[j] / up[0] : fixed_float(look.largest);
        head->unit[j] = largest / FIXED_MOST * 4294967296.0f;
        inverse[j] = largest ? FIXED_MOST / largest : 0;
        if (most)
            inverse[j] /= up[0];
    }
    if (most)
        up = NULL;
    for (int d = 0; d < FIXED_DIGITS; ++d)
        sums[d] = odd[d] = _mm512_setzero_si512();
    for (ptrdiff_t k = 0; k < Kp; k += FIXED_K) {
        const ptrdiff_t stride = fixed_stride(k, K);
        __mmask16 part[4];
        fixed_parts(k, K, part);
        for (int j = 0; j < 16; ++j) {
            const float *from = row[j < columns ? j : 0];
            __m512i v[4], digits[FIXED_DIGITS];
            for (int q = 0; q < 4; ++q)
                v[q] = _mm512_cvtps_epi32(_mm512_mul_ps(fixed_get(from, up, 1, k + q * stride, part[q]),
                                                        _mm512_set1_ps(inverse[j])));
            for (int q = 0; copy && q < 4; ++q)
                fixed_copy(copy + (from - w) + k + q * stride, from + k + q * stride, part[q], past);
            fixed_interleave(v, digits);
            for (int d = 0; d < FIXED_DIGITS; ++d)
                _mm512_store_si512(turned[d][j], _mm512_xor_si512(digits[d], _mm512_set1_epi8((char)0x80)));
        }
        for (int d = 0; d < FIXED_DIGITS; ++d) {
            f32_pack_block((const float *)turned[d], 16, (float *)(tile + d * FIXED_LINE), FIXED_FOUR / 4);
            for (int q = 0; q < 16; q += 2) {
                const char *line = tile + q * FIXED_FOUR + d * FIXED_LINE;
                sums[d] = _mm512_dpbusd_epi32(sums[d], _mm512_set1_epi8(1), _mm512_loadu_si512(line));
                odd[d] = _mm512_dpbusd_epi32(odd[d], _mm512_set1_epi8(1), _mm512_loadu_si512(line + FIXED_FOUR));
            }
        }
        tile += FIXED_BLOCK;
    }
    for (int d = 0; d < FIXED_DIGITS; ++d)
        sums[d] = _mm512_add_epi32(sums[d], odd[d]);
    fixed_set_all_less(head, sums);
    return 1;
}

LANES_INLINE __m512 fixed_inverse(const float *power)
{
    return _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32(254 << 23), _mm512_loadu_si512(power)));
}

/* 16 lines of W^T from line k on, those before K: their powers of two, and what 16 columns each have in them, divided by
 * those: the largest number, the sum, how many are not 0, in head->less.  The first lines come first; returns as
 * `fixed_power`. */
static LANES_UNUSED int fixed_count_lines(const float *const line[16], ptrdiff_t k, ptrdiff_t K, ptrdiff_t N, char *out)
{
    const int some = K - k < 16 ? (K - k > 0 ? (int)(K - k) : 0) : 16;
    float sums[16] = {0}, inverse[16];
    int32_t largest[16] = {0}, counts[16] = {0};
    for (int i = 0; i < some; ++i) {
        __m512i most = _mm512_setzero_si512(), count = most;
        __m512 sum = _mm512_setzero_ps();
        for (ptrdiff_t n = 0; n < N; n += 16) {
            __m512i v = amx_size_bits(_mm512_maskz_loadu_ps(amx_mask(N - n), line[i] + n));
            most = _mm512_max_epi32(most, v);
            sum = _mm512_add_ps(sum, _mm512_castsi512_ps(v));
            count = _mm512_mask_sub_epi32(count, _mm512_test_epi32_mask(v, v), count, _mm512_set1_epi32(-1));
        }
        largest[i] = _mm512_reduce_max_epi32(most);
        sums[i] = _mm512_reduce_add_ps(sum);
        counts[i] = _mm512_reduce_add_epi32(count);
    }
    if (!fixed_power(_mm512_loadu_si512(largest), _mm512_loadu_ps(sums), _mm512_loadu_si512(counts), (float *)out + k))
        return 0;
    _mm512_storeu_ps(inverse, fixed_inverse((float *)out + k));
    for (ptrdiff_t n = 0; n < N; n += 16) {
        fixed_columns *head = fixed_head(out, n / 16, K);
        __mmask16 part = amx_mask(N - n);
        __m512i most[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, count = most[0];
        __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        if (k) {
            most[0] = _mm512_loadu_si512(head->less[0]);
            sum[0] = _mm512_loadu_ps(head->less[1]);
            count = _mm512_loadu_si512(head->less[2]);
        }
        for (int i = 0; i < some; ++i) {
            __m512i v = amx_size_bits(_mm512_mul_ps(_mm512_maskz_loadu_ps(part, line[i] + n),
                                                      _mm512_set1_ps(inverse[i])));
            most[i & 1] = _mm512_max_epi32(most[i & 1], v);
            sum[i & 1] = _mm512_add_ps(sum[i & 1], _mm512_castsi512_ps(v));
            count = _mm512_mask_sub_epi32(count, _mm512_test_epi32_mask(v, v), count, _mm512_set1_epi32(-1));
        }
        _mm512_storeu_si512(head->less[2], count);
        _mm512_storeu_si512(head->less[0], _mm512_max_epi32(most[0], most[1]));
        _mm512_storeu_ps(head->less[1], _mm512_add_ps(sum[0], sum[1]));
    }
    return 1;
}

/* `fixed_set_units` after this is as if all lines had been counted one by one. */
static LANES_UNUSED void fixed_set_lines(const fixed_counts *counts, ptrdiff_t K, ptrdiff_t N, char *out)
{
    const __m512 inverse = _mm512_set1_ps(1 / counts->power_n);
    fixed_set_power(counts->power_n, N, out);
    for (ptrdiff_t k = 0; k < K; k += 16) {
        fixed_columns *head = fixed_head(out, k / 16, N);
        _mm512_storeu_ps(head->less[0], _mm512_mul_ps(_mm512_loadu_ps(counts->most_k + k), inverse));
        _mm512_storeu_ps(head->less[1], _mm512_mul_ps(_mm512_loadu_ps(counts->sum_k + k), inverse));
        _mm512_storeu_si512(head->less[2], _mm512_set1_epi32((int)N));
    }
}

/* All lines are counted: the columns' units; in head->less their inverses and sums of digits, none yet.  Returns whether
 * W is for here. */
static LANES_UNUSED int fixed_set_units(ptrdiff_t K, ptrdiff_t N, char *out)
{
    for (ptrdiff_t n = 0; n < N; n += 16) {
        fixed_columns *head = fixed_head(out, n / 16, K);
        __m512i most = _mm512_loadu_si512(head->less[0]);
        __m512 largest = _mm512_castsi512_ps(most);
        __m512 all = _mm512_mul_ps(largest, _mm512_cvtepi32_ps(_mm512_loadu_si512(head->less[2])));
        __mmask16 any = _mm512_test_epi32_mask(most, most);
        if (_mm512_mask_cmplt_epi32_mask(any, most, _mm512_set1_epi32(FIXED_LEAST)) ||
            _mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(FIXED_LARGEST_W)) ||
            _mm512_cmp_ps_mask(all, _mm512_mul_ps(_mm512_loadu_ps(head->less[1]), _mm512_set1_ps(FIXED_SPREAD)),
                               _CMP_GT_OQ))
            return 0;
        _mm512_storeu_ps(head->unit, _mm512_mul_ps(largest, _mm512_set1_ps(4294967296.0f / FIXED_MOST)));
        _mm512_storeu_ps(head->less[FIXED_DIGITS], _mm512_maskz_div_ps(any, _mm512_set1_ps(FIXED_MOST), largest));
        for (int d = 0; d < FIXED_DIGITS; ++d)
            _mm512_storeu_si512(head->less[d], _mm512_setzero_si512());
    }
    return 1;
}

/* Digits of the lines of W^T from line k on, FIXED_K of them or those before K. */
FIXED_FUNCTION void fixed_pack_lines(const float *const *line, ptrdiff_t k, ptrdiff_t K, ptrdiff_t N, char *out)
{
    const ptrdiff_t stride = fixed_stride(k, K);
    float power[FIXED_K];
    for (int i = 0; i < FIXED_K; i += 16)
        _mm512_storeu_ps(power + i, fixed_inverse((float *)out + k + i));
    for (ptrdiff_t n = 0; n < N; n += 16) {
        fixed_columns *head = fixed_head(out, n / 16, K);
        char *tile = (char *)(head + 1) + k / 4 * FIXED_FOUR;
        const __mmask16 part = amx_mask(N - n);
        const __m512 inverse = _mm512_loadu_ps(head->less[FIXED_DIGITS]);
        __m512i sums[FIXED_DIGITS];
        for (int d = 0; d < FIXED_DIGITS; ++d)
            sums[d] = _mm512_loadu_si512(head->less[d]);
        for (ptrdiff_t four = 0; four < 16; ++four, tile += FIXED_FOUR) {
            __m512i v[4], digits[FIXED_DIGITS];
            for (int q = 0; q < 4; ++q) {
                const ptrdiff_t i = q * stride + four;
                v[q] = _mm512_setzero_si512();
                if (four < stride && k + i < K)
                    v[q] = _mm512_cvtps_epi32(_mm512_mul_ps(
                        _mm512_mul_ps(_mm512_maskz_loadu_ps(part, line[i] + n), _mm512_set1_ps(power[i])), inverse));
            }
            fixed_interleave(v, digits);
            for (int d = 0; d < FIXED_DIGITS; ++d) {
                digits[d] = _mm512_xor_si512(digits[d], _mm512_set1_epi8((char)0x80));
                _mm512_storeu_si512(tile + d * FIXED_LINE, digits[d]);
                sums[d] = _mm512_dpbusd_epi32(sums[d], _mm512_set1_epi8(1), digits[d]);
            }
        }
        if (k + FIXED_K >= K)
            fixed_set_all_less(head, sums);
        else
            for (int d = 0; d < FIXED_DIGITS; ++d)
                _mm512_storeu_si512(head->less[d], sums[d]);
    }
}

/* W[n, k] again, as it is known here. */
static LANES_UNUSED double fixed_number(const char *packed, ptrdiff_t K, ptrdiff_t n, ptrdiff_t k)
{
    const ptrdiff_t first = k / FIXED_K * FIXED_K, stride = fixed_stride(first, K), four = first / 4 + (k - first) % stride;
    const char *at = packed + fixed_padded(K) * sizeof(float) + n / 16 * fixed_apart(K);
    const signed char *digit = (const signed char *)at + sizeof(fixed_columns) + four * FIXED_FOUR + n % 16 * 4
                               + (k - first) / stride;
    double v = (digit[2 * FIXED_LINE] * 256.0 + digit[FIXED_LINE]) * 256.0 + digit[0];
    return v * ((const fixed_columns *)at)->unit[n % 16] / 4294967296.0 * ((const float *)packed)[k];
}

#else
LANES_INLINE void fixed_count_columns(const float *const row[16], ptrdiff_t columns, ptrdiff_t K, char *out)
{
    check(0, "no AMX");
}
LANES_INLINE int fixed_count_lines(const float *const line[16], ptrdiff_t k, ptrdiff_t K, ptrdiff_t N, char *out)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE int fixed_set_units(ptrdiff_t K, ptrdiff_t N, char *out)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE int fixed_set_powers(ptrdiff_t K, char *out)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE int fixed_pack_columns(const float *const *row, ptrdiff_t columns, ptrdiff_t group, const float *most,
                                    ptrdiff_t K, char *out, const float *w, float *copy)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE void fixed_set_power(float power, ptrdiff_t K, char *out) { check(0, "no AMX"); }
LANES_INLINE void fixed_set_lines(const fixed_counts *counts, ptrdiff_t K, ptrdiff_t N, char *out)
{
    check(0, "no AMX");
}
LANES_INLINE void fixed_pack_lines(const float *const *line, ptrdiff_t k, ptrdiff_t K, ptrdiff_t N, char *out)
{
    check(0, "no AMX");
}
LANES_INLINE double fixed_number(const char *packed, ptrdiff_t K, ptrdiff_t n, ptrdiff_t k)
{
    check(0, "no AMX");
    return 0;
}
#endif
#endif
