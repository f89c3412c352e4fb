/* The matrix of products in whole numbers, packed by columns; see _digits.h for what is in memory.
 *
 * First all numbers of each k are counted, by columns or by lines, for the powers of two; then 16 columns at a time are
 * packed, from rows of W (N, K), which are columns of the product, or from lines of W^T (K, N).
 */
#ifndef BPTT_COLUMNS_H
#define BPTT_COLUMNS_H

#include "_digits.h"

/* A matrix (K, N) as its lines lie: the first head_lines of them at head, the others at body. */
typedef struct {
    const float *head, *body;
    ptrdiff_t head_lines, ld;
} fixed_lines;

LANES_INLINE const float *fixed_line(const fixed_lines *lines, ptrdiff_t k)
{
    return k < lines->head_lines ? lines->head + k * lines->ld : lines->body + (k - lines->head_lines) * lines->ld;
}

#if AMX_BUILT
#define FIXED_LARGEST_W (157 << 23) /* 2^30: bits of what its largest number over the powers may be */

/* 16 numbers of line k, from column `first` on, divided by its power. */
LANES_INLINE __m512 fixed_get_line(const fixed_lines *lines, const float *up, ptrdiff_t first, ptrdiff_t k,
                                   __mmask16 part)
{
    int32_t power;
    memcpy(&power, up + k, sizeof power);
    return _mm512_mul_ps(_mm512_maskz_loadu_ps(part, fixed_line(lines, k) + first),
                         _mm512_castsi512_ps(_mm512_set1_epi32((254 << 23) - power)));
}

/* Of each k of 16 columns of W, or fewer: the largest |W[n, k]|, their sum, how many are not 0.  out: (3, Kp), 0 at first,
 * where W will go; row[j]: the K numbers of a column. */
static LANES_UNUSED void fixed_count_columns(const float *const row[16], ptrdiff_t columns, ptrdiff_t K, char *out)
{
    const ptrdiff_t Kp = fixed_padded(K);
    for (ptrdiff_t k = 0; k < K; k += 16) {
        float *at = (float *)out + k;
        __m512i most = _mm512_loadu_si512(at), count = _mm512_loadu_si512(at + 2 * Kp);
        __m512 sum = _mm512_loadu_ps(at + Kp);
        __mmask16 part = fixed_mask(K - k);
        for (ptrdiff_t j = 0; j < columns; ++j) {
            __m512i v = fixed_size_bits(_mm512_maskz_loadu_ps(part, row[j] + k));
            most = _mm512_max_epi32(most, v);
            sum = _mm512_add_ps(sum, _mm512_castsi512_ps(v));
            count = _mm512_mask_sub_epi32(count, _mm512_test_epi32_mask(v, v), count, _mm512_set1_epi32(-1));
        }
        _mm512_storeu_si512(at, most);
        _mm512_storeu_ps(at + Kp, sum);
        _mm512_storeu_si512(at + 2 * Kp, count);
    }
}

/* Of one k of N columns. */
static LANES_UNUSED void fixed_count_row(const float *row, ptrdiff_t N, ptrdiff_t k, ptrdiff_t K, char *out)
{
    float *at = (float *)out + k;
    __m512i most = _mm512_setzero_si512();
    __m512 sum = _mm512_setzero_ps();
    int32_t count = 0, largest;
    for (ptrdiff_t n = 0; n < N; n += 16) {
        __m512i v = fixed_size_bits(_mm512_maskz_loadu_ps(fixed_mask(N - n), row + n));
        most = _mm512_max_epi32(most, v);
        sum = _mm512_add_ps(sum, _mm512_castsi512_ps(v));
        count += __builtin_popcount(_mm512_test_epi32_mask(v, v));
    }
    largest = _mm512_reduce_max_epi32(most);
    memcpy(at, &largest, sizeof largest);
    at[fixed_padded(K)] = _mm512_reduce_add_ps(sum);
    memcpy(at + 2 * fixed_padded(K), &count, sizeof count);
}

/* All columns are counted: the powers of two.  Returns whether W is for here, as far as they tell. */
static LANES_UNUSED int fixed_set_powers(ptrdiff_t K, char *out)
{
    const ptrdiff_t Kp = fixed_padded(K);
    float *up = (float *)out;
    for (ptrdiff_t k = 0; k < Kp; k += 16) {
        __m512i most = _mm512_loadu_si512(up + k), exponent = _mm512_srli_epi32(most, 23);
        __m512 all = _mm512_mul_ps(_mm512_castsi512_ps(most),
                                   _mm512_cvtepi32_ps(_mm512_loadu_si512(up + 2 * Kp + k)));
        if (_mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(255 << 23)) ||
            _mm512_cmp_ps_mask(all, _mm512_mul_ps(_mm512_loadu_ps(up + Kp + k), _mm512_set1_ps(FIXED_SPREAD)),
                               _CMP_GT_OQ))
            return 0;
        /* the largest number over its power is from 1/2 to 1 */
        exponent = _mm512_min_epi32(_mm512_max_epi32(exponent, _mm512_set1_epi32(66)), _mm512_set1_epi32(186));
        exponent = _mm512_mask_mov_epi32(exponent, _mm512_testn_epi32_mask(most, most), _mm512_set1_epi32(126));
        _mm512_storeu_si512(up + k, _mm512_slli_epi32(_mm512_add_epi32(exponent, _mm512_set1_epi32(1)), 23));
    }
    return 1;
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

/* Those 16 columns, which are number `group`, once the powers are there; whether they are for here. */
FIXED_FUNCTION int fixed_pack_columns(const float *const row[16], ptrdiff_t columns, ptrdiff_t group, ptrdiff_t K,
                                      char *out)
{
    const ptrdiff_t Kp = fixed_padded(K);
    const float *up = (const float *)out;
    fixed_columns *head = (fixed_columns *)(out + Kp * sizeof(float) + group * fixed_apart(K));
    char *tile = (char *)(head + 1);
    int32_t turned[FIXED_DIGITS][16][16] __attribute__((aligned(64)));
    float inverse[16];
    __m512i sums[FIXED_DIGITS], odd[FIXED_DIGITS];
    for (int j = 0; j < 16; ++j) {
        fixed_look look = {0, 0};
        if (j < columns)
            look = fixed_at(row[j], up, 1, K);
        if ((look.largest && look.largest < FIXED_LEAST) || look.largest >= FIXED_LARGEST_W || look.spread)
            return 0;
        head->unit[j] = fixed_float(look.largest) / FIXED_MOST * 4294967296.0f;
        inverse[j] = look.largest ? FIXED_MOST / fixed_float(look.largest) : 0;
    }
    for (int d = 0; d < FIXED_DIGITS; ++d)
        sums[d] = odd[d] = _mm512_setzero_si512();
    for (ptrdiff_t k = 0; k < Kp; k += FIXED_K) {
        for (int j = 0; j < 16; ++j) {
            __m512i v[4], digits[FIXED_DIGITS];
            for (int q = 0; q < 4; ++q)
                v[q] = _mm512_cvtps_epi32(_mm512_mul_ps(fixed_get(row[j < columns ? j : 0], up, 1, k + 16 * q, K),
                                                        _mm512_set1_ps(inverse[j])));
            fixed_digits(v, digits);
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

/* Of 16 columns: the largest numbers' bits; whether one of them is large beside the others that are not 0. */
LANES_INLINE int fixed_look_down(const fixed_lines *lines, const float *up, ptrdiff_t first, __mmask16 part, ptrdiff_t K,
                                 __m512i *largest)
{
    __m512i most[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, count = most[0];
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, mean;
    for (ptrdiff_t k = 0; k < K; ++k) {
        __m512i v = fixed_size_bits(fixed_get_line(lines, up, first, k, part));
        most[k & 1] = _mm512_max_epi32(most[k & 1], v);
        sum[k & 1] = _mm512_add_ps(sum[k & 1], _mm512_castsi512_ps(v));
    }
    *largest = _mm512_max_epi32(most[0], most[1]);
    mean = _mm512_mul_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_set1_ps(FIXED_SPREAD));
    if (!_mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_castsi512_ps(*largest), _mm512_set1_ps((float)K)), mean, _CMP_GT_OQ))
        return 0;
    for (ptrdiff_t k = 0; k < K; ++k) { /* unless it is zeros that make the mean so small */
        __m512i v = fixed_size_bits(fixed_get_line(lines, up, first, k, part));
        count = _mm512_mask_sub_epi32(count, _mm512_test_epi32_mask(v, v), count, _mm512_set1_epi32(-1));
    }
    return _mm512_cmp_ps_mask(_mm512_mul_ps(_mm512_castsi512_ps(*largest), _mm512_cvtepi32_ps(count)), mean,
                              _CMP_GT_OQ) != 0;
}

/* The bytes of 4 k of 16 columns, by digit: what a line of W is, but for the sign. */
LANES_INLINE void fixed_interleave(const __m512i v[4], __m512i to[FIXED_DIGITS])
{
    const __m512i even = _mm512_set1_epi32(0x00ff00ff), lower = _mm512_set1_epi32(0xffff);
    /* where a mask has a bit the first, else the second: 0xca */
    __m512i low = _mm512_ternarylogic_epi32(even, v[0], _mm512_slli_epi32(v[1], 8), 0xca);
    __m512i low_2 = _mm512_ternarylogic_epi32(even, v[2], _mm512_slli_epi32(v[3], 8), 0xca);
    __m512i high = _mm512_ternarylogic_epi32(even, _mm512_srli_epi32(v[0], 8), v[1], 0xca);
    __m512i high_2 = _mm512_ternarylogic_epi32(even, _mm512_srli_epi32(v[2], 8), v[3], 0xca);
    to[0] = _mm512_ternarylogic_epi32(lower, low, _mm512_slli_epi32(low_2, 16), 0xca);
    to[1] = _mm512_ternarylogic_epi32(lower, high, _mm512_slli_epi32(high_2, 16), 0xca);
    to[2] = _mm512_ternarylogic_epi32(lower, _mm512_srli_epi32(low, 16), low_2, 0xca);
}

/* As `fixed_pack_columns`, of 16 columns or fewer of W^T, whose lines are what they are columns of; from column `first`. */
FIXED_FUNCTION int fixed_pack_lines(const fixed_lines *lines, ptrdiff_t first, ptrdiff_t columns, ptrdiff_t group,
                                    ptrdiff_t K, char *out)
{
    const ptrdiff_t Kp = fixed_padded(K);
    const __mmask16 part = fixed_mask(columns);
    const float *up = (const float *)out;
    fixed_columns *head = (fixed_columns *)(out + Kp * sizeof(float) + group * fixed_apart(K));
    char *tile = (char *)(head + 1);
    const __m512i zero = _mm512_setzero_si512();
    __m512i most, sums[FIXED_DIGITS] = {zero, zero, zero};
    __m512 largest, inverse;
    if (fixed_look_down(lines, up, first, part, K, &most))
        return 0;
    largest = _mm512_castsi512_ps(most);
    if (_mm512_mask_cmplt_epi32_mask(_mm512_test_epi32_mask(most, most), most, _mm512_set1_epi32(FIXED_LEAST)) ||
        _mm512_cmpge_epi32_mask(most, _mm512_set1_epi32(FIXED_LARGEST_W)))
        return 0;
    _mm512_storeu_ps(head->unit, _mm512_mul_ps(largest, _mm512_set1_ps(4294967296.0f / FIXED_MOST)));
    inverse = _mm512_maskz_div_ps(_mm512_test_epi32_mask(most, most), _mm512_set1_ps(FIXED_MOST), largest);
    for (ptrdiff_t k = 0; k < Kp; k += 4, tile += FIXED_FOUR) {
        __m512i v[4], digits[FIXED_DIGITS];
        for (int i = 0; i < 4; ++i) {
            v[i] = _mm512_set1_epi32(0x808080);
            if (k + i < K)
                v[i] = _mm512_add_epi32(v[i], _mm512_cvtps_epi32(_mm512_mul_ps(
                    fixed_get_line(lines, up, first, k + i, part), inverse)));
        }
        fixed_interleave(v, digits);
        for (int d = 0; d < FIXED_DIGITS; ++d) {
            digits[d] = _mm512_xor_si512(digits[d], _mm512_set1_epi8((char)0x80));
            _mm512_storeu_si512(tile + d * FIXED_LINE, digits[d]);
            sums[d] = _mm512_dpbusd_epi32(sums[d], _mm512_set1_epi8(1), digits[d]);
        }
    }
    fixed_set_all_less(head, sums);
    return 1;
}

/* W[n, k] again, as it is known here. */
static LANES_UNUSED double fixed_number(const char *packed, ptrdiff_t K, ptrdiff_t n, ptrdiff_t k)
{
    const char *at = packed + fixed_padded(K) * sizeof(float) + n / 16 * fixed_apart(K);
    const signed char *digit = (const signed char *)at + sizeof(fixed_columns) + k / 4 * FIXED_FOUR + n % 16 * 4 + k % 4;
    double v = (digit[2 * FIXED_LINE] * 256.0 + digit[FIXED_LINE]) * 256.0 + digit[0];
    return v * ((const fixed_columns *)at)->unit[n % 16] / 4294967296.0 * ((const float *)packed)[k];
}

#else
LANES_INLINE void fixed_count_columns(const float *const row[16], ptrdiff_t columns, ptrdiff_t K, char *out)
{
    check(0, "no AMX");
}
LANES_INLINE void fixed_count_row(const float *row, ptrdiff_t N, ptrdiff_t k, ptrdiff_t K, char *out)
{
    check(0, "no AMX");
}
LANES_INLINE int fixed_set_powers(ptrdiff_t K, char *out)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE int fixed_pack_columns(const float *const row[16], ptrdiff_t columns, ptrdiff_t group, ptrdiff_t K,
                                    char *out)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE int fixed_pack_lines(const fixed_lines *lines, ptrdiff_t first, ptrdiff_t columns, ptrdiff_t group,
                                  ptrdiff_t K, char *out)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE double fixed_number(const char *packed, ptrdiff_t K, ptrdiff_t n, ptrdiff_t k)
{
    check(0, "no AMX");
    return 0;
}
#endif
#endif
