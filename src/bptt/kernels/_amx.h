/* Products of float32 matrices on the AMX unit of some processors, whose operands are those of _split.h.
 *
 * Six products of parts make one of float32.  The unit rounds a sum once for 32 k, not for each, and is no less accurate
 * than the tile of _tile.h.  Splitting included, the six take a half to three quarters of the time of one there: the more
 * other numbers each meets, the less.
 */
#ifndef BPTT_AMX_H
#define BPTT_AMX_H

#include "_split.h"

/* Times 32 k before the next block of C: its rows are far apart and fall on few cache sets, half as many visits take 10%
 * less; more would not leave 2 x 16 rows and columns in the nearest cache. */
#define AMX_STEPS 8

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
        c.rows[t] = t < 2 || t == 4 ? upper : t < 6 ? lower : AMX_ROWS;
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

/* C = A (2 x 16 rows) B (2 x 16 columns), ROWS and COLUMNS of them; a: distance to the second rows.  Meanwhile the sums
 * before these go where they belong. */
#define AMX_DEFINE(ROWS, COLUMNS)                                                                      \
    static LANES_UNUSED __attribute__((noinline)) void amx_multiply_##ROWS##COLUMNS(                   \
        const char *left, ptrdiff_t a, const char *right, ptrdiff_t steps, float *c, amx_sum *sum)     \
    {                                                                                                  \
        const ptrdiff_t b = AMX_PARTS * AMX_TILE;                                                      \
        const ptrdiff_t row = COLUMNS * 64;                                                            \
        AMX_ZERO(0);                                                                                   \
        AMX_ZERO(1);                                                                                   \
        AMX_ZERO(2);                                                                                   \
        AMX_ZERO(3);                                                                                   \
        for (ptrdiff_t s = 0; s < steps; ++s, left += AMX_PARTS * AMX_TILE, right += 2 * b) {          \
            AMX_RIGHT(COLUMNS, 0)                                                                      \
            AMX_LEFT(ROWS, 2) AMX_DOTS(ROWS, COLUMNS) amx_put_rows(sum, 2);                            \
            AMX_LEFT(ROWS, 0) AMX_DOTS(ROWS, COLUMNS) amx_put_rows(sum, 2);                            \
            AMX_LEFT(ROWS, 1) AMX_DOTS(ROWS, COLUMNS) amx_put_rows(sum, 2);                            \
            AMX_RIGHT(COLUMNS, 1)                                                                      \
            AMX_DOTS(ROWS, COLUMNS) amx_put_rows(sum, 2);                                              \
            AMX_LEFT(ROWS, 0) AMX_DOTS(ROWS, COLUMNS) amx_put_rows(sum, 2);                            \
            AMX_RIGHT(COLUMNS, 2)                                                                      \
            AMX_DOTS(ROWS, COLUMNS) amx_put_rows(sum, 2);                                              \
        }                                                                                              \
        amx_put(sum);                                                                                  \
        AMX_STORE(0, c, row);                                                                          \
        if (COLUMNS > 1) AMX_STORE(1, c + 16, row);                                                    \
        if (ROWS > 1) AMX_STORE(2, c + 16 * COLUMNS * 16, row);                                        \
        if (ROWS > 1 && COLUMNS > 1) AMX_STORE(3, c + 16 * COLUMNS * 16 + 16, row);                    \
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

LANES_INLINE void amx_multiply(int rows, int columns, const char *left, ptrdiff_t a, const char *right,
                               ptrdiff_t steps, float *c, amx_sum *sum)
{
    if (rows > AMX_ROWS && columns > AMX_ROWS)
        amx_multiply_22(left, a, right, steps, c, sum);
    else if (rows > AMX_ROWS)
        amx_multiply_21(left, a, right, steps, c, sum);
    else if (columns > AMX_ROWS)
        amx_multiply_12(left, a, right, steps, c, sum);
    else
        amx_multiply_11(left, a, right, steps, c, sum);
}

/* C (rows, columns) (+)= A B for `steps` times 32 k.  The unit rounds at the size of what it adds to, so it starts from
 * 0: sums over a long time are rounded at their own size once for AMX_STEPS, not for every 32 k of every part.
 * each: bytes from 16 rows of A to the next, half of those from 32 columns of B to the next. */
static LANES_UNUSED void amx_panel(const char *left, ptrdiff_t rows, const char *right, ptrdiff_t columns,
                                   ptrdiff_t each, ptrdiff_t steps, float *c, ptrdiff_t ldc, int add)
{
    float room[2][4 * AMX_ROWS * AMX_ROWS] __attribute__((aligned(64)));
    amx_sum sum = {0}; /* none yet */
    int odd = 0;
    amx_begin(rows);
    for (ptrdiff_t s = 0; s < steps; s += AMX_STEPS) {
        ptrdiff_t some = steps - s < AMX_STEPS ? steps - s : AMX_STEPS;
        for (ptrdiff_t j = 0; j < columns; j += 2 * AMX_ROWS) {
            const char *down = left + s * AMX_PARTS * AMX_TILE;
            int n = columns - j < 2 * AMX_ROWS ? (int)(columns - j) : 2 * AMX_ROWS;
            const char *across = right + j / AMX_ROWS * each + s * 2 * AMX_PARTS * AMX_TILE;
            for (ptrdiff_t i = 0; i < rows; i += 2 * AMX_ROWS, down += 2 * each) {
                int m = rows - i < 2 * AMX_ROWS ? (int)(rows - i) : 2 * AMX_ROWS;
                float *to = c + i * ldc + j;
                for (int r = 0; r < m; ++r) {
                    __builtin_prefetch(to + r * ldc, 1, 2);
                    __builtin_prefetch(to + r * ldc + n - 1, 1, 2);
                }
                amx_multiply(m, n, down, each, across, some, room[odd], &sum);
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
#else
LANES_INLINE void amx_panel(const char *left, ptrdiff_t rows, const char *right, ptrdiff_t columns, ptrdiff_t each,
                            ptrdiff_t steps, float *c, ptrdiff_t ldc, int add)
{
    check(0, "no AMX");
}
#endif
#endif
