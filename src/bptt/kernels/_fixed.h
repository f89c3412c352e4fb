/* Products of float32 matrices in whole numbers of 24 bits, C (rows, N) = A (rows, K) W^T, W (N, K); see _digits.h.
 *
 * One row is multiplied by a vector instruction, of four numbers of 8 bits at a time in each of 16 columns; more of them by
 * the AMX unit, 16 rows and columns and 64 numbers at a time.
 */
#ifndef BPTT_FIXED_H
#define BPTT_FIXED_H

#include "_columns.h"
#include "_tile.h"

#define FIXED_AHEAD (1 << 20) /* bytes of a matrix of which the next columns are fetched while these are used */

#if AMX_BUILT
/* The sums' product with the units: base + (high + 2^-8 (middle + 2^-8 (low + 2^-8 lowest))) units; lowest if fine.  They
 * have begun with what is less for the 128 that A's digits are larger. */
LANES_INLINE __m512 fixed_times_units(int fine, const __m512i sums[FIXED_SUMS], __m512 unit, float scale, float row_unit,
                                      __m512 base)
{
    __m512 v = _mm512_setzero_ps();
    for (int n = FIXED_SUMS - 1 - !fine; n >= 0; --n) {
        __m512 sum = _mm512_cvtepi32_ps(sums[n]);
        v = n == FIXED_SUMS - 1 - !fine ? sum : _mm512_fmadd_ps(v, _mm512_set1_ps(1 / 256.0f), sum);
    }
    v = _mm512_mul_ps(_mm512_mul_ps(v, unit), _mm512_set1_ps(scale));
    return _mm512_fmadd_ps(v, _mm512_set1_ps(row_unit), base);
}

LANES_INLINE __m512 fixed_base(const float *c, const float *bias, int add, __mmask16 part)
{
    return add ? _mm512_maskz_loadu_ps(part, c) : bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
}

/* Groups of 16 columns that a row alone is multiplied by at once.  24 products then take 15 loads, which what comes
 * from the second-level cache holds up; with two groups 18, and a recurrence of 256 units takes 5% longer. */
#define FIXED_GROUPS 4

/* Of one row and so many groups of columns.  Few groups have sums of their own for each pair of digits: a product takes
 * five cycles, in each of which two begin. */
FIXED_INLINE void fixed_row_columns(int groups, int fine, const fixed_rows *rows, const uint8_t *w, ptrdiff_t K,
                                    ptrdiff_t n, ptrdiff_t N, const float *bias, int add)
{
    const ptrdiff_t Kp = fixed_padded(K), apart = fixed_apart(K);
    const int own = groups < 3;
    const uint8_t *a = rows->digits, *tile = w + sizeof(fixed_columns);
    __m512i high[FIXED_GROUPS], middle[FIXED_GROUPS][2], low[FIXED_GROUPS][3], lowest[FIXED_GROUPS][2];
    TILE_UNROLL for (int g = 0; g < groups; ++g) {
        const fixed_columns *columns = (const fixed_columns *)(w + g * apart);
        high[g] = _mm512_loadu_si512(columns->less[0]);
        middle[g][0] = _mm512_loadu_si512(columns->less[1]);
        low[g][0] = _mm512_loadu_si512(columns->less[2]);
        lowest[g][0] = _mm512_loadu_si512(columns->less[3]);
        middle[g][1] = low[g][1] = low[g][2] = lowest[g][1] = _mm512_setzero_si512();
    }
    TILE_UNROLL_4 for (ptrdiff_t k = 0; k < K; k += 4, tile += FIXED_FOUR) {
        int32_t four[FIXED_DIGITS];
        __m512i x[FIXED_DIGITS];
        for (int d = 0; d < FIXED_DIGITS; ++d) {
            memcpy(&four[d], a + d * Kp + k, 4);
            x[d] = _mm512_set1_epi32(four[d]);
        }
        TILE_UNROLL for (int g = 0; g < groups; ++g) {
            const uint8_t *p = tile + g * apart;
            __m512i low_w = _mm512_loadu_si512(p), middle_w = _mm512_loadu_si512(p + FIXED_LINE);
            __m512i high_w = _mm512_loadu_si512(p + 2 * FIXED_LINE);
            if (fine) {
                lowest[g][0] = _mm512_dpbusd_epi32(lowest[g][0], x[1], low_w);
                lowest[g][own] = _mm512_dpbusd_epi32(lowest[g][own], x[0], middle_w);
            }
            low[g][0] = _mm512_dpbusd_epi32(low[g][0], x[2], low_w);
            low[g][1] = _mm512_dpbusd_epi32(low[g][1], x[1], middle_w);
            middle[g][0] = _mm512_dpbusd_epi32(middle[g][0], x[2], middle_w);
            high[g] = _mm512_dpbusd_epi32(high[g], x[2], high_w);
            low[g][2 * own] = _mm512_dpbusd_epi32(low[g][2 * own], x[0], high_w);
            middle[g][own] = _mm512_dpbusd_epi32(middle[g][own], x[1], high_w);
        }
    }
    TILE_UNROLL for (int g = 0; g < groups; ++g) {
        float *c = rows->c[0] + n + 16 * g;
        __mmask16 part = amx_mask(N - n - 16 * g);
        __m512i sums[FIXED_SUMS];
        sums[0] = high[g];
        sums[1] = _mm512_add_epi32(middle[g][0], middle[g][1]);
        sums[2] = _mm512_add_epi32(_mm512_add_epi32(low[g][0], low[g][1]), low[g][2]);
        sums[3] = _mm512_add_epi32(lowest[g][0], lowest[g][1]);
        __m512 base = fixed_base(c, bias ? bias + n + 16 * g : NULL, add || rows->rest[0], part);
        __m512 unit = _mm512_loadu_ps(((const fixed_columns *)(w + g * apart))->unit);
        _mm512_mask_storeu_ps(c, part, fixed_times_units(fine, sums, unit, rows->scale[0], rows->unit[0], base));
    }
}

typedef void fixed_row_function(const fixed_rows *rows, const uint8_t *w, ptrdiff_t K, ptrdiff_t n, ptrdiff_t N,
                                const float *bias, int add);

#define FIXED_DEFINE_ROW(GROUPS, FINE)                                                                 \
    FIXED_FUNCTION void fixed_row_##GROUPS##FINE(const fixed_rows *rows, const uint8_t *w, ptrdiff_t K, \
                                                 ptrdiff_t n, ptrdiff_t N, const float *bias, int add) \
    {                                                                                                  \
        fixed_row_columns(GROUPS, FINE, rows, w, K, n, N, bias, add);                                  \
    }
FIXED_DEFINE_ROW(1, 0)
FIXED_DEFINE_ROW(2, 0)
FIXED_DEFINE_ROW(3, 0)
FIXED_DEFINE_ROW(4, 0)
FIXED_DEFINE_ROW(1, 1)
FIXED_DEFINE_ROW(2, 1)
FIXED_DEFINE_ROW(3, 1)
FIXED_DEFINE_ROW(4, 1)

/* `fixed_multiply` of one row. */
LANES_INLINE void fixed_row(const fixed_rows *rows, const uint8_t *w, ptrdiff_t K, ptrdiff_t N, int fine,
                            const float *bias, int add, int backwards)
{
    static fixed_row_function *const of[2][FIXED_GROUPS] = {{fixed_row_10, fixed_row_20, fixed_row_30, fixed_row_40},
                                                            {fixed_row_11, fixed_row_21, fixed_row_31, fixed_row_41}};
    const ptrdiff_t groups = (N + 15) / 16, steps = (groups + FIXED_GROUPS - 1) / FIXED_GROUPS;
    for (ptrdiff_t s = 0; s < steps; ++s) {
        const ptrdiff_t g = (backwards ? steps - 1 - s : s) * FIXED_GROUPS, left = groups - g;
        of[fine != 0][(left < FIXED_GROUPS ? left : FIXED_GROUPS) - 1](rows, w + g * fixed_apart(K), K, 16 * g, N, bias,
                                                                      add);
    }
}

#define FIXED_DOT(C, A, W) __asm__ volatile("tdpbusd %%tmm" #W ", %%tmm" #A ", %%tmm" #C ::: "memory")
#define FIXED_LEFT(T, d) AMX_LOAD(T, a + (d) * Kp + k, each)
#define FIXED_RIGHT(T, d) AMX_LOAD(T, w + (d) * FIXED_LINE, FIXED_FOUR)
#define FIXED_BEGIN(T, n) AMX_LOAD(T, less[n], 0) /* in all rows */
#define FIXED_FETCH(d)                                                                                 \
    for (int q = 0; ahead && q < FIXED_BLOCK / 3; q += 64)                                             \
        __builtin_prefetch(ahead + (d) * (FIXED_BLOCK / 3) + q, 0, 2);

/* Sums of 16 rows from `next` on, up to `last`, and 16 columns from n on, which are W's `columns`; on their way to C, see
 * amx_sum. */
typedef struct {
    const fixed_rows *rows;
    const fixed_columns *columns;
    const int32_t *from;
    const float *bias;
    ptrdiff_t next, last, n;
    int add, plain; /* plain: all rows' scales are 1, and none is a rest */
    __mmask16 part;
} fixed_sum;

#define FIXED_PUTS 6 /* rows for each 64 k, but the first: what the unit has made last is not in memory yet */

/* All but the sums and C is loaded once: tiles leave half of what can be loaded, and what is loaded beyond that the unit
 * waits for. */
LANES_INLINE void fixed_put_rows(int fine, int plain, const fixed_sum *sum, ptrdiff_t last)
{
    const fixed_rows *rows = sum->rows;
    const int32_t *from = sum->from;
    const ptrdiff_t n = sum->n;
    const int add = sum->add;
    const __mmask16 part = sum->part;
    const __m512 unit = _mm512_loadu_ps(sum->columns->unit);
    const __m512 bias = sum->bias ? _mm512_loadu_ps(sum->bias) : _mm512_setzero_ps();
    for (ptrdiff_t i = sum->next; i < last; ++i, from += 16) {
        float *c = rows->c[i] + n;
        __m512i sums[FIXED_SUMS];
        __m512 base = bias;
        for (int k = 0; k < FIXED_SUMS - !fine; ++k)
            sums[k] = _mm512_load_si512(from + 256 * k);
        if (add || (!plain && rows->rest[i]))
            base = _mm512_maskz_loadu_ps(part, c);
        base = fixed_times_units(fine, sums, unit, plain ? 1 : rows->scale[i], rows->unit[i], base);
        _mm512_mask_storeu_ps(c, part, base);
    }
}

LANES_INLINE void fixed_put(int fine, fixed_sum *sum, int count)
{
    const ptrdiff_t left = sum->last - sum->next, some = left < count ? left : count;
    if (some <= 0)
        return;
    if (sum->plain)
        fixed_put_rows(fine, 1, sum, sum->next + some);
    else
        fixed_put_rows(fine, 0, sum, sum->next + some);
    sum->next += some;
    sum->from += 16 * some;
}

/* The three sums of 16 rows and 16 columns, which begin with `less`.  ahead: what comes after w, or NULL; before: other
 * sums, which go where they belong meanwhile.
 *
 * The order is such that of the next three sums, which the unit begins as soon as one of these is stored, none waits
 * for its place, and no tile is read twice: where somebody else uses the unit too, reading takes as long as multiplying. */
static LANES_UNUSED __attribute__((noinline)) void fixed_multiply_coarse(const uint8_t *a, ptrdiff_t each, ptrdiff_t Kp,
                                                                         const uint8_t *w, const int32_t (*less)[16],
                                                                         int32_t *sums, const uint8_t *ahead,
                                                                         fixed_sum *before)
{
    FIXED_BEGIN(0, 0); FIXED_BEGIN(1, 1); FIXED_BEGIN(2, 2);
    for (ptrdiff_t k = 0; k < Kp; k += FIXED_K, w += FIXED_BLOCK) {
        FIXED_RIGHT(7, 2);
        FIXED_LEFT(6, 2); FIXED_DOT(0, 6, 7);
        FIXED_LEFT(5, 1); FIXED_DOT(1, 5, 7);
        FIXED_FETCH(0)
        FIXED_RIGHT(3, 1); FIXED_DOT(1, 6, 3); FIXED_DOT(2, 5, 3);
        FIXED_FETCH(1)
        FIXED_LEFT(4, 0); FIXED_DOT(2, 4, 7);
        FIXED_RIGHT(7, 0); FIXED_DOT(2, 6, 7);
        FIXED_FETCH(2)
        if (k > 0)
            fixed_put(0, before, FIXED_PUTS);
        if (ahead)
            ahead += FIXED_BLOCK;
    }
    fixed_put(0, before, 16);
    AMX_STORE(0, sums, 64); AMX_STORE(1, sums + 256, 64); AMX_STORE(2, sums + 512, 64);
}

/* The four sums, if fine. */
static LANES_UNUSED __attribute__((noinline)) void fixed_multiply_fine(const uint8_t *a, ptrdiff_t each, ptrdiff_t Kp,
                                                                       const uint8_t *w, const int32_t (*less)[16],
                                                                       int32_t *sums, const uint8_t *ahead,
                                                                       fixed_sum *before)
{
    FIXED_BEGIN(0, 0); FIXED_BEGIN(1, 1); FIXED_BEGIN(2, 2); FIXED_BEGIN(3, 3);
    for (ptrdiff_t k = 0; k < Kp; k += FIXED_K, w += FIXED_BLOCK) {
        FIXED_RIGHT(7, 2);
        FIXED_LEFT(6, 2); FIXED_DOT(0, 6, 7);
        FIXED_LEFT(5, 1); FIXED_DOT(1, 5, 7);
        FIXED_LEFT(4, 0); FIXED_DOT(2, 4, 7);
        FIXED_FETCH(0)
        FIXED_RIGHT(7, 1); FIXED_DOT(1, 6, 7); FIXED_DOT(2, 5, 7); FIXED_DOT(3, 4, 7);
        FIXED_FETCH(1)
        FIXED_RIGHT(7, 0); FIXED_DOT(2, 6, 7); FIXED_DOT(3, 5, 7);
        FIXED_FETCH(2)
        if (k > 0)
            fixed_put(1, before, FIXED_PUTS);
        if (ahead)
            ahead += FIXED_BLOCK;
    }
    fixed_put(1, before, 16);
    AMX_STORE(0, sums, 64); AMX_STORE(1, sums + 256, 64); AMX_STORE(2, sums + 512, 64); AMX_STORE(3, sums + 768, 64);
}

/* C (rows, N) = bias + A W^T, or C += A W^T; bias: whole vectors, or NULL. */
static LANES_UNUSED void fixed_multiply(const fixed_rows *rows, const char *packed, ptrdiff_t K, ptrdiff_t N, int fine,
                                        const float *bias, int add, int backwards)
{
    const uint8_t *w = (const uint8_t *)packed + fixed_padded(K) * sizeof(float);
    if (rows->count == 1) {
        fixed_row(rows, w, K, N, fine, bias, add, backwards);
        return;
    }
    const ptrdiff_t Kp = fixed_padded(K), apart = fixed_apart(K), groups = (N + 15) / 16, each = rows->each;
    /* as few tiles as can be, all alike: the unit takes as many cycles as they have rows (24 rows of 256: 3% less) */
    const ptrdiff_t tiles = (rows->count + AMX_ROWS - 1) / AMX_ROWS, high = (rows->count + tiles - 1) / tiles;
    const int fetch = groups * apart >= FIXED_AHEAD;
    int32_t sums[2][FIXED_SUMS * 256] __attribute__((aligned(64)));
    fixed_sum sum = {0}; /* none yet */
    int odd = 0, plain = 1;
    for (ptrdiff_t i = 0; i < rows->count; ++i)
        plain &= rows->scale[i] == 1 && !rows->rest[i];
    amx_begin(high, fine);
    for (ptrdiff_t s = 0; s < groups; ++s) {
        const ptrdiff_t g = backwards ? groups - 1 - s : s, n = 16 * g;
        const uint8_t *at = w + g * apart, *tile = at + sizeof(fixed_columns);
        const fixed_columns *columns = (const fixed_columns *)at;
        const uint8_t *ahead = fetch && s + 1 < groups ? tile + (backwards ? -apart : apart) : NULL;
        for (ptrdiff_t i = 0; i < rows->count; i += high, ahead = NULL, odd = !odd) {
            const ptrdiff_t last = rows->count - i < high ? rows->count : i + high;
            for (ptrdiff_t r = i; r < last; ++r)
                __builtin_prefetch(rows->c[r] + n, 1, 2);
            (fine ? fixed_multiply_fine : fixed_multiply_coarse)(rows->digits + i * each, each, Kp, tile, columns->less,
                                                                 sums[odd], ahead, &sum);
            sum = (fixed_sum){rows, columns, sums[odd], bias ? bias + n : NULL, i,
                              last, n, add, plain, amx_mask(N - n)};
        }
    }
    if (fine)
        fixed_put(1, &sum, 16);
    else
        fixed_put(0, &sum, 16);
    amx_end();
}
#else
LANES_INLINE void fixed_multiply(const fixed_rows *rows, const char *packed, ptrdiff_t K, ptrdiff_t N, int fine,
                                 const float *bias, int add, int backwards)
{
    check(0, "no AMX");
}
#endif
#endif
