/* Products of float32 matrices on the AMX unit of some processors, which multiplies numbers of 8 significant bits
 * (bfloat16) and adds in float32.
 *
 * A float32 is the sum of three such numbers, a = a_0 + a_1 + a_2, each rounded from what the ones before leave.  But
 * for 2^-23 of it a product of two is a_0 b_0 + a_0 b_1 + a_1 b_0 + a_0 b_2 + a_1 b_1 + a_2 b_0; the unit rounds a sum
 * once for 32 k, not for each, and is no less accurate than the tile of _tile.h.  Splitting
 * included, the six take a half to three quarters of the time of one there: the more other numbers each meets, the less.
 *
 * It takes denormal numbers for 0, and the parts of inf are NaN.  A row of A or a column of B fits if its largest number
 * is one whose parts that count stay in range; others are for the tile.
 *
 * A tile is 16 rows of 64 bytes: of the left operand A (M, K) 16 rows, 32 k; of the right one B (K, N) 32 k, 16
 * columns, a row of the tile being k and k + 1 of one column after the other.  Operands are split into sequences of
 * whole tiles, zero where the matrix ends:
 *
 *     A: [16 rows] [32 k] [part]        B: [16 columns] [32 k] [part]
 */
#ifndef BPTT_AMX_H
#define BPTT_AMX_H

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
/* Times 32 k before the next block of C: 2 x 16 rows and columns of that depth stay in the nearest cache. */
#define AMX_STEPS 4
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

LANES_INLINE __m512i amx_larger(__m512i most, __m512 v)
{
    return _mm512_max_epi32(most, _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
}

/* Whether a row of n numbers fits. */
static LANES_UNUSED int amx_row_fits(const float *v, ptrdiff_t n)
{
    __m512i most = _mm512_setzero_si512();
    int bits;
    for (; n >= 16; n -= 16, v += 16)
        most = amx_larger(most, _mm512_loadu_ps(v));
    if (n > 0)
        most = amx_larger(most, _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), v));
    bits = _mm512_reduce_max_epi32(most);
    return bits == 0 || (bits >= AMX_LEAST && bits < AMX_MOST);
}

/* 16 numbers a[0], a[step], ... with step 1 or -1, zero from n on; backwards they stay in the order of memory. */
LANES_INLINE __m512 amx_load(const float *a, ptrdiff_t step, ptrdiff_t n)
{
    if (n >= 16)
        return _mm512_loadu_ps(step > 0 ? a : a - 15);
    if (n <= 0)
        return _mm512_setzero_ps();
    return step > 0 ? _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), a)
                    : _mm512_maskz_loadu_ps((__mmask16)(0xffffu << (16 - n)), a - 15);
}

/* A (rows, K), A[i, k] = a[i * a_row + k * a_k], a_k 1 or -1.  each: bytes from 16 rows to the next. */
static LANES_UNUSED __attribute__((noinline)) void amx_split_left(const float *a, ptrdiff_t a_row, ptrdiff_t a_k,
                                                                  ptrdiff_t rows, ptrdiff_t K, char *out,
                                                                  ptrdiff_t each)
{
    int16_t order[32];
    for (int j = 0; j < 32; ++j) /* the upper halves of two vectors, each in its order */
        order[j] = (int16_t)(j < 16 ? 2 * (a_k > 0 ? j : 15 - j) + 1 : 32 + 2 * (a_k > 0 ? j - 16 : 31 - j) + 1);
    __m512i upper = _mm512_loadu_si512(order);
    for (ptrdiff_t top = 0; top < rows; top += AMX_ROWS, out += each)
        for (ptrdiff_t k = 0; k < K; k += AMX_K)
            for (ptrdiff_t i = 0; i < AMX_ROWS; ++i) {
                const float *p = a + (top + i) * a_row + k * a_k;
                ptrdiff_t left = top + i < rows ? K - k : 0;
                char *row = out + k / AMX_K * AMX_PARTS * AMX_TILE + i * 64;
                amx_parts u = amx_split(amx_load(p, a_k, left));
                amx_parts v = amx_split(amx_load(p + 16 * a_k, a_k, left - 16));
                for (int part = 0; part < AMX_PARTS; ++part)
                    _mm512_store_si512(row + part * AMX_TILE,
                                       _mm512_permutex2var_epi16(u.part[part], upper, v.part[part]));
            }
}

/* B (K, N), N at most 64, whose first head_rows rows are at head, the others at body.  each: bytes from 16 columns to
 * the next.  Returns whether all columns fit. */
static LANES_UNUSED __attribute__((noinline)) int amx_split_right(const float *head, ptrdiff_t head_rows,
                                                                  const float *body, ptrdiff_t ld, ptrdiff_t K,
                                                                  ptrdiff_t N, char *out, ptrdiff_t each)
{
    __m512i most[4], bits;
    for (int j = 0; j < 4; ++j)
        most[j] = _mm512_setzero_si512();
    for (ptrdiff_t k = 0; k < K || k % AMX_K; k += 2) {
        const float *p = k < head_rows ? head + k * ld : body + (k - head_rows) * ld;
        const float *q = k + 1 < head_rows ? head + (k + 1) * ld : body + (k + 1 - head_rows) * ld;
        ptrdiff_t in_p = k < K ? N : 0, in_q = k + 1 < K ? N : 0;
        char *row = out + k / AMX_K * AMX_PARTS * AMX_TILE + k % AMX_K / 2 * 64;
        for (ptrdiff_t j = 0; j < N; j += 16, row += each) {
            __builtin_prefetch(p + j + AMX_AHEAD * ld, 0, 2);
            __builtin_prefetch(q + j + AMX_AHEAD * ld, 0, 2);
            __m512 a = amx_load(p + j, 1, in_p - j), b = amx_load(q + j, 1, in_q - j);
            amx_parts u = amx_split(a), v = amx_split(b);
            most[j / 16] = amx_larger(amx_larger(most[j / 16], a), b);
            for (int part = 0; part < AMX_PARTS; ++part)
                _mm512_store_si512(row + part * AMX_TILE,
                                   _mm512_or_si512(_mm512_srli_epi32(u.part[part], 16), v.part[part]));
        }
    }
    for (int j = 0; j < 4; ++j) {
        bits = most[j];
        if (_mm512_mask_cmplt_epi32_mask(_mm512_test_epi32_mask(bits, bits), bits, _mm512_set1_epi32(AMX_LEAST)) ||
            _mm512_cmpge_epi32_mask(bits, _mm512_set1_epi32(AMX_MOST)))
            return 0;
    }
    return 1;
}

#define AMX_LOAD(T, p, stride)                                                                         \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #T ::"r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define AMX_STORE(T, p, stride)                                                                        \
    __asm__ volatile("tilestored %%tmm" #T ", (%0,%1,1)" ::"r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define AMX_ZERO(T) __asm__ volatile("tilezero %%tmm" #T ::: "memory")
#define AMX_DOT(C, A, B) __asm__ volatile("tdpbf16ps %%tmm" #B ", %%tmm" #A ", %%tmm" #C ::: "memory")

/* All tiles whole: 16 rows of 64 bytes. */
LANES_INLINE void amx_begin(void)
{
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } c = {0};
    c.palette = 1;
    for (int t = 0; t < 8; ++t) {
        c.bytes[t] = 64;
        c.rows[t] = AMX_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c) : "memory");
}
LANES_INLINE void amx_end(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* C = A (2 x 16 rows) B (2 x 16 columns), ROWS and COLUMNS of them; a, b: distance to the second ones. */
#define AMX_DEFINE(ROWS, COLUMNS)                                                                      \
    static LANES_UNUSED __attribute__((noinline)) void amx_multiply_##ROWS##COLUMNS(                   \
        const char *left, ptrdiff_t a, const char *right, ptrdiff_t b, ptrdiff_t steps, float *c,      \
        ptrdiff_t ldc)                                                                                 \
    {                                                                                                  \
        ptrdiff_t row = ldc * 4, s;                                                                    \
        AMX_ZERO(0);                                                                                   \
        AMX_ZERO(1);                                                                                   \
        AMX_ZERO(2);                                                                                   \
        AMX_ZERO(3);                                                                                   \
        for (s = 0; s < steps; ++s, left += AMX_PARTS * AMX_TILE, right += AMX_PARTS * AMX_TILE) {     \
            AMX_RIGHT(COLUMNS, 0)                                                                      \
            AMX_LEFT(ROWS, 2) AMX_DOTS(ROWS, COLUMNS)                                                  \
            AMX_LEFT(ROWS, 0) AMX_DOTS(ROWS, COLUMNS)                                                  \
            AMX_LEFT(ROWS, 1) AMX_DOTS(ROWS, COLUMNS)                                                  \
            AMX_RIGHT(COLUMNS, 1)                                                                      \
            AMX_DOTS(ROWS, COLUMNS)                                                                    \
            AMX_LEFT(ROWS, 0) AMX_DOTS(ROWS, COLUMNS)                                                  \
            AMX_RIGHT(COLUMNS, 2)                                                                      \
            AMX_DOTS(ROWS, COLUMNS)                                                                    \
        }                                                                                              \
        AMX_STORE(0, c, row);                                                                          \
        if (COLUMNS > 1) AMX_STORE(1, c + 16, row);                                                    \
        if (ROWS > 1) AMX_STORE(2, c + 16 * ldc, row);                                                 \
        if (ROWS > 1 && COLUMNS > 1) AMX_STORE(3, c + 16 * ldc + 16, row);                             \
    }
#define AMX_LEFT(ROWS, part)                                                                           \
    AMX_LOAD(4, left + part * AMX_TILE, 64);                                                           \
    if (ROWS > 1) AMX_LOAD(5, left + a + part * AMX_TILE, 64);
#define AMX_RIGHT(COLUMNS, part)                                                                       \
    AMX_LOAD(6, right + part * AMX_TILE, 64);                                                          \
    if (COLUMNS > 1) AMX_LOAD(7, right + b + part * AMX_TILE, 64);
#define AMX_DOTS(ROWS, COLUMNS)                                                                        \
    AMX_DOT(0, 4, 6);                                                                                  \
    if (COLUMNS > 1) AMX_DOT(1, 4, 7);                                                                 \
    if (ROWS > 1) AMX_DOT(2, 5, 6);                                                                    \
    if (ROWS > 1 && COLUMNS > 1) AMX_DOT(3, 5, 7);

AMX_DEFINE(2, 2)
AMX_DEFINE(2, 1)
AMX_DEFINE(1, 2)
AMX_DEFINE(1, 1)

LANES_INLINE void amx_multiply(int rows, int columns, const char *left, ptrdiff_t a, const char *right, ptrdiff_t b,
                               ptrdiff_t steps, float *c, ptrdiff_t ldc)
{
    if (rows > AMX_ROWS && columns > AMX_ROWS)
        amx_multiply_22(left, a, right, b, steps, c, ldc);
    else if (rows > AMX_ROWS)
        amx_multiply_21(left, a, right, b, steps, c, ldc);
    else if (columns > AMX_ROWS)
        amx_multiply_12(left, a, right, b, steps, c, ldc);
    else
        amx_multiply_11(left, a, right, b, steps, c, ldc);
}

/* n of 16 numbers from v to c, or added to those that are there. */
LANES_INLINE void amx_put(float *c, const float *v, int n, int add)
{
    __mmask16 some = n < AMX_ROWS ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff;
    __m512 sum = _mm512_loadu_ps(v);
    if (add)
        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(some, c), sum);
    _mm512_mask_storeu_ps(c, some, sum);
}

/* C (rows, columns) (+)= A B for `steps` times 32 k.  The unit rounds at the size of what it adds to, so it starts from
 * 0: sums over a long time are rounded at their own size once for AMX_STEPS, not for every 32 k of every part.
 * left_each, right_each: bytes from 16 rows or columns to the next.
 * The unit is ready (amx_begin). */
static LANES_UNUSED void amx_panel(const char *left, ptrdiff_t left_each, ptrdiff_t rows, const char *right,
                                   ptrdiff_t right_each, ptrdiff_t columns, ptrdiff_t steps, float *c, ptrdiff_t ldc,
                                   int add)
{
    float edge[4 * AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));
    for (ptrdiff_t s = 0; s < steps; s += AMX_STEPS) {
        ptrdiff_t some = steps - s < AMX_STEPS ? steps - s : AMX_STEPS;
        const char *across = right + s * AMX_PARTS * AMX_TILE;
        for (ptrdiff_t j = 0; j < columns; j += 2 * AMX_ROWS, across += 2 * right_each) {
            const char *down = left + s * AMX_PARTS * AMX_TILE;
            int n = columns - j < 2 * AMX_ROWS ? (int)(columns - j) : 2 * AMX_ROWS;
            for (ptrdiff_t i = 0; i < rows; i += 2 * AMX_ROWS, down += 2 * left_each) {
                int m = rows - i < 2 * AMX_ROWS ? (int)(rows - i) : 2 * AMX_ROWS;
                float *to = c + i * ldc + j;
                if (add && i + 4 * AMX_ROWS <= rows)
                    for (int r = 0; r < 2 * AMX_ROWS; ++r) {
                        __builtin_prefetch(to + (2 * AMX_ROWS + r) * ldc, 1, 2);
                        __builtin_prefetch(to + (2 * AMX_ROWS + r) * ldc + AMX_ROWS, 1, 2);
                    }
                if (!add && s == 0 && m % AMX_ROWS == 0 && n % AMX_ROWS == 0) {
                    amx_multiply(m, n, down, left_each, across, right_each, some, to, ldc);
                    continue;
                }
                amx_multiply(m, n, down, left_each, across, right_each, some, edge, 2 * AMX_ROWS);
                for (int r = 0; r < m; ++r)
                    for (int k = 0; k < n; k += AMX_ROWS)
                        amx_put(to + r * ldc + k, edge + r * 2 * AMX_ROWS + k, n - k, add || s > 0);
            }
        }
    }
}
#else
LANES_INLINE int amx_row_fits(const float *v, ptrdiff_t n)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE void amx_split_left(const float *a, ptrdiff_t a_row, ptrdiff_t a_k, ptrdiff_t rows, ptrdiff_t K, char *out,
                                 ptrdiff_t each)
{
    check(0, "no AMX");
}
LANES_INLINE int amx_split_right(const float *head, ptrdiff_t head_rows, const float *body, ptrdiff_t ld,
                                 ptrdiff_t K, ptrdiff_t N, char *out, ptrdiff_t each)
{
    check(0, "no AMX");
    return 0;
}
LANES_INLINE void amx_begin(void) {}
LANES_INLINE void amx_end(void) {}
LANES_INLINE void amx_panel(const char *left, ptrdiff_t left_each, ptrdiff_t rows, const char *right,
                            ptrdiff_t right_each, ptrdiff_t columns, ptrdiff_t steps, float *c, ptrdiff_t ldc, int add)
{
    check(0, "no AMX");
}
#endif
#endif
