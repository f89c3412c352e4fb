/* The register tile: ROWS x WIDTH vectors of C += A times a packed panel, accumulators in registers.
 *
 *     C[i, j] = start[i, j] + sum_k A[i, k] * panel[k, j]          start = a bias row, 0, or C itself
 *
 * A is a[i * a_row + k * a_k]; row k of the panel is WIDTH whole vectors at panel + k * panel_k; the last vector of C
 * may end after `tail` lanes.
 *
 * CHAINS: the sum over k is kept as CHAINS interleaved partial sums (k = g mod CHAINS), added in the order
 * ((start + s_0) + s_1) + ...  A fused multiply-add takes four cycles and two can start in each, so a row of few
 * vectors needs several sums at once; which CHAINS is chosen from the shape of the matrix alone, never from the
 * number of rows, so that a row has the same bits alone and in a batch.
 *
 * Each (CHAINS, WIDTH, ROWS) is code of its own, unrolled over i, g and j: accumulators are registers only if the
 * compiler sees the bounds.  ROWS * CHAINS * WIDTH <= TILE_SUMS: 24 + 4 + 1 of the 32 registers of AVX-512 and
 * NEON, 12 + 2 + 1 of the 16 of AVX2 and SSE.
 */
#ifndef BPTT_TILE_H
#define BPTT_TILE_H

#include "_checked.h"
#include "_lanes.h"

#define TILE_HEIGHT 6
#if defined(__AVX512F__) || defined(__aarch64__)
#define TILE_WIDTH 4
#define TILE_SUMS 24
#else
#define TILE_WIDTH 2
#define TILE_SUMS 12
#endif

/* Rows of a panel that one call takes; a longer sum over k is a sum of such blocks, which also bounds its rounding
 * error.  Long sums are of matrices that come from beyond the second-level cache, and so does C: there fewer passes over
 * C count for more than where the block lies (1024 x 4096, AVX-512: the input product takes 7% less). */
#define TILE_DEPTH 256
#if defined(__AVX512F__)
#define TILE_DEPTH_LONG 512
#else
#define TILE_DEPTH_LONG TILE_DEPTH
#endif

#if defined(__clang__)
#define TILE_UNROLL _Pragma("clang loop unroll(full)")
#define TILE_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#elif defined(__GNUC__)
#define TILE_UNROLL _Pragma("GCC unroll 8")
#define TILE_UNROLL_4 _Pragma("GCC unroll 4")
#else
#define TILE_UNROLL
#define TILE_UNROLL_4
#endif

/* Each tile a function of its own: inlined into one, they share a frame and its costs (2% at H = 64). */
#if defined(__GNUC__)
#define TILE_FUNCTION static __attribute__((noinline))
#else
#define TILE_FUNCTION static
#endif

/* Into the second-level cache, for the block after this one. */
#if defined(__GNUC__)
#define TILE_PREFETCH(p) __builtin_prefetch(p, 0, 2)
#else
#define TILE_PREFETCH(p) ((void)0)
#endif

/* A vector that several rows are multiplied by stays in a register.  GCC would have each multiply-add read it again: two
 * chains of three rows would take 30 loads for 24 multiply-adds, of either of which two can start in a cycle. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__FMA__) && LANES_BYTES
#define TILE_KEEP(v) __asm__("" : "+v"(v))
#else
#define TILE_KEEP(v) ((void)0)
#endif

/* How the first vectors' sums start and where they go. */
#define TILE_SET 0 /* C = bias + sums (bias NULL: 0) */
#define TILE_ADD 1 /* C = C + sums */

/* Only tiles of the full width and four rows or more have time to fetch. */
#define TILE_FETCHES(CHAINS, WIDTH, ROWS) (CHAINS == 1 && WIDTH == TILE_WIDTH && ROWS >= 4)

#define TILE_STEP(P, V, L, CHAINS, WIDTH, ROWS)                                                        \
    TILE_UNROLL for (int g = 0; g < CHAINS; ++g) {                                                     \
        V b[WIDTH];                                                                                    \
        TILE_UNROLL for (int j = 0; j < WIDTH; ++j) {                                                  \
            b[j] = P##_load(panel + (k + g) * panel_k + j * L);                                        \
            if (ROWS > 1)                                                                              \
                TILE_KEEP(b[j]);                                                                       \
        }                                                                                              \
        TILE_UNROLL for (int i = 0; i < ROWS; ++i) {                                                   \
            V x = P##_splat(a[i * a_row + (k + g) * a_k]);                                             \
            TILE_UNROLL for (int j = 0; j < WIDTH; ++j)                                                \
                s[i][g][j] = s[i][g][j] + x * b[j];                                                    \
        }                                                                                              \
    }

/* ahead: a vector column of the block that comes next, with this panel's stride, or NULL. */
#define TILE_DEFINE(P, REAL, V, L, CHAINS, WIDTH, ROWS)                                                \
    TILE_FUNCTION void P##_tile_##CHAINS##_##WIDTH##_##ROWS(                                            \
        const REAL *a, ptrdiff_t a_row, ptrdiff_t a_k, const REAL *panel, ptrdiff_t panel_k,           \
        ptrdiff_t K, REAL *c,                                                                          \
        ptrdiff_t ldc, ptrdiff_t tail, int start, const REAL *bias, const REAL *ahead)                 \
    {                                                                                                  \
        V s[ROWS][CHAINS][WIDTH];                                                                      \
        ptrdiff_t k = 0;                                                                               \
        TILE_UNROLL for (int i = 0; i < ROWS; ++i)                                                     \
            TILE_UNROLL for (int g = 0; g < CHAINS; ++g)                                               \
                TILE_UNROLL for (int j = 0; j < WIDTH; ++j)                                            \
                    s[i][g][j] = g == 0 && bias ? P##_load(bias + j * L) : P##_splat(0);               \
        if (TILE_FETCHES(CHAINS, WIDTH, ROWS) && ahead)                                                \
            for (; k + CHAINS <= K; k += CHAINS) {                                                     \
                TILE_PREFETCH(ahead + k * panel_k);                                                    \
                TILE_STEP(P, V, L, CHAINS, WIDTH, ROWS)                                                \
            }                                                                                          \
        else                                                                                           \
            for (; k + CHAINS <= K; k += CHAINS) {                                                     \
                TILE_STEP(P, V, L, CHAINS, WIDTH, ROWS)                                                \
            }                                                                                          \
        TILE_UNROLL for (int g = 0; g < CHAINS - 1; ++g) {                                             \
            if (k + g < K) {                                                                           \
                TILE_UNROLL for (int i = 0; i < ROWS; ++i)                                             \
                    TILE_UNROLL for (int j = 0; j < WIDTH; ++j)                                        \
                        s[i][g][j] = s[i][g][j] + P##_splat(a[i * a_row + (k + g) * a_k]) *            \
                                                      P##_load(panel + (k + g) * panel_k + j * L);     \
            }                                                                                          \
        }                                                                                              \
        TILE_UNROLL for (int i = 0; i < ROWS; ++i)                                                     \
            TILE_UNROLL for (int j = 0; j < WIDTH; ++j) {                                              \
                REAL *p = c + i * ldc + j * L;                                                         \
                int part = j == WIDTH - 1 && tail < L;                                                 \
                V v = s[i][0][j];                                                                      \
                if (start == TILE_ADD)                                                                 \
                    v = v + (part ? P##_load_part(p, tail) : P##_load(p));                             \
                TILE_UNROLL for (int g = 1; g < CHAINS; ++g)                                           \
                    v = v + s[i][g][j];                                                                \
                if (part)                                                                              \
                    P##_store_part(p, v, tail);                                                        \
                else                                                                                   \
                    P##_store(p, v);                                                                   \
            }                                                                                          \
    }

/* One row times PANELS neighbouring panels of TILE_WIDTH vectors: as many sums as one wide tile has, in the same
 * order as the narrow ones.  Four k in one pass of the loop read the second-level cache 8% faster. */
#define TILE_DEFINE_ROW(P, REAL, V, L, PANELS)                                                         \
    LANES_INLINE void P##_tile_row(const REAL *a, ptrdiff_t a_k, const REAL *panel, ptrdiff_t apart,   \
                                   ptrdiff_t K, REAL *c, int start, const REAL *bias)                  \
    {                                                                                                  \
        V s[PANELS][TILE_WIDTH];                                                                       \
        TILE_UNROLL for (int g = 0; g < PANELS; ++g)                                                   \
            TILE_UNROLL for (int j = 0; j < TILE_WIDTH; ++j)                                           \
                s[g][j] = bias ? P##_load(bias + (g * TILE_WIDTH + j) * L) : P##_splat(0);             \
        TILE_UNROLL_4 for (ptrdiff_t k = 0; k < K; ++k) {                                              \
            V x = P##_splat(a[k * a_k]);                                                               \
            TILE_UNROLL for (int g = 0; g < PANELS; ++g)                                               \
                TILE_UNROLL for (int j = 0; j < TILE_WIDTH; ++j)                                       \
                    s[g][j] = s[g][j] + x * P##_load(panel + g * apart + (k * TILE_WIDTH + j) * L);    \
        }                                                                                              \
        TILE_UNROLL for (int g = 0; g < PANELS; ++g)                                                   \
            TILE_UNROLL for (int j = 0; j < TILE_WIDTH; ++j) {                                         \
                REAL *p = c + (g * TILE_WIDTH + j) * L;                                                \
                P##_store(p, start == TILE_ADD ? (V)(s[g][j] + P##_load(p)) : s[g][j]);                \
            }                                                                                          \
    }
#define TILE_ROW_PANELS (8 / TILE_WIDTH)

/* One row times two neighbouring panels, of W and X vectors, with two interleaved sums: one panel after the other, as
 * many sums at once as either has, would wait on the latency of a multiply-add. */
#define TILE_DEFINE_PAIR(P, REAL, V, L, W, X)                                                          \
    TILE_FUNCTION void P##_tile_pair_##W##_##X(const REAL *a, const REAL *panel, ptrdiff_t K, REAL *c, \
                                               int start, const REAL *bias)                            \
    {                                                                                                  \
        const REAL *next = panel + K * W * L;                                                          \
        V s[2][W + X];                                                                                 \
        ptrdiff_t k = 0;                                                                               \
        TILE_UNROLL for (int j = 0; j < W + X; ++j) {                                                  \
            s[0][j] = bias ? P##_load(bias + j * L) : P##_splat(0);                                    \
            s[1][j] = P##_splat(0);                                                                    \
        }                                                                                              \
        for (; k + 2 <= K; k += 2)                                                                     \
            TILE_UNROLL for (int g = 0; g < 2; ++g) {                                                  \
                V x = P##_splat(a[k + g]);                                                             \
                TILE_UNROLL for (int j = 0; j < W; ++j)                                                \
                    s[g][j] = s[g][j] + x * P##_load(panel + ((k + g) * W + j) * L);                   \
                TILE_UNROLL for (int j = 0; j < X; ++j)                                                \
                    s[g][W + j] = s[g][W + j] + x * P##_load(next + ((k + g) * X + j) * L);            \
            }                                                                                          \
        if (k < K) {                                                                                   \
            TILE_UNROLL for (int j = 0; j < W; ++j)                                                    \
                s[0][j] = s[0][j] + P##_splat(a[k]) * P##_load(panel + (k * W + j) * L);               \
            TILE_UNROLL for (int j = 0; j < X; ++j)                                                    \
                s[0][W + j] = s[0][W + j] + P##_splat(a[k]) * P##_load(next + (k * X + j) * L);        \
        }                                                                                              \
        TILE_UNROLL for (int j = 0; j < W + X; ++j) {                                                  \
            V v = s[0][j];                                                                             \
            if (start == TILE_ADD)                                                                     \
                v = v + P##_load(c + j * L);                                                           \
            P##_store(c + j * L, v + s[1][j]);                                                         \
        }                                                                                              \
    }

#if TILE_WIDTH == 4
#define TILE_PAIRS(P, REAL, V, L)                                                                      \
    TILE_DEFINE_PAIR(P, REAL, V, L, 3, 2)                                                              \
    TILE_DEFINE_PAIR(P, REAL, V, L, 3, 3)                                                              \
    TILE_DEFINE_PAIR(P, REAL, V, L, 4, 3)                                                              \
    /* of so many vectors in two panels; whether there is one of that size */                          \
    LANES_INLINE int P##_tile_pair(ptrdiff_t vectors, const REAL *a, const REAL *panel, ptrdiff_t K, REAL *c, \
                                   int start, const REAL *bias)                                        \
    {                                                                                                  \
        if (vectors == 5)                                                                              \
            P##_tile_pair_3_2(a, panel, K, c, start, bias);                                            \
        else if (vectors == 6)                                                                         \
            P##_tile_pair_3_3(a, panel, K, c, start, bias);                                            \
        else if (vectors == 7)                                                                         \
            P##_tile_pair_4_3(a, panel, K, c, start, bias);                                            \
        else                                                                                           \
            return 0;                                                                                  \
        return 1;                                                                                      \
    }
#else
#define TILE_PAIRS(P, REAL, V, L)                                                                      \
    LANES_INLINE int P##_tile_pair(ptrdiff_t vectors, const REAL *a, const REAL *panel, ptrdiff_t K, REAL *c, \
                                   int start, const REAL *bias)                                        \
    {                                                                                                  \
        return 0;                                                                                      \
    }
#endif

#define TILE_CASE(P, CHAINS, WIDTH, ROWS)                                                              \
    case (CHAINS * 8 + WIDTH) * 8 + ROWS:                                                              \
        P##_tile_##CHAINS##_##WIDTH##_##ROWS(a, a_row, a_k, panel, panel_k, K, c, ldc, tail, start, bias, ahead); \
        return;

/* X(chains, width, rows) of every tile there is. */
#define TILE_ROWS_6(X, ...) X(__VA_ARGS__, 4) X(__VA_ARGS__, 5) X(__VA_ARGS__, 6)
#define TILE_ROWS_3(X, ...) X(__VA_ARGS__, 1) X(__VA_ARGS__, 2) X(__VA_ARGS__, 3)
#if TILE_WIDTH == 4
#define TILE_LIST(X, ...)                                                                              \
    TILE_ROWS_3(X, __VA_ARGS__, 1, 1) TILE_ROWS_6(X, __VA_ARGS__, 1, 1)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 1, 2) TILE_ROWS_6(X, __VA_ARGS__, 1, 2)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 1, 3) TILE_ROWS_6(X, __VA_ARGS__, 1, 3)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 1, 4) TILE_ROWS_6(X, __VA_ARGS__, 1, 4)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 2, 1) TILE_ROWS_6(X, __VA_ARGS__, 2, 1)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 2, 2) TILE_ROWS_6(X, __VA_ARGS__, 2, 2)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 2, 3) X(__VA_ARGS__, 2, 3, 4)                                          \
    TILE_ROWS_3(X, __VA_ARGS__, 2, 4)                                                                  \
    TILE_ROWS_3(X, __VA_ARGS__, 4, 1) TILE_ROWS_6(X, __VA_ARGS__, 4, 1)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 4, 2)                                                                  \
    X(__VA_ARGS__, 4, 3, 1) X(__VA_ARGS__, 4, 3, 2)
#else
#define TILE_LIST(X, ...)                                                                              \
    TILE_ROWS_3(X, __VA_ARGS__, 1, 1) TILE_ROWS_6(X, __VA_ARGS__, 1, 1)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 1, 2) TILE_ROWS_6(X, __VA_ARGS__, 1, 2)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 2, 1) TILE_ROWS_6(X, __VA_ARGS__, 2, 1)                                \
    TILE_ROWS_3(X, __VA_ARGS__, 2, 2)
#endif

#define TILE_PRECISION(P, REAL, V, L)                                                                  \
    TILE_LIST(TILE_DEFINE, P, REAL, V, L)                                                              \
    TILE_DEFINE_ROW(P, REAL, V, L, TILE_ROW_PANELS)                                                    \
    TILE_PAIRS(P, REAL, V, L)                                                                          \
    /* rows <= tile_height(chains, width) */                                                           \
    static LANES_UNUSED void P##_tile(int chains, int width, int rows, const REAL *a, ptrdiff_t a_row, \
                                      ptrdiff_t a_k, const REAL *panel, ptrdiff_t panel_k,             \
                                      ptrdiff_t K, REAL *c,                                            \
                                      ptrdiff_t ldc, ptrdiff_t tail, int start, const REAL *bias,      \
                                      const REAL *ahead)                                               \
    {                                                                                                  \
        switch ((chains * 8 + width) * 8 + rows) { TILE_LIST(TILE_CASE, P) }                           \
        check(0, "tile");                                                                              \
    }

TILE_PRECISION(f32, float, lanes_f32, LANES_F32)
TILE_PRECISION(f64, double, lanes_f64, LANES_F64)

LANES_INLINE int tile_height(int chains, int width)
{
    int h = TILE_SUMS / (chains * width);
    return h < TILE_HEIGHT ? h : TILE_HEIGHT;
}

/* How many interleaved sums a recurrent product of `vectors` output vectors and depth K needs to hide the latency
 * of a multiply-add when it has one row; K / chains >= 4. */
LANES_INLINE int tile_chains(ptrdiff_t vectors, ptrdiff_t K)
{
    if (vectors >= 8 || K < 8)
        return 1;
    if (vectors >= 4 || K < 16 || TILE_SUMS < 24)
        return 2;
    return 4;
}

/* Rows of a panel in a block of a sum over K: a matter of K alone, as a product may see but a part of the columns. */
LANES_INLINE ptrdiff_t tile_depth(ptrdiff_t K) { return K < TILE_DEPTH_LONG ? TILE_DEPTH : TILE_DEPTH_LONG; }
#endif
