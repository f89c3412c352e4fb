/* Products of float32 matrices on the AMX unit of some processors, whose operands are those of _split.h.
 *
 * Six products of parts make one of float32.  The unit rounds a sum once for 32 k, not for each, and is no less accurate
 * than the tile of _tile.h.  Splitting included, the six take a half to three quarters of the time of one there: the more
 * other numbers each meets, the less.
 *
 * A packed right operand is split while the unit works, the 32 k after those that it works on; what is kept of it stays
 * in the nearest cache.  So few rows take little longer than a matrix beyond the second-level cache takes to come.
 */
#ifndef BPTT_AMX_H
#define BPTT_AMX_H

#include "_split.h"

/* Times 32 k before the next block of C: 2 x 16 rows and columns of that depth stay in the nearest cache.  For a weight
 * gradient, whose rows are far apart and fall on few cache sets, twice that and half as many visits take 10% less. */
#define AMX_STEPS 4
#define AMX_OUTER_STEPS 8
#define AMX_DEPTH (AMX_STEPS * AMX_K)
#define AMX_RING (2 * AMX_STEPS * AMX_PARTS * AMX_TILE) /* bytes of 32 columns of that depth, or 64 of half of it */

#if AMX_BUILT
#define AMX_LOAD(T, p, stride)                                                                         \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #T ::"r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define AMX_STORE(T, p, stride)                                                                        \
    __asm__ volatile("tilestored %%tmm" #T ", (%0,%1,1)" ::"r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define AMX_ZERO(T) __asm__ volatile("tilezero %%tmm" #T ::: "memory")
#define AMX_DOT(C, A, B) __asm__ volatile("tdpbf16ps %%tmm" #B ", %%tmm" #A ", %%tmm" #C ::: "memory")

/* For products of so many rows: the unit takes as many cycles as a tile has rows. */
LANES_INLINE void amx_begin(ptrdiff_t rows)
{
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } c = {0};
    uint8_t upper = (uint8_t)(rows < AMX_ROWS ? rows : AMX_ROWS);
    uint8_t lower = (uint8_t)(rows > AMX_ROWS && rows < 2 * AMX_ROWS ? rows - AMX_ROWS : AMX_ROWS);
    c.palette = 1;
    for (int t = 0; t < 8; ++t) {
        c.bytes[t] = 64;
        c.rows[t] = rows <= AMX_ROWS ? (t < 5 ? upper : AMX_ROWS) : t < 2 || t == 4 ? upper : t < 6 ? lower : AMX_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c) : "memory");
}
LANES_INLINE void amx_end(void) { __asm__ volatile("tilerelease" ::: "memory"); }

/* A block of sums that the unit has made, on its way to rows of C: `vectors` x 16 columns of each, `last` of them in the
 * last vector; added or put there.  Fetched by the next instructions, it would keep the unit waiting; so it goes there
 * while the unit works on the next block. */
typedef struct {
    float *to[2 * AMX_ROWS];
    const float *from; /* 4 x 16 rows or columns */
    int rows, vectors, last, add, next;
} amx_sum;

LANES_INLINE void amx_put_rows(amx_sum *sum, int rows)
{
    const __mmask16 all = 0xffff, some = sum->last < AMX_ROWS ? (__mmask16)((1u << sum->last) - 1) : all;
    for (; rows > 0 && sum->next < sum->rows; --rows, ++sum->next)
        for (int j = 0; j < sum->vectors; ++j) {
            float *to = sum->to[sum->next] + j * 16;
            __mmask16 part = j + 1 < sum->vectors ? all : some;
            __m512 v = _mm512_load_ps(sum->from + (sum->next * sum->vectors + j) * 16);
            if (sum->add)
                v = _mm512_add_ps(_mm512_maskz_loadu_ps(part, to), v);
            _mm512_mask_storeu_ps(to, part, v);
        }
}

LANES_INLINE void amx_put(amx_sum *sum) { amx_put_rows(sum, sum->rows); }

/* The next ones, (rows, columns); where they go is said. */
LANES_INLINE void amx_sums(amx_sum *sum, const float *from, int rows, int columns, int add)
{
    sum->from = from;
    sum->rows = rows;
    sum->vectors = (columns + 15) / 16;
    sum->last = columns - (sum->vectors - 1) * 16;
    sum->add = add;
    sum->next = 0;
}

/* C = A (2 x 16 rows) B (2 x 16 columns), ROWS and COLUMNS of them; a: distance to the second rows.  Meanwhile the 32 k
 * after each are split into the place behind them, if here, and at last those of what comes next to where this begins;
 * and the sums before these go where they belong. */
#define AMX_DEFINE(ROWS, COLUMNS)                                                                      \
    static LANES_UNUSED __attribute__((noinline)) void amx_multiply_##ROWS##COLUMNS(                   \
        const char *left, ptrdiff_t a, char *right, ptrdiff_t steps, float *c, const amx_source *here, \
        const amx_source *next, amx_sum *sum)                                                          \
    {                                                                                                  \
        const ptrdiff_t b = AMX_PARTS * AMX_TILE;                                                      \
        const ptrdiff_t row = COLUMNS * 64;                                                            \
        ptrdiff_t s;                                                                                   \
        char *start = right;                                                                           \
        AMX_ZERO(0);                                                                                   \
        AMX_ZERO(1);                                                                                   \
        AMX_ZERO(2);                                                                                   \
        AMX_ZERO(3);                                                                                   \
        for (s = 0; s < steps; ++s, left += AMX_PARTS * AMX_TILE, right += 2 * b) {                    \
            amx_source more = s + 1 < steps ? *here : *next;                                           \
            char *to = s + 1 < steps ? right + 2 * b : start;                                          \
            AMX_MORE(s)                                                                                \
            AMX_RIGHT(COLUMNS, 0)                                                                      \
            AMX_LEFT(ROWS, 2) AMX_DOTS(ROWS, COLUMNS) AMX_MEANWHILE(0)                                 \
            AMX_LEFT(ROWS, 0) AMX_DOTS(ROWS, COLUMNS) AMX_MEANWHILE(1)                                 \
            AMX_LEFT(ROWS, 1) AMX_DOTS(ROWS, COLUMNS) AMX_MEANWHILE(2)                                 \
            AMX_RIGHT(COLUMNS, 1)                                                                      \
            AMX_DOTS(ROWS, COLUMNS) AMX_MEANWHILE(3)                                                   \
            AMX_LEFT(ROWS, 0) AMX_DOTS(ROWS, COLUMNS) AMX_MEANWHILE(4)                                 \
            AMX_RIGHT(COLUMNS, 2)                                                                      \
            AMX_DOTS(ROWS, COLUMNS) AMX_MEANWHILE(5)                                                   \
        }                                                                                              \
        amx_put(sum);                                                                                  \
        AMX_STORE(0, c, row);                                                                          \
        if (COLUMNS > 1) AMX_STORE(1, c + 16, row);                                                    \
        if (ROWS > 1) AMX_STORE(2, c + 16 * COLUMNS * 16, row);                                        \
        if (ROWS > 1 && COLUMNS > 1) AMX_STORE(3, c + 16 * COLUMNS * 16 + 16, row);                    \
    }
/* What of `more` is to be split in step s; part of 32 k at once. */
#define AMX_MORE(s)                                                                                    \
    if (s + 1 < steps && more.from) {                                                                  \
        more.from += (s + 1) * AMX_K * more.ld;                                                        \
        more.k -= (s + 1) * AMX_K;                                                                     \
    }                                                                                                  \
    if (more.from && more.k < AMX_K) {                                                                 \
        amx_cut_step(&more, to);                                                                       \
        more.from = NULL;                                                                              \
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
/* 3 of the 16 pairs of k, after the last products the one that is left. */
#define AMX_MEANWHILE(nth)                                                                             \
    if (more.from)                                                                                     \
        for (int q = 3 * nth; q < 3 * nth + (nth < 5 ? 3 : 1); ++q)                                    \
            amx_cut_pair(more.from + 2 * q * more.ld, more.ld, more.vectors, to + 64 * q);             \
    amx_put_rows(sum, 2);

AMX_DEFINE(2, 2)
AMX_DEFINE(2, 1)
AMX_DEFINE(1, 2)
AMX_DEFINE(1, 1)

/* C (16 rows, 64 columns) = A B for few rows and COLUMNS x 16 columns, the whole width of a panel: memory gives more of
 * it side by side than of two strips.  right, other: where 32 k of them are, and the next 32 k go. */
#define AMX_DEFINE_FEW(COLUMNS)                                                                        \
    static LANES_UNUSED __attribute__((noinline)) void amx_few_##COLUMNS(                              \
        const char *left, char *right, char *other, ptrdiff_t steps, float *c, const amx_source *here, \
        const amx_source *next, amx_sum *sum)                                                          \
    {                                                                                                  \
        char *to;                                                                                      \
        AMX_ZERO(0);                                                                                   \
        AMX_ZERO(1);                                                                                   \
        AMX_ZERO(2);                                                                                   \
        AMX_ZERO(3);                                                                                   \
        for (ptrdiff_t s = 0; s < steps; ++s, left += AMX_PARTS * AMX_TILE, other = right, right = to) { \
            amx_source more = s + 1 < steps ? *here : *next;                                           \
            to = other;                                                                                \
            AMX_MORE(s)                                                                                \
            AMX_LOAD(4, left + 2 * AMX_TILE, 64);                                                      \
            AMX_FEW_FIRST(COLUMNS, 0) AMX_MEANWHILE(0)                                                 \
            AMX_LOAD(4, left, 64);                                                                     \
            AMX_FEW_BACK(COLUMNS, 0) AMX_MEANWHILE(1)                                                  \
            AMX_LOAD(4, left + AMX_TILE, 64);                                                          \
            AMX_FEW_AGAIN(COLUMNS, 0) AMX_MEANWHILE(2)                                                 \
            AMX_FEW_FIRST(COLUMNS, 1) AMX_MEANWHILE(3)                                                 \
            AMX_LOAD(4, left, 64);                                                                     \
            AMX_FEW_BACK(COLUMNS, 1) AMX_MEANWHILE(4)                                                  \
            AMX_FEW_FIRST(COLUMNS, 2) AMX_MEANWHILE(5)                                                 \
        }                                                                                              \
        amx_put(sum);                                                                                  \
        AMX_STORE(0, c, COLUMNS * 64);                                                                 \
        if (COLUMNS > 1) AMX_STORE(1, c + 16, COLUMNS * 64);                                           \
        if (COLUMNS > 2) AMX_STORE(2, c + 32, COLUMNS * 64);                                           \
        if (COLUMNS > 3) AMX_STORE(3, c + 48, COLUMNS * 64);                                           \
    }
#define AMX_COLUMN(nth, part) (right + (nth) * AMX_PARTS * AMX_TILE + (part) * AMX_TILE)
/* Of four right tiles the unit has room for three: the way back begins with what is there. */
#define AMX_FEW_FIRST(COLUMNS, part)                                                                   \
    AMX_LOAD(5, AMX_COLUMN(0, part), 64);                                                              \
    AMX_DOT(0, 4, 5);                                                                                  \
    if (COLUMNS > 1) { AMX_LOAD(6, AMX_COLUMN(1, part), 64); AMX_DOT(1, 4, 6); }                       \
    if (COLUMNS > 2) { AMX_LOAD(7, AMX_COLUMN(2, part), 64); AMX_DOT(2, 4, 7); }                       \
    if (COLUMNS > 3) { AMX_LOAD(5, AMX_COLUMN(3, part), 64); AMX_DOT(3, 4, 5); }
#define AMX_FEW_BACK(COLUMNS, part)                                                                    \
    if (COLUMNS > 3) { AMX_DOT(3, 4, 5); AMX_LOAD(5, AMX_COLUMN(0, part), 64); }                       \
    if (COLUMNS > 2) AMX_DOT(2, 4, 7);                                                                 \
    if (COLUMNS > 1) AMX_DOT(1, 4, 6);                                                                 \
    AMX_DOT(0, 4, 5);
#define AMX_FEW_AGAIN(COLUMNS, part)                                                                   \
    AMX_DOT(0, 4, 5);                                                                                  \
    if (COLUMNS > 1) AMX_DOT(1, 4, 6);                                                                 \
    if (COLUMNS > 2) AMX_DOT(2, 4, 7);                                                                 \
    if (COLUMNS > 3) { AMX_LOAD(5, AMX_COLUMN(3, part), 64); AMX_DOT(3, 4, 5); }

AMX_DEFINE_FEW(4)
AMX_DEFINE_FEW(3)
AMX_DEFINE_FEW(2)
AMX_DEFINE_FEW(1)

LANES_INLINE void amx_multiply(int rows, int columns, const char *left, ptrdiff_t a, char *right, ptrdiff_t steps,
                               float *c, const amx_source *here, const amx_source *next, amx_sum *sum)
{
    if (rows > AMX_ROWS && columns > AMX_ROWS)
        amx_multiply_22(left, a, right, steps, c, here, next, sum);
    else if (rows > AMX_ROWS)
        amx_multiply_21(left, a, right, steps, c, here, next, sum);
    else if (columns > AMX_ROWS)
        amx_multiply_12(left, a, right, steps, c, here, next, sum);
    else
        amx_multiply_11(left, a, right, steps, c, here, next, sum);
}

LANES_INLINE void amx_few(int columns, const char *left, char *right, char *other, ptrdiff_t steps, float *c,
                          const amx_source *here, const amx_source *next, amx_sum *sum)
{
    if (columns == 4)
        amx_few_4(left, right, other, steps, c, here, next, sum);
    else if (columns == 3)
        amx_few_3(left, right, other, steps, c, here, next, sum);
    else if (columns == 2)
        amx_few_2(left, right, other, steps, c, here, next, sum);
    else
        amx_few_1(left, right, other, steps, c, here, next, sum);
}

static const amx_source amx_none = {0};

/* C (rows, columns) (+)= A B for `steps` times 32 k.  The unit rounds at the size of what it adds to, so it starts from
 * 0: sums over a long time are rounded at their own size once for AMX_OUTER_STEPS, not for every 32 k of every part.
 * each: bytes from 16 rows of A to the next, half of those from 32 columns of B to the next. */
static LANES_UNUSED void amx_panel(const char *left, ptrdiff_t rows, char *right, ptrdiff_t columns, ptrdiff_t each,
                                   ptrdiff_t steps, float *c, ptrdiff_t ldc, int add)
{
    float room[2][4 * AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));
    amx_sum sum = {0}; /* none yet */
    int odd = 0;
    amx_begin(rows);
    for (ptrdiff_t s = 0; s < steps; s += AMX_OUTER_STEPS) {
        ptrdiff_t some = steps - s < AMX_OUTER_STEPS ? steps - s : AMX_OUTER_STEPS;
        for (ptrdiff_t j = 0; j < columns; j += 2 * AMX_ROWS) {
            const char *down = left + s * AMX_PARTS * AMX_TILE;
            int n = columns - j < 2 * AMX_ROWS ? (int)(columns - j) : 2 * AMX_ROWS;
            char *across = right + j / AMX_ROWS * each + s * 2 * AMX_PARTS * AMX_TILE;
            for (ptrdiff_t i = 0; i < rows; i += 2 * AMX_ROWS, down += 2 * each) {
                int m = rows - i < 2 * AMX_ROWS ? (int)(rows - i) : 2 * AMX_ROWS;
                float *to = c + i * ldc + j;
                for (int r = 0; r < m; ++r) {
                    __builtin_prefetch(to + r * ldc, 1, 2);
                    __builtin_prefetch(to + r * ldc + n - 1, 1, 2);
                }
                amx_multiply(m, n, down, each, across, some, room[odd], &amx_none, &amx_none, &sum);
                for (int r = 0; r < m; ++r)
                    sum.to[r] = to + r * ldc;
                amx_sums(&sum, room[odd], m, n, add || s > 0);
                odd = !odd;
            }
        }
    }
    amx_put(&sum);
    amx_end();
}

/* C[:, column...] (+)= A (rows, K) times a packed panel (K, `width` vectors), of whose columns C has so many; c: where
 * the rows of C begin.  The sums of `amx_panel`.  left: [AMX_DEPTH of K] [16 rows] ...; ring: AMX_RING bytes, the first
 * 32 k of the panel in them when this begins, those of `next` when it ends: from `at` on, if there are few rows.
 * The unit is ready (amx_begin). */
static LANES_UNUSED void amx_strips(const char *left, ptrdiff_t rows, const float *panel, int width, ptrdiff_t K,
                                    const amx_source *next, float *const *c, ptrdiff_t column, ptrdiff_t columns,
                                    int add, char *ring, ptrdiff_t *at)
{
    const ptrdiff_t each = amx_size(1, AMX_DEPTH), groups = (rows + AMX_ROWS - 1) / AMX_ROWS, ld = width * 16;
    const int few = rows <= AMX_ROWS, together = few ? width : 2;
    float room[2][4 * AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));
    amx_sum sum = {0}; /* none yet */
    int odd = 0;
    for (int j = 0; j < width; j += together) {
        int vectors = width - j < together ? width - j : together;
        int n = columns - j * 16 < vectors * 16 ? (int)(columns - j * 16) : vectors * 16;
        for (ptrdiff_t k = 0; k < K; k += AMX_DEPTH) {
            const char *down = left + k / AMX_DEPTH * groups * each;
            amx_source here = {panel + k * ld + j * 16, ld, K - k < AMX_DEPTH ? K - k : AMX_DEPTH, vectors};
            amx_source after = *next;
            ptrdiff_t steps = (here.k + AMX_K - 1) / AMX_K;
            if (k + AMX_DEPTH < K)
                after = (amx_source){here.from + AMX_DEPTH * ld, ld, K - k - AMX_DEPTH, vectors};
            else if (j + together < width)
                after = (amx_source){panel + (j + 2) * 16, ld, K, j + 3 < width ? 2 : 1};
            for (ptrdiff_t i = 0; i < rows; i += 2 * AMX_ROWS, down += 2 * each) {
                int m = rows - i < 2 * AMX_ROWS ? (int)(rows - i) : 2 * AMX_ROWS;
                for (int r = 0; r < m; ++r)
                    for (int q = 0; q < n; q += AMX_ROWS)
                        __builtin_prefetch(c[i + r] + column + j * 16 + q, 1, 3);
                if (few) {
                    amx_few(width, down, ring + *at, ring + AMX_RING / 2 - *at, steps, room[odd], &here, &after, &sum);
                    *at = steps % 2 ? AMX_RING / 2 - *at : *at;
                } else
                    amx_multiply(m, n, down, each, ring, steps, room[odd], i == 0 ? &here : &amx_none,
                                 steps > 1 && i + 2 * AMX_ROWS >= rows ? &after : &amx_none, &sum);
                for (int r = 0; r < m; ++r)
                    sum.to[r] = c[i + r] + column + j * 16;
                amx_sums(&sum, room[odd], m, n, add || k > 0);
                odd = !odd;
            }
            if (!few && steps == 1 && after.from)
                amx_cut_step(&after, ring);
        }
    }
    amx_put(&sum);
}
#else
LANES_INLINE void amx_begin(ptrdiff_t rows) {}
LANES_INLINE void amx_end(void) {}
LANES_INLINE void amx_panel(const char *left, ptrdiff_t rows, char *right, ptrdiff_t columns, ptrdiff_t each,
                            ptrdiff_t steps, float *c, ptrdiff_t ldc, int add)
{
    check(0, "no AMX");
}
LANES_INLINE void amx_strips(const char *left, ptrdiff_t rows, const float *panel, int width, ptrdiff_t K,
                             const amx_source *next, float *const *c, ptrdiff_t column, ptrdiff_t columns, int add,
                             char *ring, ptrdiff_t *at)
{
    check(0, "no AMX");
}
#endif
#endif
